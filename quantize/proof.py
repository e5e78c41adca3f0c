"""What runtimes make of the INT8 graphs: which operations they execute in integers, and how far the numbers are from
the fake-quant model's and the boxes from the FP32 model's."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import onnx
import torch
from torch import Tensor

from edgetrack.kinds import FRAME_GRAPHS
from edgetrack_runtimes import SessionOptions, discover, open_session
from edgetrack_runtimes.onnxruntime_session import constants_after_relu, replace_constants
from edgetrack_runtimes.telemetry import import_onnxruntime, import_openvino
from quantize import kinds
from quantize.graphs import named
from train.data.pairs import Pair
from train.evaluation import iou, predict
from train.models.registry import Model

_ORT_INTEGER = {"QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "MatMulInteger", "ConvInteger"}
_ORT_FLOAT = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_OPENVINO_WEIGHTED = {"FullyConnected", "Convolution", "MatMul"}


class Executed(NamedTuple):
    """The convolutions and matrix products that a runtime executes, by its own names for them."""

    integer: dict[str, int]
    floating: dict[str, int]


def executed(backend: str, graph: Path) -> Executed:
    """Read off ONNX Runtime's optimised graph, or OpenVINO's runtime model, which operations run in which numbers.

    OpenVINO merges the whole of an attention into a node called Subgraph: that counts once for each of its products.
    """
    operations = _onnxruntime_operations(graph) if backend.startswith("onnxruntime") else _openvino_operations(graph)
    integer, floating = Counter[str](), Counter[str]()
    for name, is_integer in operations:
        (integer if is_integer else floating)[name] += 1
    return Executed(dict(integer), dict(floating))


def _onnxruntime_operations(graph: Path) -> list[tuple[str, bool]]:
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        config = onnxruntime.SessionOptions()
        config.log_severity_level = 3
        config.intra_op_num_threads = 1
        config.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        replaced = constants_after_relu(graph)
        replace_constants(onnxruntime, config, replaced)
        onnxruntime.InferenceSession(str(graph), config, providers=["CPUExecutionProvider"])
        nodes = onnx.load(config.optimized_model_filepath, load_external_data=False).graph.node
    return [(n.op_type, n.op_type in _ORT_INTEGER) for n in nodes if n.op_type in _ORT_INTEGER | _ORT_FLOAT]


def _openvino_operations(graph: Path) -> list[tuple[str, bool]]:
    compiled = (
        import_openvino()
        .Core()
        .compile_model(str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    )
    nodes = onnx.load(graph, load_external_data=False).graph.node
    products = {node.name for node in nodes if node.op_type == "MatMul"}
    operations = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.value) for key, value in node.get_rt_info().items()}
        kind, origins = facts["layerType"], set(facts["originalLayersNames"].split(","))
        if kind in _OPENVINO_WEIGHTED:
            operations.append((kind, facts["runtimePrecision"] in ("i8", "u8")))
        elif kind == "Subgraph":
            # Its precision is that of its first input, which may be a mask. The scales of integers, though, move
            # behind the product that takes them.
            merged = products & origins
            integer = any(f"{name}/DequantizationMultiply" in origins for name in merged)
            operations += [(kind, integer)] * len(merged)
    return operations


@torch.no_grad()
def prove(fp32: Model, int8: Model, graphs: Mapping[str, Path], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Run every INT8 graph on every CPU runtime, on examples, next to the frozen fake-quant model and the FP32 model.

    A difference is the distance of an output from the other model's, given the same inputs, relative to the other's
    size, both over all examples.

    Returns:
        JSON values: of the fake-quant model the differences from FP32, which are what rounding does; per runtime its
        version, the operations executed, the differences from the fake-quant model and the share of equal choices (of
        tokens, or of VTT's best query); of all the overlap of their boxes with FP32's.
    """
    examples = _examples(fp32, int8, pairs)
    frame = FRAME_GRAPHS[int8.config.kind]
    rounded = [kinds.box(int8, example.int8[frame]) for example in examples]
    report: dict[str, Any] = {
        "examples": len(examples),
        "fake-quant": {
            "difference_from_fp32": _differences([(e.int8, e.fp32) for e in examples]),
            **_overlap(examples, [box for _, box in rounded]),
        },
        "runtimes": {},
    }
    for status in discover():
        if status.available and status.backend.endswith("-cpu"):
            found = _run(status.backend, graphs, examples)
            boxes = [kinds.box(int8, outputs[frame]) for outputs in found]
            equal = [(one == other).float().mean() for (one, _), (other, _) in zip(boxes, rounded, strict=True)]
            report["runtimes"][status.backend] = {
                "version": status.runtime_version,
                "executed": {name: executed(status.backend, path)._asdict() for name, path in graphs.items()},
                "difference": _differences([(o, e.int8) for o, e in zip(found, examples, strict=True)]),
                "choices_equal": round(torch.stack(equal).mean().item(), 4),
                **_overlap(examples, [box for _, box in boxes]),
            }
    return report


Outputs: TypeAlias = dict[str, dict[str, Tensor]]
"""By graph and name."""


class _Example(NamedTuple):
    """What the graphs are fed, what the two models make of that, and FP32's box, None where there is no target."""

    feeds: Outputs
    int8: Outputs
    fp32: Outputs
    box: Tensor | None


def _examples(fp32: Model, int8: Model, pairs: Sequence[Pair]) -> list[_Example]:
    models = [kinds.graphs(model, torch.Generator().manual_seed(0)) for model in (int8, fp32)]
    examples = []
    for pair in pairs:
        boxes = predict(fp32, pair).boxes
        for index, present in enumerate(pair.present):
            feeds = kinds.feeds(int8, pair, index)
            answers = [
                {graph: named(specs[graph], specs[graph].module(*given.values())) for graph, given in feeds.items()}
                for specs in models
            ]
            examples.append(_Example(feeds, *answers, boxes[index : index + 1] if present else None))
    return examples


def _run(backend: str, graphs: Mapping[str, Path], examples: Sequence[_Example]) -> list[Outputs]:
    found: list[Outputs] = [{} for _ in examples]
    for graph, path in graphs.items():
        with open_session(backend, path, SessionOptions(threads=1)) as session:
            for outputs, example in zip(found, examples, strict=True):
                answers = session.run({name: value.numpy() for name, value in example.feeds[graph].items()})
                outputs[graph] = {name: torch.from_numpy(value) for name, value in answers.items()}
    return found


def _differences(pairs: Sequence[tuple[Outputs, Outputs]]) -> dict[str, float]:
    """By tensor; but for tokens, of which one is not near another."""
    away, size = Counter[str](), Counter[str]()
    for found, expected in pairs:
        for graph, outputs in expected.items():
            for name, value in outputs.items():
                if value.is_floating_point():
                    key = f"{graph}.{name}"
                    away[key] += (found[graph][name] - value).double().square().sum().item()
                    size[key] += value.double().square().sum().item()
    return {key: float(f"{math.sqrt(away[key] / max(size[key], 1e-24)):.2g}") for key in away}


def _overlap(examples: Sequence[_Example], boxes: Sequence[Tensor]) -> dict[str, Any]:
    """Overlap of boxes with FP32's, example by example: its mean and its 5th percentile."""
    overlap = torch.cat([iou(box, e.box) for box, e in zip(boxes, examples, strict=True) if e.box is not None])
    return {
        "overlap_with_fp32": {
            "mean": round(overlap.mean().item(), 4),
            "5th_percentile": round(overlap.quantile(0.05).item(), 4),
        }
    }
