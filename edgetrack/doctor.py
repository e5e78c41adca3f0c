"""What this machine can run: versions, OpenCV's abilities, every backend, the models that ship and their soundness."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import edgetrack
from edgetrack.errors import BundleError, EdgeTrackError, MissingDependencyError, WrongAnswerError
from edgetrack.reporting import Latencies
from edgetrack.scene import Scene

if TYPE_CHECKING:
    from edgetrack.model import Model
    from edgetrack.scene import SceneFrame
    from edgetrack_runtimes import BackendStatus


SIZE = (640, 360)
"""Pixels of the film that updates are timed on."""
WARM_UP, TIMED = 5, 25
"""Updates that are not counted, and those that are."""


@dataclass(frozen=True)
class Run:
    """One model on one backend, asked for its answer to `edgetrack.known_answer`.

    Attributes:
        reason: why it was not loaded or its answer refused; "" for nothing.
        wrong: whether it ran and answered wrongly. A precision that a device does not have is refused, not wrong.
        update_ms: the median time of an update in a drawn film of `SIZE`, with the threads that the runtime takes; None
            where there is a reason.
    """

    backend: str
    precision: str
    reason: str
    wrong: bool = False
    update_ms: float | None = None


@dataclass(frozen=True)
class ModelCheck:
    """A model: whether its manifest, files and hashes are in order, and if not, why.

    Attributes:
        name: a shipped one's name, or the path of a bundle.
        runs: where it was run: each backend that answers, in each precision variant, and a GPU or NPU in fp16, too.
    """

    name: str
    sound: bool
    reason: str
    bytes: int | None
    runs: tuple[Run, ...] = ()

    @property
    def runs_rightly(self) -> bool:
        """Whether no backend answers wrongly, and each answers in one precision at least."""
        answering = {run.backend for run in self.runs if not run.reason}
        return not any(run.wrong or run.backend not in answering for run in self.runs)


@dataclass(frozen=True)
class Diagnosis:
    """All of it.

    Attributes:
        opencv: version and abilities, or None; then `opencv_reason` says what to install.
        doubled: modules that several installed packages bring, with these: the last one's files lie over the others'.
    """

    edgetrack: str
    python: str
    system: str
    processor: str
    packages: dict[str, str]
    opencv: dict[str, str | bool] | None
    opencv_reason: str
    doubled: dict[str, tuple[str, ...]]
    backends: tuple[BackendStatus, ...]
    models: tuple[ModelCheck, ...]

    def as_json(self) -> dict[str, object]:
        """The diagnosis as JSON values, with a schema name and version in front."""
        return {"schema": "edgetrack.doctor", "version": 1, **asdict(self)}


def diagnose(models: Sequence[str] | None = None, *, run: bool = False) -> Diagnosis:
    """Look at everything; loads every runtime that is installed and reads every model.

    Args:
        models: shipped names and bundles' paths; None for all that ship.
        run: also run every model on every backend that answers; see `ModelCheck.runs`.
    """
    import numpy as np
    import pydantic

    from edgetrack_runtimes import discover

    opencv, opencv_reason = None, ""
    try:
        opencv = _opencv()
    except MissingDependencyError as error:
        opencv_reason = str(error)
    backends = tuple(discover())
    return Diagnosis(
        edgetrack=edgetrack.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor(),
        packages={"numpy": np.__version__, "pydantic": pydantic.VERSION},
        opencv=opencv,
        opencv_reason=opencv_reason,
        doubled=_doubled(),
        backends=backends,
        models=tuple(_models(models, [status.backend for status in backends if status.available] if run else [])),
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


def _doubled() -> dict[str, tuple[str, ...]]:
    owners = packages_distributions()
    brought = {module: tuple(sorted(set(owners.get(module, ())))) for module in ("cv2", "onnxruntime")}
    return {module: names for module, names in brought.items() if len(names) > 1}


def _models(models: Sequence[str] | None, backends: list[str]) -> list[ModelCheck]:
    from edgetrack.bundle import find_model, read_bundle, shipped_models

    checks = []
    for name in shipped_models() if models is None else models:
        try:
            manifest = read_bundle(find_model(name)).manifest
        except BundleError as error:
            checks.append(ModelCheck(name, False, str(error), None))
        else:
            runs = tuple(
                _run(name, backend, precision)
                for backend in backends
                for precision in _precisions(backend, manifest.variants)
            )
            checks.append(ModelCheck(name, True, "", sum(f.bytes for f in manifest.files.values()), runs))
    return checks


def _precisions(backend: str, variants: Iterable[str]) -> list[str]:
    """What to ask a backend for: the variants, and half precision, for which GPUs and NPUs are made."""
    variants = list(variants)
    also = [] if backend.endswith("-cpu") else ["fp16", *(["int8+fp16"] if "int8" in variants else [])]
    return list(dict.fromkeys((*variants, *also)))


def _run(name: str, backend: str, precision: str) -> Run:
    try:
        with edgetrack.load(name, backend, precision) as model:
            return Run(backend, precision, "", update_ms=_update_ms(model))
    except EdgeTrackError as error:
        return Run(backend, precision, str(error), isinstance(error, WrongAnswerError))


def _update_ms(model: Model) -> float:
    first, *film = _film()
    tracker = edgetrack.Tracker(model)
    tracker.init(first.image, first.box)
    latencies = Latencies()
    for index, frame in enumerate(film):
        found = tracker.update(frame.image)
        if index >= WARM_UP:
            latencies.add(found.latency_ms)
    return latencies.median


@cache
def _film() -> tuple[SceneFrame, ...]:
    return tuple(Scene(0, SIZE).frames(1 + WARM_UP + TIMED))
