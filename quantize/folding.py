"""Work on weights that an exported graph would leave to the runtime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fold_transposes(proto: onnx.ModelProto) -> None:
    """Replace every Transpose of a weight by the transposed weight, in place; equal ones become one.

    The exporter leaves them where a weight is used several times, as the decoder's are in its four unrolled steps. A
    runtime then folds each by itself, and holds every decoder weight four times.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type != "Transpose" or node.input[0] not in weights:
            kept.append(node)
            continue
        source = numpy_helper.to_array(weights[node.input[0]])
        order = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "perm"), None)
        name = f"{node.input[0]}.transposed" + ("" if order is None else "".join(map(str, order)))
        if name not in weights:
            weights[name] = numpy_helper.from_array(np.ascontiguousarray(source.transpose(order)), name)
        renamed[node.output[0]] = name
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    used = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    values = [value for value in graph.value_info if value.name not in renamed]
    del graph.value_info[:]
    graph.value_info.extend(values)
