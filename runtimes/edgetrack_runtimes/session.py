"""The contract of a session: a compiled graph that takes named arrays and returns named arrays, on one device.

`Session` and `DeviceTensor` are what callers see. `Engine` is what a runtime has to provide; `EngineSession` puts the
checking of tensors and the life cycle in front of it, so that every backend refuses the same things in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgetrack_runtimes.errors import BackendError, SessionClosedError, TensorError

Array: TypeAlias = NDArray[Any]

PRECISIONS = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class TensorSpec:
    """The name, fixed shape and numpy dtype name ("float32", "int64", ...) of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class SessionOptions:
    """How to run a graph; every backend understands all of it, or raises `BackendError`.

    threads: CPU threads that one run may use; None lets the runtime choose. A GPU or NPU uses none.
    precision: the arithmetic of float layers. "auto" is the graph's own float32, on every device that has it; "fp16"
        and "bf16" trade accuracy for speed. Integer layers are not touched. The tensors keep their dtypes.
    cache_dir: where compiled engines are kept between processes, in one folder per graph, runtime and device. Without
        it only TensorRT's are, which take minutes, in `edgetrack_runtimes.cache.user_cache`.
    allow_fallback: let other providers or devices run what the backend's own cannot, instead of `PlacementError`.
    """

    threads: int | None = None
    precision: str = "auto"
    cache_dir: Path | None = None
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BackendError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.threads is not None and self.threads < 1:
            raise BackendError(f"threads is {self.threads}; expected at least 1, or None to let the runtime choose")


class DeviceTensor(Protocol):
    """A value copied once to a session's device, to be fed to that session any number of times."""

    @property
    def spec(self) -> TensorSpec: ...

    def numpy(self) -> Array:
        """A fresh copy on the host."""


class Session(Protocol):
    """A compiled graph. `run` may be called from several threads at once."""

    @property
    def backend(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def placement(self) -> Mapping[str, int]:
        """Nodes per execution provider (ONNX Runtime) or device (OpenVINO), as the runtime reports them."""

    @property
    def runtime_version(self) -> str: ...

    def upload(self, name: str, value: Array) -> DeviceTensor:
        """Copy a value for input `name` to the device; raises `TensorError`, `SessionClosedError`."""

    def run(self, feeds: Mapping[str, Array | DeviceTensor]) -> dict[str, Array]:
        """All outputs, as fresh arrays that the caller owns.

        Takes every input by name, with exactly its shape and dtype; any strides. Raises `TensorError` for a feed that
        does not fit, `GraphError` if the runtime fails, `SessionClosedError` after `close`.
        """

    def close(self) -> None:
        """Release the graph; may be called again. A run in another thread finishes first, and keeps its result."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A runtime's compiled graph. Values it is given fit the inputs; `run` must be safe to call from many threads."""

    def put(self, array: Array) -> Any:
        """The runtime's own tensor on the device, from an array that nobody else writes to."""

    @staticmethod
    def get(tensor: Any) -> Array:
        """A fresh host copy of what `put` returned."""

    def run(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name, fresh; each value is a C-contiguous array or what `put` returned."""


@dataclass(frozen=True, eq=False)
class UploadedTensor:
    """The `DeviceTensor` of an `EngineSession`; it does not keep a closed session's graph in memory."""

    spec: TensorSpec
    session: EngineSession
    tensor: Any
    get: Callable[[Any], Array]

    def numpy(self) -> Array:
        return self.get(self.tensor)


class EngineSession:
    """The `Session` of every backend: checks what comes in, then lets the engine run it."""

    def __init__(
        self,
        engine: Engine,
        *,
        backend: str,
        graph: Path,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        placement: Mapping[str, int],
        runtime_version: str,
    ) -> None:
        self.backend = backend
        self.graph = graph
        self.inputs = inputs
        self.outputs = outputs
        self.placement = placement
        self.runtime_version = runtime_version
        self._engine: Engine | None = engine

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else dict(self.placement)
        return f"<Session {self.graph.name} on {self.backend}: {state}>"

    def upload(self, name: str, value: Array) -> UploadedTensor:
        engine = self._open_engine()
        if name not in self.inputs:
            raise TensorError(f"{self._label}: no input {name!r}; its inputs are {_listed(self.inputs)}")
        spec = self.inputs[name]
        # The copy is what makes later writes to `value` harmless where the device is the host itself.
        return UploadedTensor(spec, self, engine.put(np.array(self._checked(spec, value), order="C")), engine.get)

    def run(self, feeds: Mapping[str, Array | DeviceTensor]) -> dict[str, Array]:
        # A local reference: close() in another thread drops the session's, and the engine lives until this run ends.
        engine = self._open_engine()
        if feeds.keys() != self.inputs.keys():
            missing = [name for name in self.inputs if name not in feeds]
            unknown = [name for name in feeds if name not in self.inputs]
            wrong = [f"missing {_listed(missing)}"] * bool(missing) + [f"unknown {_listed(unknown)}"] * bool(unknown)
            raise TensorError(f"{self._label}: {' and '.join(wrong)}; its inputs are {_listed(self.inputs)}")
        return engine.run({name: self._value(spec, feeds[name]) for name, spec in self.inputs.items()})

    def close(self) -> None:
        self._engine = None

    def __enter__(self) -> EngineSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _label(self) -> str:
        return f"{self.graph.name} on {self.backend}"

    def _open_engine(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise SessionClosedError(f"{self._label} is closed; load the model, or open the session, again")
        return engine

    def _value(self, spec: TensorSpec, value: Array | DeviceTensor) -> Any:
        """What the engine takes for input `spec`."""
        if not isinstance(value, UploadedTensor):
            return np.asarray(self._checked(spec, value), order="C")
        if value.session is not self:
            raise TensorError(
                f"{self._label}: input {spec.name!r} was uploaded to another session; "
                "upload it to this one, or feed the array itself"
            )
        if (value.spec.shape, value.spec.dtype) != (spec.shape, spec.dtype):
            raise TensorError(
                f"{self._label}: input {spec.name!r} is {spec}, received a tensor uploaded as {value.spec.name!r}, "
                f"{value.spec}"
            )
        return value.tensor

    def _checked(self, spec: TensorSpec, value: object) -> Array:
        if not isinstance(value, np.ndarray):
            raise TensorError(
                f"{self._label}: input {spec.name!r} is {spec}, received a {type(value).__name__}; "
                "expected a numpy array or a tensor from this session's upload()"
            )
        # Comparing dtypes, not their names, catches byte-swapped arrays too: both kinds are called "float32".
        if value.dtype != np.dtype(spec.dtype):
            raise TensorError(
                f"{self._label}: input {spec.name!r} is {spec}, received dtype {value.dtype}; "
                f"nothing is cast silently, convert it with .astype({spec.dtype!r})"
            )
        if value.shape != spec.shape:
            raise TensorError(f"{self._label}: input {spec.name!r} is {spec}, received shape {value.shape}")
        return value


def _listed(names: Mapping[str, TensorSpec] | list[str]) -> str:
    """Names for a message, with their specs where they are known."""
    if isinstance(names, Mapping):
        return ", ".join(f"{name!r} ({spec})" for name, spec in names.items()) or "none"
    return ", ".join(map(repr, names))
