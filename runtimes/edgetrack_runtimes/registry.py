"""The backends by name: which there are, which work here, and a session on one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgetrack_runtimes import onnxruntime_session, openvino_session
from edgetrack_runtimes.errors import BackendUnavailableError, GraphError
from edgetrack_runtimes.session import Session, SessionOptions

BACKENDS: tuple[str, ...] = (
    "onnxruntime-tensorrt",
    "onnxruntime-cuda",
    "openvino-gpu",
    "openvino-npu",
    "onnxruntime-cpu",
    "openvino-cpu",
)
"""Every backend, the one to prefer first."""


class _Runtime(Protocol):
    """What a runtime's module offers."""

    def version(self) -> str | None: ...

    def devices(self, backend: str) -> tuple[str, ...]: ...

    def int8_is_faster(self, backend: str) -> bool: ...

    def open_session(self, backend: str, graph: Path, options: SessionOptions) -> Session: ...


_RUNTIMES: dict[str, _Runtime] = {"onnxruntime": onnxruntime_session, "openvino": openvino_session}


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend works here; if not, the reason says why and what to install or do."""

    backend: str
    available: bool
    reason: str
    runtime_version: str | None
    devices: tuple[str, ...]


def discover() -> list[BackendStatus]:
    """The status of every backend, in the order of `BACKENDS`. Loads each runtime and asks its devices."""
    return [_status(backend) for backend in BACKENDS]


def int8_is_faster(backend: str) -> bool:
    """Whether INT8 graphs are faster than FP32 ones on this backend, as far as its release decides that; not so on a
    GPU, whose FP32 is fast already.

    Raises `BackendUnavailableError`: not known, or its runtime is not installed.
    """
    runtime = _runtime(backend)
    return backend.endswith("-cpu") and runtime.int8_is_faster(backend)


def open_session(backend: str, graph: str | Path, options: SessionOptions | None = None) -> Session:
    """Compile the ONNX file `graph` for `backend`.

    Raises `BackendUnavailableError` (not known, not installed, no device), `GraphError` (missing, unreadable, dynamic
    shapes), `PlacementError` (nodes would run elsewhere) and `BackendError` (an option the backend cannot do).
    """
    runtime = _runtime(backend)
    path = Path(graph)
    if not path.is_file():
        raise GraphError(f"{path}: no such file; expected an ONNX graph")
    return runtime.open_session(backend, path, options or SessionOptions())


def _runtime(backend: str) -> _Runtime:
    if backend not in BACKENDS:
        raise BackendUnavailableError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    return _RUNTIMES[backend.split("-")[0]]


def _status(backend: str) -> BackendStatus:
    runtime = _runtime(backend)
    try:
        found = runtime.devices(backend)
    except BackendUnavailableError as error:
        return BackendStatus(backend, False, str(error), runtime.version(), ())
    return BackendStatus(backend, True, "", runtime.version(), found)
