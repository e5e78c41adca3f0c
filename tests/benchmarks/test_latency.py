"""What a latency record holds; energy from a made sysfs."""

from __future__ import annotations

import itertools
import json
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import latency
from benchmarks.cli import app
from benchmarks.contenders import Answer
from benchmarks.energy import EnergyMeter
from benchmarks.latency import Plan, there_and_back


def test_frames_are_walked_without_a_jump() -> None:
    assert list(itertools.islice(there_and_back(4), 9)) == [1, 2, 3, 2, 1, 0, 1, 2, 3]


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def test_rapl_counts_packages_and_wraps(tmp_path: Path) -> None:
    zones = tmp_path / "class" / "powercap"
    for package, begin in ((0, 1_000_000), (1, 9_000_000)):
        write(zones / f"intel-rapl:{package}" / "energy_uj", begin)
        write(zones / f"intel-rapl:{package}" / "max_energy_range_uj", 10_000_000)
    write(zones / "intel-rapl:0:0" / "energy_uj", 5)  # the cores are a part of package 0
    meter = EnergyMeter(tmp_path)
    with meter:
        write(zones / "intel-rapl:0" / "energy_uj", 3_500_000)
        write(zones / "intel-rapl:1" / "energy_uj", 500_000)  # started again after 10 J
        write(zones / "intel-rapl:0:0" / "energy_uj", 2_000_005)
    assert meter.source == "rapl"
    assert meter.joules == pytest.approx(2.5 + 1.5)


def test_a_platform_is_not_counted_beside_its_packages(tmp_path: Path) -> None:
    zones = tmp_path / "class" / "powercap"
    for number, name in enumerate(("package-0", "psys")):
        write(zones / f"intel-rapl:{number}" / "name", name)
        write(zones / f"intel-rapl:{number}" / "energy_uj", 0)
    meter = EnergyMeter(tmp_path)
    with meter:
        write(zones / "intel-rapl:0" / "energy_uj", 10_000_000)
        write(zones / "intel-rapl:1" / "energy_uj", 15_000_000)
    assert meter.joules == pytest.approx(15)


