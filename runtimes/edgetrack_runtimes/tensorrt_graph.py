"""An INT8 graph as every TensorRT takes it: with float32 weights that the graph itself quantises.

The files hold int8 weights, each with its DequantizeLinear: a quarter of the bytes, and what the other runtimes read.
TensorRT 8.6 takes them, and then answers nearly the same to every picture. Its present documentation allows such
weights; what ONNX Runtime's and NVIDIA's tools wrote for the 8.x releases is a QuantizeLinear in front of every
DequantizeLinear, a weight's too, and a pair of them for each reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgetrack_runtimes.errors import BackendUnavailableError, GraphError
from edgetrack_runtimes.session import Array

_DEFAULT_AXIS = 1


def with_float_weights(graph: Path) -> bytes:
    """Return the model in `graph` in one piece, each of its int8 weights in float32 with a QuantizeLinear behind it.

    A float32 weight is what the int8 one means, so that quantising it gives the same integers: what is computed does
    not change. One that is read several times is stored once and quantised for each reader.

    Raises:
        BackendUnavailableError: the onnx package is missing.
        GraphError: the file, or one beside it with its weights, cannot be read.
    """
    onnx = _onnx()
    try:
        model = onnx.load(graph)
    except Exception as error:  # protobuf's errors and onnx's share no base below Exception
        raise GraphError(f"{graph}: onnx cannot read it: {' '.join(str(error).split())}") from error
    nodes = list(_quantising(onnx, model.graph))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    unread = [tensor for tensor in model.graph.initializer if tensor.name not in read]
    for tensor in unread:
        model.graph.initializer.remove(tensor)
    content: bytes = model.SerializeToString()
    return content


def _quantising(onnx: Any, graph: Any) -> Iterator[Any]:
    """Yield the nodes with what quantises the weights between them; adds the float32 weights to the graph."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    floats: dict[tuple[str, str, int], str] = {}
    weights: dict[str, Any] = {}
    readers: Counter[str] = Counter()

    def pair(dequantize: Any, output: str) -> tuple[Any, Any]:
        name, scale = dequantize.input[:2]
        axis = next((entry.i for entry in dequantize.attribute if entry.name == "axis"), _DEFAULT_AXIS)
        if (name, scale, axis) not in floats:
            floats[name, scale, axis] = f"{name}.float{len(floats)}"
            integers, scales = (onnx.numpy_helper.to_array(tensors[each]) for each in (name, scale))
            values = _dequantised(integers, scales, axis)
            graph.initializer.append(onnx.numpy_helper.from_array(values, floats[name, scale, axis]))
        between, constants = f"{output}.integers", dequantize.input[1:]
        made = (
            onnx.helper.make_node("QuantizeLinear", [floats[name, scale, axis], *constants], [between]),
            onnx.helper.make_node("DequantizeLinear", [between, *constants], [output]),
        )
        for node in made:
            node.attribute.extend(dequantize.attribute)
        return made

    for node in graph.node:
        for index, value in enumerate(node.input):
            readers[value] += 1
            if value in weights and readers[value] > 1:
                node.input[index] = f"{value}.reader{readers[value]}"
                yield from pair(weights[value], node.input[index])
        tensor = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is not None and tensor.data_type == onnx.TensorProto.INT8:
            weights[node.output[0]] = node
            yield from pair(node, node.output[0])
        else:
            yield node


def _dequantised(integers: Array, scales: Array, axis: int) -> Array:
    along = [-1 if dimension == axis else 1 for dimension in range(integers.ndim)] if scales.ndim else []
    values: Array = integers.astype(np.float32) * scales.reshape(along)
    return values


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailableError(
            f"onnxruntime-tensorrt: onnx, which prepares INT8 graphs for TensorRT, cannot be imported ({error}); "
            "pip install 'edgetrack[cuda]', or onnx alone beside your own onnxruntime"
        ) from error
    return onnx
