"""What is ONNX Runtime's own: its thread settings, values held as OrtValue, failures while running."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import ALIASES, LINEAR, TWO_INPUTS, node, normal, save_graph

from edgetrack_runtimes import SessionOptions, onnxruntime_session, open_session
from edgetrack_runtimes.errors import BackendUnavailableError, GraphError
from edgetrack_runtimes.onnxruntime_session import OnnxRuntimeEngine

ort = pytest.importorskip("onnxruntime")


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list:
    """The InferenceSessions that are made, with the arguments they are made from."""
    made: list = []

    class Spy(ort.InferenceSession):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append((self, kwargs))

    monkeypatch.setattr(ort, "InferenceSession", Spy)
    return made


def test_threads_do_not_spin(created: list, tmp_path: Path) -> None:
    open_session("onnxruntime-cpu", LINEAR.save(tmp_path), SessionOptions(threads=2))
    ((session, kwargs),) = created
    config = session.get_session_options()
    assert (config.intra_op_num_threads, config.inter_op_num_threads) == (2, 1)
    assert config.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert config.log_severity_level == 3
    assert kwargs["enable_fallback"] == 0  # a failing run is not tried again on the CPU


def test_a_sum_and_its_normalisation_are_not_fused_on_the_cpu(created: list, tmp_path: Path) -> None:
    nodes = [node("Add", "a b", "c"), node("LayerNormalization", "c gamma beta", "y", epsilon=1e-5)]
    constants = {"gamma": np.full(8, 2.0, np.float32), "beta": np.full(8, 0.5, np.float32)}
    values = [(name, "float32", (1, 6, 8)) for name in "aby"]
    path = save_graph(tmp_path / "residual.onnx", nodes, values[:2], values[2:], constants)
    open_session("onnxruntime-cpu", path, SessionOptions())
    entry = "optimization.disable_specified_optimizers"
    asked = created[0][0].get_session_options().get_session_config_entry(entry)

    def optimised(left_out: str) -> list[str]:
        config = ort.SessionOptions()
        config.log_severity_level = 3
        config.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        config.add_session_config_entry(entry, left_out)
        ort.InferenceSession(str(path), config, providers=["CPUExecutionProvider"])
        return [each.op_type for each in onnx.load(config.optimized_model_filepath).graph.node]

    assert optimised("") == ["SkipLayerNormalization"]
    assert optimised(asked) == ["Add", "LayerNormalization"]


def test_values_on_a_device_are_fed_like_arrays(tmp_path: Path) -> None:
    """The path of CUDA, with the CPU as its device: values as OrtValue, alone and beside arrays."""
    path, rng = TWO_INPUTS.save(tmp_path), np.random.default_rng(0)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    engine = OnnxRuntimeEngine(ort, session, path, "cpu")
    a, b = normal(rng, 3, 4), normal(rng, 3, 4)
    held = engine.put(a.copy())
    assert isinstance(held, ort.OrtValue)
    for feeds in ({"a": held, "b": b}, {"a": held, "b": engine.put(b.copy())}):
        np.testing.assert_array_equal(engine.run(feeds)["y"], a - b)
    copy = engine.get(held)
    copy[...] = 0
    np.testing.assert_array_equal(engine.get(held), a)


def test_an_output_that_is_an_input_is_copied_from_a_device_value_too(tmp_path: Path) -> None:
    path, x = ALIASES.save(tmp_path), np.ones((2, 3), np.float32)
    engine = OnnxRuntimeEngine(ort, ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]), path, "cpu")
    held = engine.put(x)
    engine.run({"x": held})["x"][...] = 7
    np.testing.assert_array_equal(engine.get(held), np.ones((2, 3), np.float32))


def test_a_run_that_fails_names_the_graph_and_leaves_the_session_usable(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "lookup.onnx",
        [node("Gather", "table index", "y", axis=0)],
        [("index", "int64", (1,))],
        [("y", "float32", (1,))],
        {"table": np.arange(3, dtype=np.float32)},
    )
    session = open_session("onnxruntime-cpu", path)
    with pytest.raises(GraphError, match=r"lookup\.onnx: ONNX Runtime failed to run it: .*out of"):
        session.run({"index": np.array([12])})
    assert session.run({"index": np.array([2])})["y"] == 2


def test_a_graph_that_computes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nothing.onnx"
    path.write_bytes(onnxruntime_session._PROBE)  # its output is its input
    x = np.array([3], np.float32)
    outputs = open_session("onnxruntime-cpu", path).run({"x": x})
    x[0] = 5
    assert {name: value.tolist() for name, value in outputs.items()} == {"x": [3.0]}


def test_a_tensor_type_without_numpy_dtype(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "text.onnx"
    infos = [
        onnx.helper.make_tensor_value_info(name, kind, (2,))
        for name, kind in (("x", onnx.TensorProto.FLOAT), ("y", onnx.TensorProto.STRING))
    ]
    graph = onnx.helper.make_graph([node("Cast", "x", "y", to=onnx.TensorProto.STRING)], "text", infos[:1], infos[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(GraphError, match=r"text\.onnx: output 'y' is tensor\(string\), which has no numpy dtype"):
        open_session("onnxruntime-cpu", path)


def test_a_provider_that_does_not_load_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a GPU wheel without CUDA's libraries: they are asked for where pip puts them, in silence; the provider is
    listed, dropped in silence too, and must be missed."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    asked: list[str] = []

    def preload_dlls() -> None:
        asked.append("libraries")
        sys.stdout.write("Failed to load libcublas\n")

    monkeypatch.setattr(ort, "preload_dlls", preload_dlls, raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),  # the runtime's own, all it says
        pytest.raises(BackendUnavailableError, match="in the installed onnxruntime but does not load"),
    ):
        onnxruntime_session.devices("onnxruntime-cuda")
    assert asked
    assert not capsys.readouterr().out
