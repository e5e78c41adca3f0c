"""What TensorRT gets of an INT8 graph: the same computation, every weight in float32 and quantised for each reader."""

from __future__ import annotations

import builtins
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small_graphs import CASES, Case, convolved, node, normal, quantised, save_graph, with_sidecar

from edgetrack_runtimes import SessionOptions, onnxruntime_session, open_session
from edgetrack_runtimes.errors import BackendUnavailableError, GraphError
from edgetrack_runtimes.tensorrt_graph import with_float_weights

ort = pytest.importorskip("onnxruntime")

_rng = np.random.default_rng(3)
KERNEL8 = _rng.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8)
KERNEL_SCALES = _rng.uniform(0.001, 0.1, 4).astype(np.float32)
TABLE8 = _rng.integers(-127, 128, (11, 9), dtype=np.int8)
ROW_SCALES = _rng.uniform(0.001, 0.1, 11).astype(np.float32)
SCALE = np.float32(0.03)
ROUNDED = [node("QuantizeLinear", "x scale zero", "x8"), node("DequantizeLinear", "x8 scale zero", "xq")]
CONSTANTS: dict[str, NDArray] = {
    "scale": np.array(SCALE),
    "zero": np.array(0, np.int8),
    "w8": KERNEL8,
    "scales": KERNEL_SCALES,
    "zeros": np.zeros(4, np.int8),
}


def kernel() -> NDArray[np.float32]:
    return KERNEL8.astype(np.float32) * KERNEL_SCALES.reshape(-1, 1, 1, 1)


CONV = Case(
    "int8_conv",
    [
        *ROUNDED,
        node("DequantizeLinear", "w8 scales zeros", "w", axis=0),
        node("Conv", "xq w", "y", pads=[1, 1, 1, 1]),
    ],
    [("x", "float32", (1, 3, 5, 6))],
    [("y", "float32", (1, 4, 5, 6))],
    CONSTANTS,
    lambda rng: {"x": normal(rng, 1, 3, 5, 6)},
    lambda f: {"y": convolved(quantised(f["x"], SCALE), kernel())},
)
TWICE = Case(
    "weight_read_twice",
    [
        *ROUNDED,
        node("DequantizeLinear", "w8 scales zeros", "w", axis=0),
        node("Conv", "xq w", "first", pads=[1, 1, 1, 1]),
        node("DequantizeLinear", "w8 scales zeros", "v", axis=0),
        node("Conv", "x v", "second", pads=[1, 1, 1, 1]),
        node("Add", "first second", "y"),
    ],
    [("x", "float32", (1, 3, 5, 6))],
    [("y", "float32", (1, 4, 5, 6))],
    CONSTANTS,
    lambda rng: {"x": normal(rng, 1, 3, 5, 6)},
    lambda f: {"y": convolved(quantised(f["x"], SCALE), kernel()) + convolved(f["x"], kernel())},
)
SHARED = Case(
    "weight_shared",
    [
        *ROUNDED,
        node("DequantizeLinear", "w8 scales zeros", "w", axis=0),
        node("Conv", "xq w", "first", pads=[1, 1, 1, 1]),
        node("Conv", "x w", "second", pads=[1, 1, 1, 1]),
        node("Add", "first second", "y"),
    ],
    TWICE.input_values,
    TWICE.output_values,
    CONSTANTS,
    TWICE.inputs,
    TWICE.expected,
)
TABLE = Case(
    "int8_table",
    [
        node("DequantizeLinear", "table8 scales zeros", "table", axis=0),
        node("Gather", "table token", "y", axis=0),
    ],
    [("token", "int64", (2,))],
    [("y", "float32", (2, 9))],
    {"table8": TABLE8, "scales": ROW_SCALES, "zeros": np.zeros(11, np.int8)},
    lambda rng: {"token": rng.integers(0, 11, 2)},
    lambda f: {"y": (TABLE8 * ROW_SCALES[:, None])[f["token"]]},
)
LINEAR = next(case for case in CASES if case.name == "int8_linear")
INT8 = (CONV, TWICE, SHARED, TABLE, LINEAR)


