"""Attention's keys in the order in which OpenVINO's CPU plugin is quick with them: the same numbers, faster.

Queries are multiplied by transposed keys, and a graph brings these from (B, M, H, D), tokens and heads, to (B, H, D, M)
in one step, for which the plugin moves single values. In two it moves whole rows, (B, H, M, D), and leaves the second
step to the product. Keys that are rounded it would round first, and of integers it moves single values again. It cannot
where something float is to be done in between: the keys' bias, which may as well be added to the moved rows. A value in
the middle between two integers may then be rounded to the other one.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

_KEYS, _ROWS, _LAST_TWO = ([0, 2, 3, 1], [0, 2, 1, 3], [0, 1, 3, 2])
_DEQUANTISING = ("Convert", "Subtract", "Multiply")


def is_quick_with_rows(openvino: Any) -> bool:
    """Whether that was measured on this processor, and with a release that makes nodes: 2025 and later."""
    return platform.machine().lower() in ("x86_64", "amd64") and hasattr(openvino, "opset8")


def move_rows(openvino: Any, model: Any) -> int:
    """Transpose keys in two steps wherever a product reads them; return of how many.

    Args:
        openvino: the module.
        model: an `openvino.Model` as it was read, not compiled; it is changed in place.
    """
    found = [node for node in model.get_ordered_ops() if _order(node) == _KEYS and _only_reader(node) is not None]
    moved = 0
    for transpose in found:
        reader, heads = _only_reader(transpose), transpose.input_value(0)
        if _is_transposable(reader):
            product, rows = reader, openvino.opset8.transpose(heads, np.asarray(_ROWS)).output(0)
        else:
            product = _rounded(reader)
            if product is None or not _is_biased_and_split(heads.get_node()):
                continue
            reader.replace_source_output(_bias_behind(openvino, heads.get_node()))
            rows = product.get_source_output()
        product.replace_source_output(openvino.opset8.transpose(rows, np.asarray(_LAST_TWO)).output(0))
        moved += 1
    model.validate_nodes_and_infer_types()
    return moved


def _order(node: Any) -> list[int] | None:
    if node.get_type_name() != "Transpose":
        return None
    order = _constant(node.input_value(1))
    return None if order is None else [int(axis) for axis in order]


def _constant(value: Any) -> Any:
    """The array, None where the value is not a constant."""
    node = value.get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None


def _only_reader(node: Any) -> Any:
    """The one input that reads a node; None where there are more."""
    readers = list(node.output(0).get_target_inputs())
    return readers[0] if len(readers) == 1 else None


def _is_transposable(reader: Any) -> bool:
    """Whether the input is a product's second operand, as it is."""
    node = reader.get_node()
    return node.get_type_name() == "MatMul" and reader.get_index() == 1 and not node.get_attributes()["transpose_b"]


def _rounded(reader: Any) -> Any:
    """The product's operand that is made of the input by rounding it in equal steps; None where anything else is."""
    expected: tuple[str, ...] = ("FakeQuantize",)
    while not _is_transposable(reader):
        node = reader.get_node()
        others = [value.get_source_output() for value in node.inputs()[1:]]
        if node.get_type_name() not in expected or not all(map(_is_one_number, others)):
            return None
        expected, reader = _DEQUANTISING, _only_reader(node)
        if reader is None:
            return None
    return reader


def _is_one_number(value: Any) -> bool:
    return bool(value.get_partial_shape().is_static and np.prod(value.get_shape()) == 1)


def _is_biased_and_split(reshape: Any) -> bool:
    """Whether a node splits what has a bias of one number a column into heads, (B, M, H, D), and alone reads it."""
    if reshape.get_type_name() != "Reshape" or _only_reader(reshape) is None:
        return False
    add = reshape.input_value(0).get_node()
    if add.get_type_name() != "Add" or _only_reader(add) is None:
        return False
    bias, split = _constant(add.input_value(1)), reshape.get_output_partial_shape(0)
    if bias is None or not split.is_static or add.get_input_partial_shape(0) != add.get_output_partial_shape(0):
        return False
    columns = split.to_shape()[2] * split.to_shape()[3]
    return bool(bias.size == columns and bias.shape[-1:] == (columns,))


def _bias_behind(openvino: Any, reshape: Any) -> Any:
    """The same heads with the bias added after their rows were moved, (B, H, M, D)."""
    add = reshape.input_value(0).get_node()
    heads, columns = list(reshape.get_output_shape(0))[2:]
    special = bool(reshape.get_attributes()["special_zero"])
    split = openvino.opset8.reshape(add.input_value(0), reshape.input_value(1), special)
    rows = openvino.opset8.transpose(split, np.asarray(_ROWS))
    bias = np.ascontiguousarray(_constant(add.input_value(1)).reshape(1, heads, 1, columns))
    return openvino.opset8.add(rows, openvino.opset8.constant(bias)).output(0)
