"""What the options become under each runtime's own names, for the devices that are not here too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_graphs import CASES, LINEAR

from edgetrack_runtimes import SessionOptions, int8_is_faster, onnxruntime_session, open_session
from edgetrack_runtimes.errors import BackendError, BackendUnavailableError, GraphError
from edgetrack_runtimes.half import in_half_precision
from edgetrack_runtimes.onnxruntime_session import CPU, CUDA, TENSORRT, provider_options
from edgetrack_runtimes.openvino_session import properties

XEON = ["BF16", "WINOGRAD", "FP32", "FP16", "INT8", "BIN", "EXPORT_IMPORT"]
OLD_CPU = ["FP32", "INT8", "BIN", "EXPORT_IMPORT"]
NPU = ["FP16", "INT8", "EXPORT_IMPORT"]


def test_tensorrt_by_default() -> None:
    assert provider_options(TENSORRT, SessionOptions()) == {
        "device_id": "0",
        "trt_fp16_enable": "False",
        "trt_int8_enable": "False",
        "trt_engine_cache_enable": "False",
        "trt_timing_cache_enable": "False",
    }


def test_tensorrt_with_everything() -> None:
    folder = Path("cache/engine")
    options = provider_options(TENSORRT, SessionOptions(precision="fp16"), quantized=True, engine_dir=folder)
    assert options == {
        "device_id": "0",
        "trt_fp16_enable": "True",
        "trt_int8_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_path": str(folder),
    }


def test_tensorrt_in_bf16() -> None:
    options = provider_options(TENSORRT, SessionOptions(precision="bf16"))
    assert (options["trt_bf16_enable"], options["trt_fp16_enable"]) == ("True", "False")


def test_tensorrt_cannot_promise_fp32_while_tf32_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(BackendError, match="needs NVIDIA_TF32_OVERRIDE=0 in the environment"):
        provider_options(TENSORRT, SessionOptions(precision="fp32"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert provider_options(TENSORRT, SessionOptions(precision="fp32"))["trt_fp16_enable"] == "False"


def session_of(
    backend: str,
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache_dir: Path | None = None,
    precision: str = "auto",
) -> tuple[str | bytes, Any, list[dict[str, str]]]:
    """The model, the configuration and the providers' options that a session would be made from, on a machine without
    the provider."""
    ort = pytest.importorskip("onnxruntime")
    made = []

    def spy(model: str | bytes, config: Any, *, provider_options: list[dict[str, str]], **kwargs: object) -> None:
        made.append((model, config, provider_options))
        raise RuntimeError("far enough")

    provider = onnxruntime_session.PROVIDERS[backend]
    monkeypatch.setattr(onnxruntime_session, "devices", lambda backend: ("cuda:0",))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(ort, "InferenceSession", spy)
    with pytest.raises(GraphError, match="far enough"):
        open_session(backend, graph, SessionOptions(precision=precision, cache_dir=cache_dir))
    return made[0]


def test_tensorrt_gets_the_graph_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = LINEAR.save(tmp_path)
    model, config, _ = session_of("onnxruntime-tensorrt", graph, monkeypatch)
    assert model == str(graph)
    assert config.graph_optimization_level.name == "ORT_DISABLE_ALL"


@pytest.mark.parametrize("named", [True, False])
def test_tensorrt_keeps_its_engines_by_default(
    named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph, place = LINEAR.save(tmp_path), tmp_path / ("named" if named else "cache/edgetrack")
    _, _, (chosen, *_) = session_of("onnxruntime-tensorrt", graph, monkeypatch, place if named else None)
    (folder,) = place.iterdir()
    assert (chosen["trt_engine_cache_enable"], chosen["trt_engine_cache_path"]) == ("True", str(folder))
    (folder / "some.engine").touch()
    session_of("onnxruntime-tensorrt", graph, monkeypatch, place if named else None)
    (record,) = caplog.records  # said when they are built, and not when they are there
    assert "up to minutes; it is kept in" in record.message


def test_a_cache_that_cannot_be_written_costs_time_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph, occupied = LINEAR.save(tmp_path), tmp_path / "occupied"
    occupied.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    _, _, (chosen, *_) = session_of("onnxruntime-tensorrt", graph, monkeypatch)
    assert chosen["trt_engine_cache_enable"] == "False"
    assert "at every start" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    session_of("onnxruntime-tensorrt", graph, monkeypatch)
    assert "no place for the engine cache: no home" in caplog.text
    with pytest.raises(BackendError, match="cannot make the engine cache folder"):
        open_session("onnxruntime-tensorrt", graph, SessionOptions(cache_dir=occupied))


@pytest.mark.parametrize(("release", "pay"), [("1.22.1", False), ("1.23.0", True)])
def test_int8_is_faster_where_convolutions_are_integer(
    release: str, pay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest.importorskip("onnxruntime"), "__version__", release)
    assert int8_is_faster("onnxruntime-cpu") is pay
    assert not int8_is_faster("onnxruntime-cuda")
    with pytest.raises(BackendUnavailableError, match="no backend 'abacus-cpu'"):
        int8_is_faster("abacus-cpu")


@pytest.mark.parametrize(("release", "planned"), [("1.18.1", False), ("1.19.0", True), ("1.31.1", True)])
def test_memory_is_not_planned_where_the_plan_is_wrong(
    release: str, planned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to 1.18 the second run of vtt-nano's INT8 graph answers otherwise than the first."""
    monkeypatch.setattr(pytest.importorskip("onnxruntime"), "__version__", release)
    _, config, _ = session_of("onnxruntime-cpu", LINEAR.save(tmp_path), monkeypatch)
    assert config.enable_mem_pattern is planned


