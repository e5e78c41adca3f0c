"""OpenVINO: the CPU, GPU and NPU plugins.

A model compiled for one device runs on that device or is refused; it spreads over several only if HETERO is asked for,
which is what `allow_fallback` does. Two defaults are overruled: the CPU plugin computes float graphs in bf16 where the
chip has it, and its worker threads are pinned to cores. What stays: it computes int64 in 32 bits, float64 in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgetrack_runtimes import openvino_arm, openvino_keys
from edgetrack_runtimes.cache import engine_folder
from edgetrack_runtimes.errors import BackendError, BackendUnavailableError, GraphError
from edgetrack_runtimes.placement import PlacedNode, counted, require_placement
from edgetrack_runtimes.session import Array, EngineSession, SessionOptions, TensorSpec
from edgetrack_runtimes.telemetry import import_openvino

DEVICES = {"openvino-cpu": "CPU", "openvino-gpu": "GPU", "openvino-npu": "NPU"}
_DTYPES = {"boolean": "bool"} | {
    f"{kind[0]}{bits}": f"{kind}{bits}"
    for kind, sizes in {"float": (16, 32, 64), "int": (8, 16, 32, 64), "uint": (8, 16, 32, 64)}.items()
    for bits in sizes
}
_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_INSTALL = {
    "CPU": "it needs an x86-64 or 64-bit ARM processor, and its plugin in openvino/libs, which packagers miss",
    "GPU": "it needs an Intel GPU with its compute runtime (libOpenCL.so.1, intel-opencl-icd) and access to /dev/dri",
    "NPU": "it needs an Intel NPU with its driver (intel-level-zero-npu) and access to /dev/accel",
}
_REINSTALL = "reinstall it: pip uninstall openvino, then pip install openvino"


def version() -> str | None:
    """The installed version, None if there is none."""
    try:
        return _version(_openvino("openvino-cpu"))
    except BackendUnavailableError:
        return None


def devices(backend: str) -> tuple[str, ...]:
    """The devices that answer for this backend; raises `BackendUnavailableError` with the reason if there are none."""
    _openvino(backend)
    try:
        core, device = _core(), DEVICES[backend]
        present = core.available_devices
    except Exception as error:
        raise BackendUnavailableError(
            f"{backend}: OpenVINO does not start ({_last_line(error)}); {_REINSTALL}"
        ) from error
    names = [name for name in present if name.split(".")[0] == device]
    if not names:
        raise BackendUnavailableError(
            f"{backend}: no {device} answers, only {', '.join(present) or 'none'} ({_why_not(core, device)}); "
            f"{_INSTALL[device]}"
        )
    try:
        return tuple(f"{name}: {str(core.get_property(name, 'FULL_DEVICE_NAME')).strip()}" for name in names)
    except Exception as error:  # a driver that is half there
        raise BackendUnavailableError(
            f"{backend}: {', '.join(names)} does not say what it is ({_last_line(error)}); {_INSTALL[device]}"
        ) from error


def int8_is_faster(backend: str) -> bool:
    """Whether INT8 graphs are faster than FP32 ones on a backend's CPU with the installed release: all that we take."""
    return True


