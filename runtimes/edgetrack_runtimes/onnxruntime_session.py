"""ONNX Runtime: the CPU, CUDA and TensorRT execution providers.

ONNX Runtime falls back in four silent ways, each closed here: a provider that the wheel does not have is dropped with a
warning (`get_available_providers` is asked first), one whose libraries do not load is dropped too (`get_providers` is
asked after), a node that a provider does not take goes to the next one (the record of node placement is read), and a
run that fails on a provider is tried again on the CPU (`enable_fallback=0`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgetrack_runtimes.cache import engine_folder, user_cache
from edgetrack_runtimes.errors import BackendError, BackendUnavailableError, GraphError, one_line
from edgetrack_runtimes.half import in_half_precision
from edgetrack_runtimes.placement import PlacedNode, counted, require_placement
from edgetrack_runtimes.session import Array, EngineSession, SessionOptions, TensorSpec
from edgetrack_runtimes.telemetry import import_onnxruntime

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = {"onnxruntime-cpu": CPU, "onnxruntime-cuda": CUDA, "onnxruntime-tensorrt": TENSORRT}

# A whole ONNX graph: its float32 input of one element is its output. Enough for a provider to load and find a device.
_PROBE = (
    b"\x08\x07\x12\x00:%\x12\x01pZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"} | {
    f"tensor({name})": name
    for name in ("float16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_SEVERITY_ERROR = 3
_INTEGER_CONVOLUTIONS = (1, 23)
"""The release from which all convolutions of our INT8 graphs, whose biases are float, become integer ones. 1.22 leaves
two thirds of them in float and 1.18 all: 1.4 to 2 times the time of FP32."""

logger = logging.getLogger("edgetrack")

ZERO_POINT_AFTER_RELU = "zero_point_after_relu"
"""Begins the names, "zero_point_after_relu<0>" and so on, of the zero points of activations that come out of a ReLU."""
SCALE_AFTER_CLIP = "scale_after_clip"
"""Begins the names, "scale_after_clip<0:0.047244094>" and so on, of the scales of activations that a ReLU6 put out; the
scale itself is behind the colon. They and the zero points lie in a file beside the graph, which is what lets a session
replace them."""
SHARE_AFTER_CLIP = 127 / 255
"""Of such a scale, what ONNX Runtime on the CPU gets: all 256 integers for what the file gives the upper 128."""


def version() -> str | None:
    """The installed version, None if there is none."""
    try:
        return str(_onnxruntime("onnxruntime-cpu").__version__)
    except BackendUnavailableError:
        return None


@cache  # a device that answered once is not asked again; one that did not is
def devices(backend: str) -> tuple[str, ...]:
    """The devices that answer for this backend; raises `BackendUnavailableError` with the reason if there are none."""
    ort = _onnxruntime(backend)
    provider = PROVIDERS[backend]
    if provider == CPU:
        return ("cpu",)
    failed = (
        f"{backend}: {provider} is in the installed onnxruntime but does not load. It needs an NVIDIA driver and the "
        f"CUDA, cuDNN{' and TensorRT' * (provider == TENSORRT)} libraries of the versions that ONNX Runtime "
        f"{ort.__version__} was built for; its log on stderr names the one that is missing"
    )
    _load_libraries(ort)
    try:
        session = _create(ort, _PROBE, backend, SessionOptions(), {})
    except Exception as error:  # the binding raises its own classes, which share no base below Exception
        raise BackendUnavailableError(f"{failed} ({one_line(error)})") from error
    if provider not in session.get_providers():
        raise BackendUnavailableError(failed)
    return ("cuda:0",)


def _load_libraries(ort: ModuleType) -> None:
    """Load CUDA and cuDNN where pip puts them, if they are there: the system's loader does not look into Python's
    packages. What is not found the provider may still find; what it says of that on stdout is no news then."""
    if hasattr(ort, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def int8_is_faster(backend: str) -> bool:
    """Whether INT8 graphs are faster than FP32 ones on a backend's CPU with the installed release."""
    return _release(_onnxruntime(backend)) >= _INTEGER_CONVOLUTIONS


