"""Graphs written in an older operator set compute what they did, and nothing newer is left in them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantize.opset import EXPORTED, IR_VERSION, OPSET, OpsetError, lower


def graph_of(nodes: list[onnx.NodeProto], outputs: dict[str, list[int]], **constants: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", EXPORTED)], ir_version=10)


CHANGED = {
    "axes": graph_of([helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0)], {"y": [2, 4]}, axes=[1]),
    "scalar axis": graph_of([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], {"y": [2, 3, 1]}, axes=-1),
    "all axes": graph_of([helper.make_node("ReduceMin", ["x"], ["y"], noop_with_empty_axes=0)], {"y": [1, 1, 1]}),
    "split": graph_of(
        [helper.make_node("Split", ["x"], ["y", "z"], axis=2, num_outputs=2)], {"y": [2, 3, 2], "z": [2, 3, 2]}
    ),
    "split by size": graph_of(
        [helper.make_node("Split", ["x", "sizes"], ["y", "z"], axis=2)], {"y": [2, 3, 1], "z": [2, 3, 3]}, sizes=[1, 3]
    ),
    # Its axes have been an input since operator set 13, and stay one.
    "sum": graph_of([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], {"y": [1, 3, 4]}, axes=[0]),
    "axes shared with a sum": graph_of(
        [helper.make_node("ReduceSum", ["x", "axes"], ["a"]), helper.make_node("ReduceMax", ["a", "axes"], ["y"])],
        {"y": [1, 3, 4]},
        axes=[0],
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_it_computes_the_same(name: str) -> None:
    proto = CHANGED[name]
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    before = ReferenceEvaluator(proto).run(None, {"x": x})
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    lower(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    assert (lowered.opset_import[0].version, lowered.ir_version) == (OPSET, IR_VERSION)
    for found, expected in zip(ReferenceEvaluator(lowered).run(None, {"x": x}), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    used = {value for node in lowered.graph.node for value in node.input}
    assert {tensor.name for tensor in lowered.graph.initializer} <= used


def test_what_the_older_set_has_not_is_not_passed_over() -> None:
    proto = graph_of([helper.make_node("Mish", ["x"], ["y"])], {"y": [2, 3, 4]})  # of operator set 18
    lower(proto)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto, full_check=True)


def test_axes_that_are_computed_are_refused() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("ReduceMax", ["x", "s"], ["y"], name="top")]
    with pytest.raises(OpsetError, match="ReduceMax 'top': axes 's' are computed; expected a constant"):
        lower(graph_of(nodes, {"y": [1, 1, 1]}))
