"""A float32 graph made to compute in half precision, for a provider that computes in the types of the file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgetrack_runtimes.errors import BackendError, GraphError, one_line


def in_half_precision(graph: Path) -> bytes:
    """Return the file `graph`, weights included, with every float32 value in float16 but its inputs and outputs.

    It is ONNX Runtime's own conversion, which needs the onnx package. Values out of float16's range become its bounds
    (65504); the few operators that have no float16 stay in float32.

    Raises:
        BackendError: onnx is not installed, or this release of ONNX Runtime comes without the conversion.
        GraphError: the file or its weights cannot be read.
    """
    search_path = list(sys.path)
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise BackendError(
            f"precision 'fp16': ONNX Runtime converts the graph for it with the onnx package, which cannot be imported "
            f"({error}); pip install onnx, or use 'auto' or 'fp32'"
        ) from error
    finally:
        sys.path[:] = search_path  # to which that package adds its own folder
    try:
        model = onnx.load(str(graph))
        return _converted(model, convert_float_to_float16)
    except Exception as error:  # the binding raises its own classes, which share no base below Exception
        raise GraphError(f"{graph}: it cannot be converted to half precision: {one_line(error)}") from error


def _converted(model: Any, convert: Callable[..., Any]) -> bytes:
    # An input that is an output too would be converted to one and the same name; nothing computes it.
    inputs = {value.name for value in model.graph.input}
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(value for value in outputs if value.name not in inputs)
    model = convert(model, keep_io_types=True)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return bytes(model.SerializeToString())