def open_session(backend: str, graph: Path, options: SessionOptions) -> EngineSession:
    """Compile `graph` for the provider of `backend`; the errors are those of `edgetrack_runtimes.open_session`."""
    ort = _onnxruntime(backend)
    devices(backend)
    provider = PROVIDERS[backend]
    quantized = b"QuantizeLinear" in graph.read_bytes()
    if quantized and provider == CPU:
        _warn_of_float_convolutions(ort)
    settings = provider_options(
        provider,
        options,
        quantized=quantized,
        engine_dir=_engine_dir(provider, backend, graph, options, str(ort.__version__)),
    )
    recorded = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")  # since 1.24
    with contextlib.nullcontext() if recorded else _profile_dir(backend) as profile_dir:
        replaced = constants_after_relu(graph) if provider == CPU else {}
        profile = None if profile_dir is None else Path(profile_dir)
        halved = provider == CUDA and options.precision == "fp16"
        source = in_half_precision(graph) if halved else str(graph)
        try:
            session = _create(ort, source, backend, options, settings, profile, replaced)
        except Exception as error:
            raise GraphError(f"{graph}: ONNX Runtime cannot load it: {one_line(error)}") from error
        if provider not in session.get_providers():
            raise BackendUnavailableError(f"{backend}: {provider} answers, but not for {graph}; is its memory full?")
        inputs = _specs(graph, "input", session.get_inputs())
        outputs = _specs(graph, "output", session.get_outputs())
        try:
            nodes = assigned_nodes(session) if recorded else profiled_nodes(session, inputs)
        except Exception as error:
            raise GraphError(f"{graph}: ONNX Runtime failed to run it on zeros: {one_line(error)}") from error
    if not options.allow_fallback:
        require_placement(nodes, provider, graph=graph.name, backend=backend)
    return EngineSession(
        OnnxRuntimeEngine(ort, session, graph, None if provider == CPU else "cuda", keep=replaced),
        backend=backend,
        graph=graph,
        inputs=inputs,
        outputs=outputs,
        placement=counted(nodes),
        runtime_version=str(ort.__version__),
    )


def constants_after_relu(graph: Path) -> dict[str, Array]:
    """What ONNX Runtime on the CPU gets in place of the scales and zero points after a ReLU, by their names.

    TensorRT takes a zero point of 0 alone, so that is what the file has. ONNX Runtime computes a quantised convolution
    in integers only if it can drop the ReLU behind it, and it drops it where the least integer means zero: -128. Behind
    a plain ReLU values that were 0..127 become -128..-1, with the same scale: the same numbers, as no value exceeds the
    range. Behind a ReLU6 the greatest integer must not mean more than 6 either: there the range, which is cut at its
    upper end in the file too, gets all 256 integers instead of the upper 128, and is rounded half as coarsely.
    """
    # A search through the file, not a parse: the markers are written by our exporter and end where the names do.
    content = graph.read_bytes()
    zero_points = re.findall(ZERO_POINT_AFTER_RELU.encode() + rb"<\d+>", content)
    scales = re.findall(SCALE_AFTER_CLIP.encode() + rb"<\d+:[^>]+>", content)
    replaced: dict[str, Array] = {name.decode(): np.array(-128, np.int8) for name in zero_points}
    for name in map(bytes.decode, scales):
        scale = float(name[:-1].partition(":")[2]) * SHARE_AFTER_CLIP
        replaced[name] = np.array(scale * (1 - 1e-6), np.float32)  # not above 6 by the last bits
    return dict(sorted(replaced.items()))


def replace_constants(ort: ModuleType, config: Any, constants: Mapping[str, Array]) -> None:
    """Give the session that `config` is for these values for the graph's constants of their names.

    It takes the arrays' memory as it is and does not keep them: `constants` must live as long as the session.
    """
    if constants:
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in constants.values()]
        config.add_external_initializers(list(constants), values)


def provider_options(
    provider: str, options: SessionOptions, *, quantized: bool = False, engine_dir: Path | None = None
) -> dict[str, str]:
    """The options of an execution provider, under ONNX Runtime's own names.

    quantized: the graph has QuantizeLinear nodes, which TensorRT builds only with int8 enabled.
    Raises `BackendError` for a precision that the provider has no option for.
    """
    if provider == TENSORRT:
        # TensorRT lets float32 layers use TF32 where the chip has it, and the provider has no option against it.
        if options.precision == "fp32" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
            raise BackendError(
                "precision 'fp32' with onnxruntime-tensorrt needs NVIDIA_TF32_OVERRIDE=0 in the environment from the "
                "start of the process, or float32 layers may run in TF32; 'auto' accepts that"
            )
        # "True" and "False": the Python binding refuses "1" and "0" for this provider.
        return {
            "device_id": "0",
            "trt_fp16_enable": str(options.precision == "fp16"),
            **({"trt_bf16_enable": "True"} if options.precision == "bf16" else {}),  # unknown to older releases
            "trt_int8_enable": str(quantized),
            "trt_engine_cache_enable": str(engine_dir is not None),
            "trt_timing_cache_enable": str(engine_dir is not None),
            **(
                {"trt_engine_cache_path": str(engine_dir), "trt_timing_cache_path": str(engine_dir)}
                if engine_dir
                else {}
            ),
        }
    reason = _refusal(provider, options.precision, quantized)
    if reason is not None:
        raise BackendError(f"precision {options.precision!r}: {reason}")
    return {"device_id": "0", "use_tf32": "0"} if provider == CUDA else {}


