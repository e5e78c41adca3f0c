"""Folded graphs compute what they did, with each weight once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantize.folding import fold_transposes


@pytest.fixture
def proto() -> onnx.ModelProto:
    """x -> relu(x W^T) W^T + (x V)^T V', the transposes of W twice, of x and of a weight without a given order."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 4)), "v": rng.normal(size=(4, 3)), "u": rng.normal(size=(4, 2))}
    nodes = [
        helper.make_node("Transpose", ["w"], ["w1"], perm=[1, 0]),
        helper.make_node("Transpose", ["w"], ["w2"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[1, 0]),
        helper.make_node("MatMul", ["d", "v"], ["e"]),
        helper.make_node("Transpose", ["u"], ["u1"]),
        helper.make_node("MatMul", ["u1", "e"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_only_transposes_of_weights_go_and_the_result_stays(proto: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    before = ReferenceEvaluator(proto).run(None, {"x": x})
    fold_transposes(proto)
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_allclose(ReferenceEvaluator(proto).run(None, {"x": x})[0], before[0], rtol=1e-5)
    assert [node.op_type for node in proto.graph.node].count("Transpose") == 1
    assert len(proto.graph.initializer) == 3  # w transposed once, v, u transposed


def test_a_weight_transposed_in_two_ways_is_two_weights() -> None:
    weight = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    orders = {"a": [0, 2, 1], "b": [2, 1, 0]}
    nodes = [helper.make_node("Transpose", ["w"], [name], perm=order) for name, order in orders.items()]
    graph = helper.make_graph(
        [*nodes, *(helper.make_node("Mul", ["x", name], [f"x{name}"]) for name in orders)],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2, 2])],
        [helper.make_tensor_value_info(f"x{name}", TensorProto.FLOAT, [2, 2, 2]) for name in orders],
        [numpy_helper.from_array(weight, "w")],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2, 2]) for name in orders],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    fold_transposes(proto)
    onnx.checker.check_model(proto, full_check=True)
    found = ReferenceEvaluator(proto).run(None, {"x": np.ones((2, 2, 2), np.float32)})
    for value, order in zip(found, orders.values(), strict=True):
        np.testing.assert_array_equal(value, weight.transpose(order))
    assert not proto.graph.value_info  # of values that are no longer there
