"""The exported fake-quant graph made into one that all runtimes compute in integers, and the rules it must keep to.

The exporter writes Quantize/Dequantize pairs around float32 weights. `fold` leaves int8 weights with a
DequantizeLinear and activations with a pair (QDQ format); `check_qdq` holds a graph to what ONNX Runtime and OpenVINO
need in order to fuse those into integer kernels, `check_tensorrt` to what TensorRT accepts.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgetrack_runtimes.onnxruntime_session import SCALE_AFTER_CLIP, SHARE_AFTER_CLIP, ZERO_POINT_AFTER_RELU
from quantize.fake import PAIR, QMAX, QMIN

WEIGHTED = ("Conv", "MatMul")
"""The operators that have integer kernels."""
QDQ = ("QuantizeLinear", "DequantizeLinear")
NOTHING = 1e-30
"""Added, it changes no number that a scale and an integer make but 0, and that by less than anything resolves; adding 0
itself is an operation that runtimes take out."""
RECTIFIERS = ("Relu", "Clip")
"""ReLU and, as the exporter writes it, ReLU6."""
REARRANGING = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""What puts out values of its input as they are."""
# fmt: off
TENSORRT_OPERATORS = frozenset({
    "Add", "And", "ArgMax", "ArgMin", "AveragePool", "Cast", "Ceil", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "DequantizeLinear", "Div", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
    "Greater", "GreaterOrEqual", "Identity", "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul",
    "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "QuantizeLinear", "Range",
    "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Shape",
    "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "TopK",
    "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Of the operators that TensorRT 10's parser knows, the ones a tracker can consist of."""
TENSORRT_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
)


class QdqError(Exception):
    """A graph that a runtime would refuse or compute in float; the message names the node."""


class _Graph:
    """A graph's nodes by what they read and write."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.producers = {output: node for node in proto.graph.node for output in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for value in node.input:
                self.consumers[value].append(node)

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def source(self, value: str, kind: str) -> NodeProto | None:
        """The node that computes `value`, if it is of this kind."""
        node = self.producers.get(value)
        return node if node is not None and node.op_type == kind else None

    def only_consumer(self, value: str) -> NodeProto | None:
        nodes = self.consumers[value]
        return nodes[0] if len(nodes) == 1 else None


def scope(node: NodeProto) -> str:
    """The module a node was exported from, such as "encoder.blocks.0.fc1", or the name of it or its value."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [part for part in ast.literal_eval(entry.value)[:-1] if part]
            return scopes[-1].removeprefix("model.") if scopes else node.name
    return node.name or node.output[0]


def fold(proto: onnx.ModelProto) -> set[str]:
    """Rewrite the exporter's graph in place; returns the modules whose products were computed here.

    - Weights become int8, their Quantize and Transpose done here; equal ones share one tensor.
    - What follows from constants alone is computed here, quantised products included: the decoder's first step begins
      with START whatever the picture. Runtimes fold such parts only while they are float.
    - GELU's factors are put in the order in which ONNX Runtime knows it.
    - Every product gets a pair of its own, its scale different from the others' in the last bit: ONNX Runtime merges
      equal ones and leaves the products that share the outcome in float.
    - What is rounded once for a convolution and for a sum is rounded twice, a float operation between the two: ONNX
      Runtime makes unsigned integers, which alone it computes fast on x86, only of what goes to one place.
    - A MatMul's bias (N,) becomes (1, 1, N), or ONNX Runtime would merge the two into a Gemm, a float one.
    - The zero point after a convolution's ReLU, and the scale after its ReLU6, get names of their own, by which
      `edgetrack_runtimes` finds them and gives ONNX Runtime the ones that let it drop the ReLU.
    - A ReLU6 becomes a ReLU where the integers end at 6 anyway. TensorRT 8.6 quantises in front of it and keeps its
      bounds as they are, so that the integers end at 6.
    """
    _fold_weights(proto)
    computed = _fold_constants(proto)
    _order_gelu(proto)
    _separate_readers(proto)
    _separate_sums(proto)
    _reshape_biases(proto)
    _name_constants_after_relu(proto)
    _drop_ceilings(proto)
    _prune(proto)
    return computed


def _fold_weights(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    dropped: list[NodeProto] = []
    for quantize in [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]:
        weight = graph.array(quantize.input[0])
        if weight is None:
            continue
        scale, axis = graph.array(quantize.input[1]), helper.get_node_attr_value(quantize, "axis")
        if scale is None:
            raise QdqError(f"{scope(quantize)}: the weight's scale is computed in the graph; expected a constant")
        along = [-1 if d == axis else 1 for d in range(weight.ndim)]
        integers = np.clip(np.rint(weight / scale.reshape(along)), QMIN, QMAX).astype(np.int8)
        dequantize = graph.only_consumer(quantize.output[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            raise QdqError(f"{scope(quantize)}: a quantised weight goes elsewhere than to one DequantizeLinear")
        name = f"{quantize.input[0]}.int8"
        transpose = graph.only_consumer(dequantize.output[0])
        if transpose is not None and transpose.op_type == "Transpose":
            order = list(helper.get_node_attr_value(transpose, "perm"))
            integers, axis, name = integers.transpose(order), order.index(axis), f"{name}.transposed"
            dequantize.output[0] = transpose.output[0]
            dropped.append(transpose)
        if name not in graph.initializers:
            tensor = numpy_helper.from_array(np.ascontiguousarray(integers), name)
            graph.initializers[name] = tensor
            proto.graph.initializer.append(tensor)
        dequantize.input[0] = name
        del dequantize.attribute[:]
        dequantize.attribute.append(helper.make_attribute("axis", axis))
        dropped.append(quantize)
    for node in dropped:
        proto.graph.node.remove(node)


def _fold_constants(proto: onnx.ModelProto) -> set[str]:
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights: dict[str, NodeProto] = {}
    folded: list[NodeProto] = []
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].endswith((".int8", ".int8.transposed")):
            weights[node.output[0]] = node
            continue
        inputs = [value for value in node.input if value]
        if not inputs or not all(value in known or value in weights for value in inputs):
            continue
        for value in inputs:
            if value in weights and value not in known:
                known[value] = _computed(weights[value], known)[0]
        for name, value in zip(node.output, _computed(node, known), strict=True):
            known[name] = value
            proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        folded.append(node)
    for node in folded:
        proto.graph.node.remove(node)
    return {scope(node) for node in folded if node.op_type in WEIGHTED}


def _computed(node: NodeProto, known: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    feeds = {value: known[value] for value in node.input if value}
    values = [onnx.ValueInfoProto(name=name) for name in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    # The first version whose quantisation the evaluator has; what is used here did not change in it.
    opset = [helper.make_opsetid("", 19)]
    model = helper.make_model(helper.make_graph([node], "constant", values, outputs), opset_imports=opset)
    return list(ReferenceEvaluator(model).run(None, feeds))


def _order_gelu(proto: onnx.ModelProto) -> None:
    """x * (0.5 * (1 + erf(x / sqrt(2)))) -> (x * (1 + erf(...))) * 0.5."""
    graph = _Graph(proto)
    for outer in [node for node in proto.graph.node if node.op_type == "Mul"]:
        for x, half in (outer.input, outer.input[::-1]):
            inner = graph.source(half, "Mul")
            if inner is None:
                continue
            for factor, one_plus in (inner.input, inner.input[::-1]):
                add = graph.source(one_plus, "Add")
                if add is not None and any(graph.source(value, "Erf") for value in add.input):
                    inner.input[:], outer.input[:] = [x, one_plus], [inner.output[0], factor]


def _separate_readers(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    for dequantize in [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]:
        quantize = graph.source(dequantize.input[0], "QuantizeLinear")
        scale = graph.array(dequantize.input[1])
        readers = [node for node in graph.consumers[dequantize.output[0]] if node.op_type in WEIGHTED]
        if quantize is None or scale is None:
            continue
        for index, reader in enumerate(readers[1:], 1):
            scale = np.nextafter(scale, np.float32(np.inf))
            name = f"{dequantize.output[0]}.{index}"
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}.scale"))
            constants = [f"{name}.scale", dequantize.input[2]]
            at = list(proto.graph.node).index(reader)
            for kind, source, target in (
                ("DequantizeLinear", f"{name}.integers", name),
                ("QuantizeLinear", quantize.input[0], f"{name}.integers"),
            ):
                node = helper.make_node(kind, [source, *constants], [target], name=f"{target}.{kind}")
                node.metadata_props.extend(reader.metadata_props)
                proto.graph.node.insert(at, node)
            reader.input[list(reader.input).index(dequantize.output[0])] = name


def _separate_sums(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    for dequantize in [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]:
        readers = graph.consumers[dequantize.output[0]]
        convs = [node for node in readers if node.op_type == "Conv"]
        if not convs or len(convs) == len(readers):
            continue
        value = dequantize.output[0]
        float_value, integers, again = (f"{value}.{name}" for name in ("float", "integers", "again"))
        nothing = numpy_helper.from_array(np.array(NOTHING, np.float32), f"{value}.nothing")
        proto.graph.initializer.append(nothing)
        for reader in readers:
            name = again if reader.op_type == "Conv" else float_value
            reader.input[:] = [name if entry == value else entry for entry in reader.input]
        constants = dequantize.input[1:]
        at = list(proto.graph.node).index(dequantize) + 1
        for kind, sources, target in (
            ("DequantizeLinear", [integers, *constants], again),
            ("QuantizeLinear", [float_value, *constants], integers),
            ("Add", [value, nothing.name], float_value),
        ):
            node = helper.make_node(kind, sources, [target], name=f"{target}.{kind}")
            node.metadata_props.extend(dequantize.metadata_props)
            proto.graph.node.insert(at, node)


def _reshape_biases(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    reshaped: dict[str, str] = {}
    for add in proto.graph.node:
        if add.op_type != "Add":
            continue
        for index, value in enumerate(add.input):
            bias = graph.array(value)
            if bias is None or bias.ndim != 1 or graph.source(add.input[1 - index], "MatMul") is None:
                continue
            if value not in reshaped:
                reshaped[value] = f"{value}.row"
                proto.graph.initializer.append(numpy_helper.from_array(bias.reshape(1, 1, -1), reshaped[value]))
            add.input[index] = reshaped[value]


def _name_constants_after_relu(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    quantized = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    for index, quantize in enumerate(q for q in quantized if _rectified_conv(graph, q.input[0])):
        named = {2: (f"{ZERO_POINT_AFTER_RELU}<{index}>", np.array(0, np.int8))}
        scale = graph.array(quantize.input[1])
        if graph.source(quantize.input[0], "Clip") is not None and scale is not None:
            named[1] = (f"{SCALE_AFTER_CLIP}<{index}:{scale.item():.9g}>", scale)
        for place, (name, value) in named.items():
            proto.graph.initializer.append(numpy_helper.from_array(value, name))
            quantize.input[place] = name
            for dequantize in graph.consumers[quantize.output[0]]:
                dequantize.input[place] = name


def _drop_ceilings(proto: onnx.ModelProto) -> None:
    graph = _Graph(proto)
    for clip in [node for node in proto.graph.node if node.op_type == "Clip"]:
        floor, ceiling = (graph.array(name) for name in (*clip.input[1:], "", "")[:2])
        readers = graph.consumers[clip.output[0]]
        scales = [graph.array(reader.input[1]) for reader in readers if reader.op_type == "QuantizeLinear"]
        if floor is None or floor != 0 or ceiling is None or not scales or len(scales) < len(readers):
            continue
        if all(scale is not None and np.rint(ceiling / scale) >= QMAX for scale in scales):
            clip.op_type = "Relu"
            del clip.input[1:]


def _rectified_conv(graph: _Graph, value: str) -> bool:
    """Whether a convolution's ReLU or ReLU6 puts out `value`."""
    rectifier = graph.producers.get(value)
    if rectifier is None or rectifier.op_type not in RECTIFIERS:
        return False
    return graph.source(rectifier.input[0], "Conv") is not None


def _prune(proto: onnx.ModelProto) -> None:
    scalars = {tensor.name for tensor in proto.graph.initializer if not tensor.dims}
    for node in proto.graph.node:
        if node.op_type in QDQ and node.input[1] in scalars:
            del node.attribute[:]  # an axis, which for a single scale says nothing
    # What only a product that was computed here had read: ONNX Runtime would run it in every frame.
    used = {value.name for value in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if used.isdisjoint(node.output):
            proto.graph.node.remove(node)
        else:
            used.update(node.input)
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)
    # Shapes of values that are no longer there, and a third of the file's bytes; runtimes infer them.
    proto.graph.ClearField("value_info")
    for node in proto.graph.node:
        for values in (node.input, node.output):
            values[:] = [value.replace("fake_quantize_per_tensor_affine", "rounded") for value in values]
            values[:] = [value.replace("fake_quantize_per_channel_affine", "weight") for value in values]
        if node.op_type in QDQ:
            node.name = ""  # says no more than what it puts out
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("fake_quantize_per_tensor_affine", "rounded")


class Layers(NamedTuple):
    """The convolutions and matrix products of a graph, by the module they come from, with their number there."""

    integer: Counter[str]
    floating: Counter[str]


def check_qdq(proto: onnx.ModelProto, integer: Mapping[str, int] | None = None) -> Layers:
    """Check that the graph is one that runtimes compute in integers.

    - A scale is a positive constant, a zero point a constant int8 0.
    - A QuantizeLinear stands on an activation and feeds DequantizeLinear nodes of its own scale only.
    - A weight is int8, and its DequantizeLinear feeds a convolution or product along the output channels, or a Gather
      along the rows. No two neighbours in a convolution or product add up to more than
      `PAIR` (see `quantize.fake.channel_scales`).
    - A convolution or product has both operands from a DequantizeLinear, nothing between, or none.
    - What is added to a product is not a vector, and what an integer convolution puts out is quantised again, at once
      or after its ReLU.

    Args:
        proto: as `fold` left it.
        integer: modules that must compute in integers wherever they are in the graph, and how many float products each
            has for an integer one.

    Raises:
        QdqError: the message names the module and the rule it breaks.
    """
    graph = _Graph(proto)
    for node in proto.graph.node:
        if node.op_type in QDQ:
            _check_pair(graph, node)
        elif node.op_type == "Gemm":
            raise QdqError(f"{scope(node)}: is a Gemm, which ONNX Runtime computes in float; expected MatMul and Add")
    layers = Layers(Counter(), Counter())
    for node in proto.graph.node:
        if node.op_type in WEIGHTED:
            (layers.integer if _is_integer(graph, node) else layers.floating)[scope(node)] += 1
    allowed = integer or {}
    if missing := [name for name in allowed if layers.floating[name] > allowed[name] * layers.integer[name]]:
        raise QdqError(f"{', '.join(missing)}: computed in float; expected both operands from DequantizeLinear")
    return layers


def check_found(layers: Iterable[Layers], names: Iterable[str]) -> None:
    """Check that each of the modules `names` computes in integers in at least one graph of a model.

    Args:
        layers: as `check_qdq` found them in each graph.
        names: of modules.

    Raises:
        QdqError: names the modules that were not met.
    """
    met = Counter[str]()
    for each in layers:
        met += each.integer
    if missing := [name for name in names if not met[name]]:
        raise QdqError(f"{', '.join(missing)}: in no graph by these names; expected each in integers in one of them")


def _check_pair(graph: _Graph, node: NodeProto) -> None:
    where = f"{scope(node)} ({node.op_type})"
    scale, zero_point = (graph.array(name) for name in node.input[1:3]) if len(node.input) == 3 else (None, None)
    if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise QdqError(f"{where}: the scale is {scale}; expected positive constants and a zero point")
    if zero_point is None or zero_point.dtype != np.int8 or zero_point.any():
        raise QdqError(f"{where}: the zero point is {zero_point}; expected the constant int8 0")
    weight = graph.array(node.input[0])
    if node.op_type == "QuantizeLinear":
        if weight is not None:
            raise QdqError(f"{where}: quantises the constant {node.input[0]}; expected it stored as int8")
        if scale.ndim:
            raise QdqError(f"{where}: an activation with {scale.size} scales; expected one")
        for consumer in graph.consumers[node.output[0]]:
            if consumer.op_type != "DequantizeLinear" or list(consumer.input[1:]) != list(node.input[1:]):
                raise QdqError(f"{where}: feeds {consumer.op_type}; expected DequantizeLinear with the same scale")
    elif weight is None:
        if graph.source(node.input[0], "QuantizeLinear") is None:
            raise QdqError(f"{where}: reads {node.input[0]}; expected a QuantizeLinear or an int8 constant")
    else:
        for consumer in graph.consumers[node.output[0]]:
            axis, operand = {"Conv": (0, 1), "MatMul": (weight.ndim - 1, 1), "Gather": (0, 0)}.get(
                consumer.op_type, (None, 0)
            )
            found = helper.get_node_attr_value(node, "axis") if scale.ndim else axis
            if axis is None or consumer.input[operand] != node.output[0] or found != axis:
                raise QdqError(
                    f"{where}: a weight with scales along axis {found} feeds {consumer.op_type}; expected a Conv's or "
                    "MatMul's second operand, along its output channels, or a Gather's first, along its rows"
                )
            if consumer.op_type in WEIGHTED and (largest := _largest_pair(weight, consumer.op_type)) > PAIR:
                raise QdqError(
                    f"{where}: two neighbouring weights add up to {largest}; expected {PAIR} at most, beyond which a "
                    "product overflows on x86 without VNNI"
                )


def _largest_pair(weight: np.ndarray[Any, Any], operator: str) -> int:
    """The largest sum, as a magnitude, of two weights of one sign that are multiplied in one step."""
    along = np.moveaxis(weight.astype(int), 1 if operator == "Conv" else -2, 0)
    pairs = along[: len(along) // 2 * 2].reshape(-1, 2, *along.shape[1:])
    return max(int((sign * pairs).clip(min=0).sum(1).max(initial=0)) for sign in (1, -1))


def _is_integer(graph: _Graph, node: NodeProto) -> bool:
    where = f"{scope(node)} ({node.op_type})"
    operands = [graph.source(value, "DequantizeLinear") is not None for value in node.input[:2]]
    # A convolution that is left in float may well read what another one's output was rounded to.
    if not any(operands) or (node.op_type == "Conv" and not operands[1]):
        return False
    if not all(operands):
        raise QdqError(f"{where}: one operand is float; expected both from DequantizeLinear")
    if node.op_type == "Conv":
        _check_bias(graph, node, where)
    for consumer in graph.consumers[node.output[0]]:
        if node.op_type == "MatMul" and consumer.op_type == "Add":
            if any(tensor is not None and tensor.ndim == 1 for tensor in map(graph.array, consumer.input)):
                raise QdqError(f"{where}: the bias is a vector, which makes it a float Gemm; expected (1, 1, N)")
        elif node.op_type == "Conv":
            after = graph.only_consumer(consumer.output[0]) if consumer.op_type in RECTIFIERS else consumer
            if after is None or after.op_type != "QuantizeLinear":
                raise QdqError(f"{where}: puts out to {consumer.op_type}; expected QuantizeLinear, or a ReLU and it")
    return True


def _check_bias(graph: _Graph, node: NodeProto, where: str) -> None:
    bias = graph.array(node.input[2]) if len(node.input) > 2 else None
    if bias is None:
        return
    step, scales = (graph.producers[value].input[1] for value in node.input[:2])
    unit = np.asarray(graph.array(step), float) * graph.array(scales)
    if step.startswith(SCALE_AFTER_CLIP):
        unit = unit * SHARE_AFTER_CLIP
    if (largest := np.abs(bias / unit).max()) >= 2**31:
        raise QdqError(
            f"{where}: a bias is {largest:.2g} steps of input and weight; expected less than 2^31, which is what ONNX "
            "Runtime makes of it an integer for (see quantize.fake.freeze)"
        )


def check_tensorrt(proto: onnx.ModelProto) -> None:
    """Check what TensorRT 10's parser and its explicit quantisation ask for beyond `check_qdq`.

    Known operators only, no value of a type it has not (float64, unsigned integers), and fixed shapes, as its
    documentation has them; and no Clip in front of a QuantizeLinear, nothing but copies between the two, which its
    release 8.6 was seen to compute wrongly.
    A graph that passes still has to be built on a device, and asked (see `edgetrack.known_answer`).

    Raises:
        QdqError: the message names the module or tensor.
    """
    graph = _Graph(proto)
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in TENSORRT_OPERATORS:
            raise QdqError(f"{scope(node)}: TensorRT has no operator {node.domain or 'ai.onnx'}::{node.op_type}")
        if node.op_type == "Clip" and _is_quantised(graph, node.output[0]):
            raise QdqError(
                f"{scope(node)}: is a Clip in front of a QuantizeLinear, which TensorRT 8.6 moves before the Clip "
                f"without changing the bounds; expected a Relu, and a scale that makes {QMAX} the upper one"
            )
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in inferred}
    for name, kind in types.items():
        if kind not in TENSORRT_TYPES:
            where = scope(graph.producers[name]) if name in graph.producers else name
            raise QdqError(f"{where}: is {TensorProto.DataType.Name(kind)}, which TensorRT has not")
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type not in TENSORRT_TYPES or not all(d.HasField("dim_value") for d in kind.shape.dim):
            raise QdqError(f"{value.name}: expected fixed sizes and one of TensorRT's types")


def _is_quantised(graph: _Graph, value: str) -> bool:
    """Whether a QuantizeLinear reads `value`, as it is or rearranged."""
    return any(
        reader.op_type == "QuantizeLinear" or (reader.op_type in REARRANGING and _is_quantised(graph, reader.output[0]))
        for reader in graph.consumers[value]
    )
