"""The JSON in which every measurement is kept: what was measured, with what, on what, when and by which command."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import typer

from benchmarks.results import ResultsError, replacing

VERSION = 1
HEAD = ("date", "command", "hardware", "versions", "load_average")
"""What `record` puts in front of every kind's content."""
CONTENT: dict[str, tuple[str, ...]] = {
    "accuracy": ("contender", "threads", "dataset", "protocol", "headline", "metrics", "sequences", "update_ms"),
    "peers": ("contenders",),
    "latency": ("contender", "threads", "update_ms", "memory_mib"),
    "parity": ("model", "reference", "dataset", "entries"),
    "realtime": ("contender", "dataset", "entries"),
    "conditions": ("contender", "dataset", "entries"),
    "ratios": ("entries",),
    "precisions": ("entries",),
    "ablations": ("recipe", "settings", "pairs", "dataset", "rows"),
}
"""What pages and tables show of a kind's content."""
PACKAGES = ("edgetrack", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch")


def record(kind: str, **content: Any) -> dict[str, Any]:
    """A record of one measurement, of the given kind, with the date, the command, hardware and versions in front."""
    return {
        "schema": f"edgetrack.benchmarks.{kind}",
        "version": VERSION,
        "date": now(),
        "command": command(sys.argv),
        "hardware": hardware(),
        "versions": versions(),
        "load_average": load_average(),
        **content,
    }


def now() -> str:
    """The time of day, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command(arguments: list[str]) -> str:
    """What was typed, less the folders above the place it was typed at."""
    given = [
        os.path.relpath(word) if os.path.isabs(word) and Path(word).is_relative_to(Path.cwd()) else word
        for word in arguments[1:]
    ]
    return shlex.join(["python", "-m", "benchmarks", *given])


def hardware() -> dict[str, Any]:
    """The machine: its processor or board, NVIDIA's GPUs, how many cores this process may use, memory."""
    from edgetrack.doctor import processor

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "gpus": gpus(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "architecture": platform.machine(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "system": f"{platform.system()} {platform.release()}",
    }


def gpus() -> list[str]:
    """Names of NVIDIA's GPUs and their driver, as its own tool gives them; none where that does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return [line.replace(", ", ", driver ") for line in found.stdout.splitlines()] if found.returncode == 0 else []


def processors(hardware: dict[str, Any]) -> str:
    """What a record's machine computes with, in words. Older records do not name GPUs."""
    return ", ".join([hardware["processor"], *hardware.get("gpus", ())])


def machine(hardware: dict[str, Any]) -> str:
    """The same with how many cores there were: records of which this is equal can be compared by their times."""
    return f"{processors(hardware)}, {hardware['cores']} cores"


def versions() -> dict[str, str]:
    """Python's, and those of the packages that the figures depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    from edgetrack.imaging import import_cv2

    found["opencv"] = import_cv2().__version__
    return found


def load_average() -> float:
    """Processes that wanted a core in the last minute: above the number of cores, times are not this device's."""
    return round(os.getloadavg()[0], 2)


def writable(target: str | None) -> str | None:
    """The target of `write`, to be asked before anything is measured for it; the folder of a file is made.

    Raises:
        ResultsError: nothing can be written there.
    """
    if target is None or target == "-":
        return target
    path = Path(target)
    try:
        if path.is_dir():
            raise ResultsError(f"--json {target}: is a folder; expected a file to write the record to, or - for stdout")
        if not _is_device(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(target, error) from None
    return target


def write(content: dict[str, Any], target: str | None) -> None:
    """Write a record to a file, to standard output for ``-``, or nowhere for None.

    Raises:
        ResultsError: it cannot be written.
    """
    if target is None:
        return
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    if target == "-":
        typer.echo(text)
        return
    try:
        if _is_device(path := Path(target)):
            path.write_text(text + "\n")
            return
        with replacing(path.resolve()) as partial:
            partial.write_text(text + "\n")
    except OSError as error:
        raise _unwritable(target, error) from None


def _is_device(path: Path) -> bool:
    """Whether it is a pipe, a terminal or the like, which is written to and not replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _unwritable(target: str, error: OSError) -> ResultsError:
    return ResultsError(f"--json {target}: cannot be written ({error.strerror}); give another file, or - for stdout")


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Records from JSON files.

    Raises:
        ResultsError: a file is not one, not a whole one, or was written for another version.
    """
    found = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path}: not a JSON record ({error})") from None
        if not isinstance(content, dict) or not str(content.get("schema", "")).startswith("edgetrack.benchmarks."):
            raise ResultsError(f"{path}: not a record of python -m benchmarks")
        if (version := content.get("version")) != VERSION:
            raise ResultsError(f"{path}: a record of version {version}; expected {VERSION}: measure again")
        expected = (*HEAD, *CONTENT.get(content["schema"].rpartition(".")[2], ()))
        if missing := [name for name in expected if name not in content]:
            raise ResultsError(f"{path}: a record without {', '.join(missing)}; expected a whole one: measure again")
        found.append(content)
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _first_line(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
