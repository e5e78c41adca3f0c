"""Which of ONNX's operator sets a graph is written in: the exporter's, made one that older runtimes read too."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

EXPORTED = 18
"""The lowest that the exporter writes."""
OPSET = 17
"""The highest that TensorRT 8.6, JetPack 6.0's, reads; LayerNormalization is an operator of its own from here on."""
IR_VERSION = 8
"""The file format of the ONNX release that brought `OPSET`; ONNX Runtime before 1.18 refuses the exporter's."""
_AXES_AS_INPUT = frozenset(
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


class OpsetError(Exception):
    """A graph that cannot be written in `OPSET`; the message names the node."""


def lower(proto: onnx.ModelProto) -> None:
    """Write a graph of the operator set `EXPORTED` in `OPSET`, in place.

    Of what changed between the two a tracker has reductions, whose axes were an attribute, and Split, whose parts were
    as many as its outputs unasked. What else changed, `onnx.checker` finds.

    Raises:
        OpsetError: the axes of a reduction are computed in the graph.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    named: set[str] = set()
    for node in proto.graph.node:
        if node.op_type in _AXES_AS_INPUT:
            _drop(node, "noop_with_empty_axes")
            if len(node.input) == 2:
                axes = node.input.pop()
                if axes not in constants:
                    raise OpsetError(f"{node.op_type} {node.name!r}: axes {axes!r} are computed; expected a constant")
                node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constants[axes]).ravel()))
                named.add(axes)
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
    named -= {value for node in proto.graph.node for value in node.input}
    for name in named:
        proto.graph.initializer.remove(constants[name])
    version = next(entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    version.version, proto.ir_version = OPSET, IR_VERSION


def _drop(node: onnx.NodeProto, attribute: str) -> None:
    for found in [entry for entry in node.attribute if entry.name == attribute]:
        node.attribute.remove(found)
