"""Graphs converted to half precision: their tensors keep their types, their answers are those of float16."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small_graphs import CASES, LINEAR, Case, node, normal, save_graph, with_sidecar

from edgetrack_runtimes.errors import BackendError, GraphError
from edgetrack_runtimes.half import in_half_precision

ort = pytest.importorskip("onnxruntime")

FLOAT_CASES = [case for case in CASES if not case.name.startswith("int8")]
EPSILON = 2.0**-11
"""Half of float16's step at 1: what rounding one value to it is off by at most, relatively."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def opened(graph: bytes) -> ort.InferenceSession:
    """The graph as it is: ONNX Runtime's CPU computes float16 in float32 and rounds what comes out of every node."""
    config = ort.SessionOptions()
    config.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(graph, config, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", FLOAT_CASES, ids=lambda case: case.name)
def test_the_answers_are_those_of_half_precision(case: Case, tmp_path: Path, rng: np.random.Generator) -> None:
    path = case.save(tmp_path)
    session, whole = opened(in_half_precision(path)), opened(path.read_bytes())
    for found, stated in ((session.get_inputs(), whole.get_inputs()), (session.get_outputs(), whole.get_outputs())):
        assert [(v.name, v.type, v.shape) for v in found] == [(v.name, v.type, v.shape) for v in stated]
    feeds = case.inputs(rng)
    computed = [value.name for value in session.get_outputs() if value.name not in feeds]
    expected = case.expected(feeds)
    for name, value in zip(computed, session.run(computed, feeds), strict=True):
        if value.dtype != np.float32:
            assert_array_equal(value, expected[name])
        else:  # sums of at most 256 products of about 1
            assert_allclose(value, expected[name], rtol=4 * EPSILON, atol=40 * EPSILON)


def test_no_value_inside_is_left_in_float32(tmp_path: Path, rng: np.random.Generator) -> None:
    graph = onnx.load_from_string(in_half_precision(with_sidecar(LINEAR.save(tmp_path), "weights.bin"))).graph
    assert {weight.data_type for weight in graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert sorted(each.op_type for each in graph.node) == ["Add", "Cast", "Cast", "Cast", "MatMul", "Relu"]
    x = normal(rng, 2, 256)
    error = np.abs(
        opened(in_half_precision(LINEAR.save(tmp_path))).run(["sum"], {"x": x})[0] - LINEAR.expected({"x": x})["sum"]
    )
    assert error.max() > EPSILON  # in float32 it is 1e-5


def test_a_mask_beyond_the_range_stays_a_mask(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "mask.onnx",
        [node("Add", "x mask", "masked"), node("Softmax", "masked", "y", axis=-1)],
        [("x", "float32", (1, 3))],
        [("y", "float32", (1, 3))],
        {"mask": np.array([[0, -1e9, 0]], np.float32)},
    )
    (found,) = opened(in_half_precision(path)).run(None, {"x": np.array([[1, 5, 1]], np.float32)})
    assert_array_equal(found, [[0.5, 0, 0.5]])


def test_the_conversion_leaves_the_search_path_as_it_is(tmp_path: Path) -> None:
    before = list(sys.path)
    in_half_precision(LINEAR.save(tmp_path))
    assert sys.path == before


def test_without_onnx_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = LINEAR.save(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"precision 'fp16': .* pip install onnx"):
        in_half_precision(path)


def test_weights_that_are_not_there_are_an_error_of_the_graph(tmp_path: Path) -> None:
    path = with_sidecar(LINEAR.save(tmp_path), "weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(GraphError, match=r"linear\.onnx: it cannot be converted to half precision: .*weights\.bin"):
        in_half_precision(path)
