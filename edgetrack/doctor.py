"""What this machine can run: versions, OpenCV's abilities, every backend, the models that ship and their soundness."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edgetrack
from edgetrack.errors import BundleError, MissingDependencyError

if TYPE_CHECKING:
    from edgetrack_runtimes import BackendStatus


@dataclass(frozen=True)
class ModelCheck:
    """A shipped model: whether its manifest, files and hashes are in order, and if not, why."""

    name: str
    sound: bool
    reason: str
    bytes: int | None


@dataclass(frozen=True)
class Diagnosis:
    """All of it.

    Attributes:
        opencv: version and abilities, or None; then `opencv_reason` says what to install.
    """

    edgetrack: str
    python: str
    system: str
    processor: str
    packages: dict[str, str]
    opencv: dict[str, str | bool] | None
    opencv_reason: str
    backends: tuple[BackendStatus, ...]
    models: tuple[ModelCheck, ...]

    def as_json(self) -> dict[str, object]:
        """The diagnosis as JSON values, with a schema name and version in front."""
        return {"schema": "edgetrack.doctor", "version": 1, **asdict(self)}


def diagnose() -> Diagnosis:
    """Look at everything; loads every runtime that is installed and reads every shipped model."""
    import numpy as np
    import pydantic

    from edgetrack_runtimes import discover

    opencv, opencv_reason = None, ""
    try:
        opencv = _opencv()
    except MissingDependencyError as error:
        opencv_reason = str(error)
    return Diagnosis(
        edgetrack=edgetrack.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor(),
        packages={"numpy": np.__version__, "pydantic": pydantic.VERSION},
        opencv=opencv,
        opencv_reason=opencv_reason,
        backends=tuple(discover()),
        models=tuple(_models()),
    )


def processor() -> str:
    """The board's name where the device tree has one (Jetson, Raspberry Pi), else the processor's."""
    board = Path("/proc/device-tree/model")
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text(errors="replace"))):
        return found[1].strip()
    return platform.processor() or platform.machine()


def _opencv() -> dict[str, str | bool]:
    from edgetrack.imaging import import_cv2
    from edgetrack.sources import has_gstreamer

    cv2 = import_cv2()
    ffmpeg = bool(cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG))
    return {"version": cv2.__version__, "ffmpeg": ffmpeg, "gstreamer": has_gstreamer()}


def _models() -> list[ModelCheck]:
    from edgetrack.bundle import find_model, read_bundle, shipped_models

    checks = []
    for name in shipped_models():
        try:
            manifest = read_bundle(find_model(name)).manifest
        except BundleError as error:
            checks.append(ModelCheck(name, False, str(error), None))
        else:
            checks.append(ModelCheck(name, True, "", sum(f.bytes for f in manifest.files.values())))
    return checks