def _refusal(provider: str, precision: str, quantized: bool) -> str | None:
    """Why a provider that computes in the types of the graph does not run it in `precision`; None if it does."""
    if precision not in ("fp16", "bf16"):
        return None
    others = (
        ["onnxruntime-tensorrt", "openvino-cpu"] if precision == "bf16" else ["onnxruntime-tensorrt", "openvino-gpu"]
    )
    if provider == CPU:
        if precision == "fp16" and not quantized:
            others.insert(0, "onnxruntime-cuda")
        return f"{provider} computes in the graph's own types; leave it out, or take {' or '.join(others)}"
    if precision == "bf16":
        return f"{provider} has no convolution in it before operator set 22; take 'fp16', or {' or '.join(others)}"
    if quantized:
        return (
            f"the graph has quantised layers, and what is converted for {provider} is a float32 one; take 'fp16' "
            f"alone, or {' or '.join(others)}"
        )
    return None


def assigned_nodes(session: Any) -> list[PlacedNode]:
    """The session's own record of which provider took which node."""
    return [
        PlacedNode(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def profiled_nodes(session: Any, inputs: Mapping[str, TensorSpec]) -> list[PlacedNode]:
    """The same from the profile of one run on zeros, for releases that keep no record; ends the profiling."""
    session.run(None, {name: np.zeros(spec.shape, spec.dtype) for name, spec in inputs.items()})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [
        PlacedNode(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


class OnnxRuntimeEngine:
    """An InferenceSession, whose `run` is thread-safe by itself."""

    def __init__(self, ort: ModuleType, session: Any, graph: Path, device: str | None, keep: object = None) -> None:
        """device: where `put` copies to; None keeps plain arrays on the host, which costs a run the least.

        keep: what the session uses and does not keep itself.
        """
        self._ort = ort
        self._session = session
        self._keep = keep
        self._graph = graph
        self._device = device
        self._outputs = [node.name for node in session.get_outputs()]
        inputs = {node.name for node in session.get_inputs()}
        self._computed = [name for name in self._outputs if name not in inputs]

    def put(self, array: Array) -> Any:
        return array if self._device is None else self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    @staticmethod
    def get(tensor: Any) -> Array:
        return np.array(tensor if isinstance(tensor, np.ndarray) else tensor.numpy())

    def run(self, values: Mapping[str, Any]) -> dict[str, Array]:
        # An input that is an output too is answered here. With the CUDA provider of ONNX Runtime 1.31, on a busy H100,
        # a graph that passes its input on gave other values in a later run; of which output is not known.
        found = {name: self.get(values[name]) for name in self._outputs if name in values}
        if self._computed:  # to ONNX Runtime, none named means all
            try:
                # Takes arrays and OrtValues alike; what it returns is never the memory of an input or a weight.
                results = self._session.run(self._computed, values)
            except Exception as error:
                raise GraphError(f"{self._graph}: ONNX Runtime failed to run it: {one_line(error)}") from error
            found |= zip(self._computed, results, strict=True)
        return {name: found[name] for name in self._outputs}


def _create(
    ort: ModuleType,
    graph: str | bytes,
    backend: str,
    options: SessionOptions,
    settings: Mapping[str, str],
    profile_dir: Path | None = None,
    replaced: Mapping[str, Array] | None = None,
) -> Any:
    """An InferenceSession; provider_options of the backend's own provider are `settings`."""
    config = ort.SessionOptions()
    config.log_severity_level = _SEVERITY_ERROR
    config.intra_op_num_threads = options.threads or 0  # 0: the runtime chooses
    config.inter_op_num_threads = 1
    # Threads that spin while they wait take the core away from whoever shares it, often our own next stage.
    config.add_session_config_entry("session.intra_op.allow_spinning", "0")
    config.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if PROVIDERS[backend] == CPU:
        # The CPU's fused sum and normalisation takes longer than the two it is made of: a tenth of vtt-nano's search.
        config.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    if PROVIDERS[backend] == TENSORRT:
        # It optimises by itself, and the graph as it is in the file is what it was seen to compute rightly.
        config.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if _release(ort) < (1, 19):
        # Planning memory once from the first run, it puts values of INT8 graphs over each other from the second run on.
        config.enable_mem_pattern = False
    if profile_dir is not None:
        config.enable_profiling = True
        config.profile_file_prefix = str(profile_dir / "placement")
    replace_constants(ort, config, replaced or {})
    provider = PROVIDERS[backend]
    chain = {provider: dict(settings)}
    # CUDA and the CPU stand behind so that the record names the nodes that the provider refuses.
    if provider == TENSORRT and CUDA in ort.get_available_providers():
        chain[CUDA] = {"device_id": "0", "use_tf32": "0"}
    chain.setdefault(CPU, {})
    return ort.InferenceSession(
        graph, config, providers=list(chain), provider_options=list(chain.values()), enable_fallback=0
    )


def _profile_dir(backend: str) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="edgetrack-")
    except OSError as error:
        raise BackendError(
            f"{backend}: no folder for the profile that says where nodes run ({error}); name one that can be written "
            "in TMPDIR, or install onnxruntime 1.24 or later, which needs none"
        ) from error


@cache  # said once
def _warn_of_float_convolutions(ort: ModuleType) -> None:
    if _release(ort) < _INTEGER_CONVOLUTIONS:
        logger.warning(
            "onnxruntime %s computes the convolutions of INT8 models in float, which takes longer than FP32; install "
            "%d.%d or later, or take precision 'fp32'",
            ort.__version__,
            *_INTEGER_CONVOLUTIONS,
        )


def _release(ort: ModuleType) -> tuple[int, ...]:
    """Major and minor number of the installed version."""
    return tuple(int(number) for number in re.findall(r"\d+", str(ort.__version__))[:2])


def _engine_dir(provider: str, backend: str, graph: Path, options: SessionOptions, runtime_version: str) -> Path | None:
    if provider != TENSORRT:
        return None  # the other providers compile nothing worth keeping
    try:
        # TensorRT's own file names carry its version and the chip's compute capability.
        folder = engine_folder(
            options.cache_dir or user_cache(),
            graph,
            backend=backend,
            precision=options.precision,
            runtime_version=runtime_version,
            device="cuda0",
        )
    except BackendError as error:
        if options.cache_dir is not None:
            raise
        logger.warning(
            "TensorRT builds the engine of %s at every start, which takes up to minutes: %s; cache_dir= names another",
            graph.name,
            error,
        )
        return None
    if not any(folder.iterdir()):
        logger.warning(
            "TensorRT builds the engine of %s, which takes up to minutes; it is kept in %s", graph.name, folder
        )
    return folder


def _onnxruntime(backend: str) -> ModuleType:
    """The module, if it is installed and has the provider of `backend`."""
    provider = PROVIDERS[backend]
    package = "onnxruntime" if provider == CPU else "onnxruntime-gpu"
    try:
        module = import_onnxruntime()
        version, available = module.__version__, module.get_available_providers()
    except ImportError as error:
        raise BackendUnavailableError(
            f"{backend}: onnxruntime cannot be imported ({error}); pip install {package}"
        ) from error
    except Exception as error:  # a folder that an uninstallation left behind is an empty package
        raise BackendUnavailableError(
            f"{backend}: the installation of onnxruntime is broken ({one_line(error)}); reinstall it: "
            f"pip uninstall onnxruntime onnxruntime-gpu, then pip install {package}"
        ) from error
    if provider not in available:
        raise BackendUnavailableError(
            f"{backend}: the installed onnxruntime {version} has no {provider}, only "
            f"{', '.join(available)}; pip uninstall onnxruntime, then pip install {package}. onnxruntime and "
            "onnxruntime-gpu are one module, never install both; on a Jetson use the wheel made for its JetPack"
        )
    return module


def _specs(graph: Path, kind: str, nodes: Iterable[Any]) -> dict[str, TensorSpec]:
    specs = {}
    for node in nodes:
        if not all(isinstance(size, int) for size in node.shape):
            raise GraphError(
                f"{graph}: {kind} {node.name!r} has shape {node.shape}; expected fixed sizes only, export it with them"
            )
        if node.type not in _DTYPES:
            raise GraphError(f"{graph}: {kind} {node.name!r} is {node.type}, which has no numpy dtype")
        specs[node.name] = TensorSpec(node.name, tuple(node.shape), _DTYPES[node.type])
    return specs
