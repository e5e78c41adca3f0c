"""Energy, where the board counts it: Intel's and AMD's RAPL counters, or the power monitors of a Jetson.

Everything is read from sysfs. Linux gives RAPL to root alone; a counter that cannot be read counts as none.
"""

from __future__ import annotations

import threading
from pathlib import Path
from time import perf_counter

_SAMPLE_SECONDS = 0.02
_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails of a Jetson that feed the whole module: the others are parts of it."""
_PARTS = ("VDDQ_VDD2_1V8AO", "NC")
"""Where there is no such rail, as on the AGX series, the rails stand side by side, but for the memory's, which AGX Orin
takes from VIN_SYS_5V0, and channels that are not connected."""


class EnergyMeter:
    """Joules between entering and leaving the ``with`` block: of the whole board or processor, idle power included.

    Attributes:
        source: "rapl", "ina3221" (Jetson), or None where nothing can be read.
        joules: after the block; None without a source.
    """

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self.joules: float | None = None
        self._counters = _counters(sysfs)
        self._rails = _rails(sysfs)
        self.source = "rapl" if self._counters else "ina3221" if self._rails else None

    def __enter__(self) -> EnergyMeter:
        self._begin = [_number(path) for path in self._counters]
        self._stop = threading.Event()
        self._sampled = 0.0
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        if not self._counters and self._rails:
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._counters:
            self.joules = sum(
                _counted(path, begin, _number(path)) for path, begin in zip(self._counters, self._begin, strict=True)
            )
        elif self._rails:
            self._stop.set()
            self._sampler.join()
            self.joules = self._sampled

    def _sample(self) -> None:
        last = perf_counter()
        while True:
            stopped = self._stop.wait(_SAMPLE_SECONDS)
            watts = sum(_number(volts) * _number(amperes) for volts, amperes in self._rails) / 1e6
            now = perf_counter()
            self._sampled += watts * (now - last)
            last = now
            if stopped:
                return


def _counted(path: Path, begin: float, end: float) -> float:
    """Joules between two readings in microjoules of a counter that starts again after its range."""
    if end < begin:
        end += _number(path.with_name("max_energy_range_uj"))
    return (end - begin) / 1e6


def _counters(sysfs: Path) -> list[Path]:
    """That of the platform where there is one, since it holds the packages; else those of all packages."""
    zones = [path for path in sorted(sysfs.glob("class/powercap/intel-rapl:[0-9]/energy_uj")) if _readable(path)]
    return [path for path in zones if _name(path.with_name("name")) == "psys"] or zones


def _rails(sysfs: Path) -> list[tuple[Path, Path]]:
    """Voltage in mV and current in mA of the rails that make up the board's power."""
    found = [
        (_name(volts.with_name(f"in{volts.name[2]}_label")), volts, amperes)
        for volts in sorted(sysfs.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_input"))
        if _readable(volts) and _readable(amperes := volts.with_name(f"curr{volts.name[2]}_input"))
    ]
    inputs = [(volts, amperes) for name, volts, amperes in found if name in _INPUTS]
    return inputs or [(volts, amperes) for name, volts, amperes in found if name and name not in _PARTS]


def _name(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _readable(path: Path) -> bool:
    try:
        _number(path)
    except (OSError, ValueError):
        return False
    return True


def _number(path: Path) -> float:
    return float(path.read_text())