@pytest.mark.parametrize(
    ("chips", "amperes"),
    [
        ([("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")], 2),
        # AGX Orin's three stand side by side; its memory hangs on the last of them.
        ([("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("NC", "VDDQ_VDD2_1V8AO", "NC")], 2 + 3 + 4),
        ([("GPU", "CPU", "SOC"), ("CV", "VDDRQ", "SYS5V")], 2 * (2 + 3 + 4)),  # AGX Xavier
    ],
)
def test_rails_of_a_jetson_that_make_up_its_power_are_integrated(
    tmp_path: Path, chips: list[tuple[str, ...]], amperes: int
) -> None:
    for address, labels in enumerate(chips):
        rails = tmp_path / "bus" / "i2c" / "drivers" / "ina3221" / f"1-004{address}" / "hwmon" / f"hwmon{address}"
        for number, label in enumerate(labels, 1):
            write(rails / f"in{number}_label", label)
            write(rails / f"in{number}_input", 5000)
            write(rails / f"curr{number}_input", 1000 * (number + 1))
    meter = EnergyMeter(tmp_path)
    started = time.perf_counter()
    with meter:
        time.sleep(0.05)
        inside = time.perf_counter() - started
    elapsed = time.perf_counter() - started
    assert meter.source == "ina3221"
    assert 0.5 * 5 * amperes * inside < meter.joules <= 5 * amperes * elapsed


def test_a_board_without_counters_has_no_energy(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    with meter:
        pass
    assert (meter.source, meter.joules) == (None, None)


def test_record_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ["latency", str(bundle), "--backend", "onnxruntime-cpu", "--threads", "1", "--frames", "12"]
    result = CliRunner().invoke(app, [*arguments, "--warmup", "2", "--size", "160x120", "--json", str(out)])
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert content["schema"] == "edgetrack.benchmarks.latency"
    assert (content["frames"], content["frame_size"], content["threads"]) == (12, [160, 120], 1)
    update = content["update_ms"]
    assert 0 < update["p50"] <= update["p95"] <= update["p99"]
    stages = {name: values["mean"] for name, values in content["stages_ms"].items()}
    assert set(stages) == {"crop", "graph", "postprocess", "template"}
    assert sum(stages.values()) <= update["mean"] + 1e-3
    assert content["overhead_ms"]["mean"] == pytest.approx(update["mean"] - stages["graph"], abs=1e-3)
    assert content["disk_bytes"] == sum(p.stat().st_size for p in bundle.iterdir() if p.name != "manifest.json")
    assert content["memory_mib"]["peak"] >= content["memory_mib"]["before"]
    assert content["placement"].keys() == {"CPUExecutionProvider"}


def test_what_a_contender_takes_is_told_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 2 s as it is made, 0.5 s as it is given a target, and 0.1 s as it is asked, but for
    the first 4 times, in which it takes 0.3 s; on two cores."""
    clock, asked = [0.0], []

    class Slow:
        label = "slow"
        identity: dict = {"kind": "slow"}  # noqa: RUF012

        def __init__(self) -> None:
            clock[0] += 2.0

        def init(self, frame: np.ndarray, box: object) -> None:
            clock[0] += 0.5

        def update(self, frame: np.ndarray) -> Answer:
            asked.append(frame)
            seconds = 0.3 if len(asked) <= 4 else 0.1
            clock[0] += seconds
            return Answer((0, 0, 1, 1), 0.5, True, seconds)

    monkeypatch.setattr(latency, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(latency, "process_time", lambda: 2 * clock[0])
    monkeypatch.setattr(latency, "_frames", lambda plan: (list(np.zeros((9, 6, 8, 3), np.uint8)), (0, 0, 1, 1)))
    spec: Any = SimpleNamespace(make=Slow, threads=2)
    found = latency._measure(spec, Plan(frames=10, warmup=3))
    assert len(asked) == 1 + 3 + 10
    assert found["load_ms"] == pytest.approx(2000)
    assert found["first_update_ms"] == pytest.approx(300)
    assert found["cold_start_ms"] == pytest.approx(2000 + 500 + 300)
    assert found["init_ms"]["p50"] == pytest.approx(500)
    assert found["update_ms"] == pytest.approx(dict.fromkeys(("mean", "p50", "p95", "p99", "max"), 100))
    assert found["processor_ms"] == pytest.approx(200)


def test_the_files_of_other_precisions_are_not_needed() -> None:
    files = {"fp32/a.onnx": 70, "fp32/w.bin": 300, "int8/a.onnx": 29, "int8/w.bin": 80}
    manifest = SimpleNamespace(files={name: SimpleNamespace(bytes=size) for name, size in files.items()})
    for variant, expected in (("fp32", 370), ("int8", 109)):
        model = SimpleNamespace(manifest=manifest, variant=variant)
        contender: Any = SimpleNamespace(tracker=SimpleNamespace(model=model))
        assert latency.disk_bytes(contender) == expected


def test_memory_is_told_in_mebibytes() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert latency.memory() == pytest.approx(pages * resource.getpagesize() / 2**20, rel=0.2)
    assert latency.memory(peak=True) >= latency.memory()


def test_options_are_checked() -> None:
    for option, value in (("--size", "640"), ("--size", "ax b"), ("--size", "640x63"), ("--cores", "0;1")):
        result = CliRunner().invoke(app, ["latency", "opencv:mil", option, value])
        assert result.exit_code == 2
        assert option in result.output


def test_cores_that_are_not_there_are_refused() -> None:
    result = CliRunner().invoke(app, ["latency", "opencv:mil", "--cores", "9999"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no core 9999 for this process; it may use ")