def open_session(backend: str, graph: Path, options: SessionOptions) -> EngineSession:
    """Compile `graph` for the device of `backend`; the errors are those of `edgetrack_runtimes.open_session`."""
    openvino = _openvino(backend)
    found = devices(backend)
    core, device = _core(), DEVICES[backend]
    engine_dir = None
    if options.cache_dir is not None:
        engine_dir = engine_folder(
            options.cache_dir,
            graph,
            backend=backend,
            precision=options.precision,
            runtime_version=_version(openvino),
            device=found[0],
        )
    try:
        capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    except Exception as error:
        raise BackendError(f"{backend}: {device} does not say what it computes in: {_last_line(error)}") from error
    settings = properties(device, options, capabilities, engine_dir)
    try:
        model = core.read_model(str(graph))
    except Exception as error:
        raise GraphError(f"{graph}: OpenVINO cannot read it: {_last_line(error)}") from error
    if device == "CPU" and openvino_arm.misplaces_biases(_version(openvino)):
        openvino_arm.guard_biases(openvino, model)
    outputs = _specs(graph, "output", {_output_name(port): port for port in model.outputs})
    inputs = _specs(graph, "input", {_input_name(port, outputs): port for port in model.inputs})
    if device == "CPU" and openvino_keys.is_quick_with_rows(openvino):
        openvino_keys.move_rows(openvino, model)
    compiled, nodes = compiled_model(core, model, device, settings, graph, backend, options.allow_fallback)
    return EngineSession(
        OpenVinoEngine(openvino, compiled, graph, list(inputs), list(outputs)),
        backend=backend,
        graph=graph,
        inputs=inputs,
        outputs=outputs,
        placement=counted(nodes),
        runtime_version=_version(openvino),
    )


def properties(
    device: str, options: SessionOptions, capabilities: list[str], engine_dir: Path | None = None
) -> dict[str, Any]:
    """What to compile with, under OpenVINO's own names; capabilities are the device's OPTIMIZATION_CAPABILITIES.

    Raises `BackendError` for a precision that the device does not have.
    """
    chosen: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if device == "CPU":
        # A pinned thread waits for its core even when another one is idle: wrong wherever cores are shared.
        chosen["ENABLE_CPU_PINNING"] = False
        if options.threads is not None:
            chosen["INFERENCE_NUM_THREADS"] = options.threads
    # The trained numbers are float32. An NPU has no float32: there "auto" is what it has, and "fp32" is refused below.
    precision = "fp32" if options.precision == "auto" and device != "NPU" else options.precision
    if precision != "auto":
        known = {"FP32", *capabilities} - ({"FP32"} if device == "NPU" else set())
        if precision.upper() not in known:
            raise BackendError(
                f"precision {options.precision!r}: this {device} does not compute in it, only in "
                f"{', '.join(sorted(known & {'FP32', 'FP16', 'BF16', 'INT8'}))}"
            )
        chosen["INFERENCE_PRECISION_HINT"] = _TYPES[precision]
    if engine_dir is not None:
        chosen["CACHE_DIR"] = str(engine_dir)
    return chosen


def compiled_model(
    core: Any,
    model: Any,
    device: str,
    settings: Mapping[str, Any],
    graph: Path,
    backend: str,
    allow_fallback: bool,
) -> tuple[Any, list[PlacedNode]]:
    """The compiled model and where its nodes run; raises `PlacementError` naming what the device does not take."""

    def compiled_for(target: str) -> Any:
        try:
            return core.compile_model(model, target, dict(settings))
        except Exception as error:
            raise GraphError(f"{graph}: OpenVINO cannot compile it for {target}: {_last_line(error)}") from error

    try:
        compiled = compiled_for(device)
    except GraphError:
        placed = supported_nodes(core, model, device)
        if device == "CPU" or all(node.where for node in placed):
            raise
        if not allow_fallback:
            require_placement(placed, device, graph=graph.name, backend=backend)
        spread = f"HETERO:{device},CPU"
        return compiled_for(spread), supported_nodes(core, model, spread)
    executed = [name.split(".")[0] for name in compiled.get_property("EXECUTION_DEVICES")]
    nodes = executed_nodes(compiled, "+".join(sorted(set(executed))))
    if not allow_fallback:
        require_placement(nodes, device, graph=graph.name, backend=backend)
    return compiled, nodes


def executed_nodes(compiled: Any, where: str) -> list[PlacedNode]:
    """The nodes that the plugin made of the graph, after fusing and folding."""
    nodes = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        layer = str(node.get_rt_info()["layerType"].value)
        if layer not in ("Input", "Output", "Const"):
            nodes.append(PlacedNode(node.friendly_name, layer, where))
    return nodes