@pytest.mark.parametrize(("release", "warned"), [("1.22.1", True), ("1.23.0", False)])
def test_a_release_that_is_slow_in_int8_is_named_once(
    release: str, warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ort = pytest.importorskip("onnxruntime")
    onnxruntime_session._warn_of_float_convolutions.cache_clear()
    monkeypatch.setattr(ort, "__version__", release)
    graph = next(case for case in CASES if case.name == "int8_linear").save(tmp_path)
    for _ in range(2):
        open_session("onnxruntime-cpu", graph).close()
    open_session("onnxruntime-cpu", LINEAR.save(tmp_path)).close()
    assert [record.message for record in caplog.records] == [
        "onnxruntime 1.22.1 computes the convolutions of INT8 models in float, which takes longer than FP32; install "
        "1.23 or later, or take precision 'fp32'"
    ] * warned


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_cuda_keeps_float32_whole(precision: str) -> None:
    assert provider_options(CUDA, SessionOptions(precision=precision)) == {"device_id": "0", "use_tf32": "0"}
    assert provider_options(CPU, SessionOptions(precision=precision)) == {}


@pytest.mark.parametrize(
    ("provider", "precision", "quantized", "reason"),
    [
        (
            CPU,
            "fp16",
            False,
            f"{CPU} .*; leave it out, or take onnxruntime-cuda or onnxruntime-tensorrt or openvino-gpu$",
        ),
        (CPU, "fp16", True, f"{CPU} computes .*; leave it out, or take onnxruntime-tensorrt or openvino-gpu$"),
        (
            CPU,
            "bf16",
            False,
            f"{CPU} computes in the graph's own types.* or take onnxruntime-tensorrt or openvino-cpu$",
        ),
        (CUDA, "bf16", False, f"{CUDA} has no convolution in it"),
        (CUDA, "fp16", True, "the graph has quantised layers"),
    ],
)
def test_providers_without_a_precision_refuse_one(provider: str, precision: str, quantized: bool, reason: str) -> None:
    with pytest.raises(BackendError, match=f"precision '{precision}': {reason}"):
        provider_options(provider, SessionOptions(precision=precision), quantized=quantized)


def test_cuda_gets_a_graph_in_half_precision_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = LINEAR.save(tmp_path)
    assert session_of("onnxruntime-cuda", graph, monkeypatch)[0] == str(graph)
    assert session_of("onnxruntime-cuda", graph, monkeypatch, precision="fp16")[0] == in_half_precision(graph)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_openvino_cpu(precision: str) -> None:
    assert properties("CPU", SessionOptions(threads=3, precision=precision), XEON, Path("engines")) == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": 3,
        "INFERENCE_PRECISION_HINT": "f32",
        "CACHE_DIR": "engines",
    }


def test_openvino_chooses_its_threads_unless_told() -> None:
    assert "INFERENCE_NUM_THREADS" not in properties("CPU", SessionOptions(), XEON)


def test_openvino_gpu_keeps_float32_though_its_default_is_half() -> None:
    assert properties("GPU", SessionOptions(threads=3), ["FP32", "FP16", "INT8"]) == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }


@pytest.mark.parametrize(("precision", "hint"), [("fp16", "f16"), ("bf16", "bf16")])
def test_openvino_in_half_where_the_chip_has_it(precision: str, hint: str) -> None:
    options = SessionOptions(precision=precision)
    assert properties("CPU", options, XEON)["INFERENCE_PRECISION_HINT"] == hint
    with pytest.raises(BackendError, match=f"precision '{precision}': this CPU does not .* only in FP32, INT8"):
        properties("CPU", options, OLD_CPU)


def test_openvino_npu_has_no_float32() -> None:
    assert "INFERENCE_PRECISION_HINT" not in properties("NPU", SessionOptions(), NPU)
    assert properties("NPU", SessionOptions(precision="fp16"), NPU)["INFERENCE_PRECISION_HINT"] == "f16"
    with pytest.raises(BackendError, match=r"precision 'fp32': this NPU does not .* only in FP16, INT8"):
        properties("NPU", SessionOptions(precision="fp32"), NPU)


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_openvino_takes_what_properties_say(precision: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision != "auto" and precision.upper() not in capabilities:
        pytest.skip(f"this CPU does not compute in {precision}")
    chosen = properties("CPU", SessionOptions(threads=1, precision=precision), capabilities)
    model = core.compile_model(str(LINEAR.save(tmp_path)), "CPU", chosen)
    assert model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == chosen["INFERENCE_PRECISION_HINT"]
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert model.get_property("NUM_STREAMS") == 1
    assert model.get_property("ENABLE_CPU_PINNING") is False