def unoptimised(model: str | bytes) -> ort.InferenceSession:
    config = ort.SessionOptions()
    config.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, config, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", INT8, ids=lambda case: case.name)
def test_it_computes_the_same(tmp_path: Path, case: Case) -> None:
    path = case.save(tmp_path)
    feeds = case.inputs(np.random.default_rng(5))
    (found,) = unoptimised(with_float_weights(path)).run(None, feeds)
    np.testing.assert_array_equal(found, unoptimised(str(path)).run(None, feeds)[0])
    np.testing.assert_allclose(found, case.expected(feeds)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", INT8, ids=lambda case: case.name)
def test_every_reader_has_a_pair_of_its_own(tmp_path: Path, case: Case) -> None:
    model = onnx.load_from_string(with_float_weights(case.save(tmp_path)))
    onnx.checker.check_model(model, full_check=True)
    pairs = {each.output[0]: each for each in model.graph.node if each.op_type == "QuantizeLinear"}
    dequantized = [each for each in model.graph.node if each.op_type == "DequantizeLinear"]
    assert sorted(each.input[0] for each in dequantized) == sorted(pairs)
    read = Counter(value for each in model.graph.node for value in each.input)
    for each in dequantized:
        assert read[each.input[0]] == read[each.output[0]] == 1
        assert (each.input[1:], each.attribute) == (pairs[each.input[0]].input[1:], pairs[each.input[0]].attribute)
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert integers == {each.input[2] for each in dequantized}  # zero points alone


@pytest.mark.parametrize("case", [TWICE, SHARED], ids=lambda case: case.name)
def test_a_weight_that_is_read_twice_is_stored_once(tmp_path: Path, case: Case) -> None:
    model = onnx.load_from_string(with_float_weights(case.save(tmp_path)))
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert len(weights) == 1
    np.testing.assert_array_equal(numpy_helper.to_array(weights[0]), kernel())


def test_weights_beside_the_graph_are_in_it(tmp_path: Path) -> None:
    inside = with_float_weights(CONV.save(tmp_path))
    path = with_sidecar(CONV.save(tmp_path), "weights.data")
    content = with_float_weights(path)
    (tmp_path / "weights.data").unlink()
    feeds = CONV.inputs(np.random.default_rng(5))
    np.testing.assert_array_equal(unoptimised(content).run(None, feeds)[0], unoptimised(inside).run(None, feeds)[0])
    with pytest.raises(GraphError, match=r"int8_conv\.onnx: onnx cannot read it: .*weights\.data"):
        with_float_weights(path)


def test_a_graph_without_integers_stays(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "g.onnx", [node("Neg", "x", "y")], [("x", "float32", (2,))], [("y", "float32", (2,))], {}
    )
    assert onnx.load_from_string(with_float_weights(path)) == onnx.load(path)


def test_without_onnx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, imported = CONV.save(tmp_path), builtins.__import__

    def without_onnx(name: str, *args: object, **kwargs: object) -> object:
        if name == "onnx":
            raise ImportError("no module named onnx")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime-tensorrt: onnx, .*pip install 'edgetrack\[cuda\]'"):
        with_float_weights(path)


def test_tensorrt_is_given_it_and_nothing_is_folded_on_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the provider: what the session would be made from, run here on the CPU at the level it is made with."""
    made: list = []

    class Spy(ort.InferenceSession):
        def __init__(self, model: object, config: object, **kwargs: object) -> None:
            made.append((model, config))
            raise RuntimeError("far enough")

    monkeypatch.setattr(onnxruntime_session, "devices", lambda backend: ("cuda:0",))
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"])
    with monkeypatch.context() as patched:
        patched.setattr(ort, "InferenceSession", Spy)
        with pytest.raises(GraphError, match="far enough"):
            open_session("onnxruntime-tensorrt", CONV.save(tmp_path), SessionOptions())
    ((model, config),) = made

    def left(level: object) -> list[str]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [each.op_type for each in onnx.load(options.optimized_model_filepath).graph.node]

    assert left(config.graph_optimization_level).count("QuantizeLinear") == 2
    assert left(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC).count("QuantizeLinear") < 2