def supported_nodes(core: Any, model: Any, device: str) -> list[PlacedNode]:
    """The graph's nodes and the device that says it takes each, "" for none."""
    try:
        taken = core.query_model(model, device)
    except Exception as error:
        raise GraphError(f"{device} does not say what of the graph it takes: {_last_line(error)}") from error
    return [
        PlacedNode(node.friendly_name, node.get_type_name(), taken.get(node.friendly_name, "").split(".")[0])
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Parameter", "Result", "Constant")
    ]


class OpenVinoEngine:
    """A compiled model and its idle infer requests: one request serves one run at a time."""

    def __init__(self, openvino: ModuleType, compiled: Any, graph: Path, inputs: list[str], outputs: list[str]) -> None:
        self._openvino = openvino
        self._compiled = compiled
        self._graph = graph
        # By port, in the order of the graph: compiling keeps the order, not always the names.
        self._inputs = dict(zip(inputs, compiled.inputs, strict=True))
        self._outputs = dict(zip(outputs, compiled.outputs, strict=True))
        self._idle: list[Any] = []  # append and pop are atomic

    def put(self, array: Array) -> Any:
        return self._openvino.Tensor(array)

    @staticmethod
    def get(tensor: Any) -> Array:
        return np.array(tensor.data)

    def run(self, values: Mapping[str, Any]) -> dict[str, Array]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            for name, port in self._inputs.items():
                request.set_tensor(port, self._tensor(values[name]))
            request.infer()
            # The request's memory is overwritten by its next run: the copy is the caller's.
            outputs = {name: np.array(request.get_tensor(port).data) for name, port in self._outputs.items()}
        except Exception as error:
            raise GraphError(f"{self._graph}: OpenVINO failed to run it: {_last_line(error)}") from error
        self._idle.append(request)
        return outputs

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        # Shared memory is not written to, but OpenVINO takes writeable arrays only.
        return self._openvino.Tensor(value, shared_memory=value.flags.writeable)


def _specs(graph: Path, kind: str, ports: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, port in ports.items():
        shape, dtype = port.partial_shape, port.element_type.get_type_name()
        if not shape.is_static:
            raise GraphError(
                f"{graph}: {kind} {name!r} has shape {shape}; expected fixed sizes only, export it with them"
            )
        if dtype not in _DTYPES:
            raise GraphError(f"{graph}: {kind} {name!r} is {dtype}, which has no numpy dtype")
        specs[name] = TensorSpec(name, tuple(shape.to_shape()), _DTYPES[dtype])
    return specs


def _output_name(port: Any) -> str:
    """The name in the ONNX file; the port also carries those of Identity nodes that were folded into it."""
    return str(port.node.friendly_name).removesuffix("/sink_port_0")


def _input_name(port: Any, outputs: Collection[str]) -> str:
    """The name in the ONNX file; older releases rename an input that has an Identity to an output."""
    names = set(port.names) - set(outputs) or set(port.names)
    return str(port.node.friendly_name) if port.node.friendly_name in names else min(names)


def _openvino(backend: str) -> ModuleType:
    try:
        module = import_openvino()
        _version(module)
    except ImportError as error:
        raise BackendUnavailableError(
            f"{backend}: openvino cannot be imported ({error}); pip install openvino"
        ) from error
    except Exception as error:  # a folder that an uninstallation left behind is an empty package
        raise BackendUnavailableError(
            f"{backend}: the installation of openvino is broken ({_last_line(error)}); {_REINSTALL}"
        ) from error
    return module


@cache
def _core() -> Any:
    """One for the process: it holds the loaded plugins, and is thread-safe."""
    return import_openvino().Core()


def _version(openvino: ModuleType) -> str:
    return str(openvino.__version__).split("-")[0]


def _why_not(core: Any, device: str) -> str:
    try:
        core.get_property(device, "AVAILABLE_DEVICES")
    except Exception as error:
        return _last_line(error)
    return "the plugin loads and finds none"


def _last_line(error: Exception) -> str:
    """OpenVINO's messages begin with a trace of its source files and end with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
