"""What runtimes make of the INT8 graphs: which operations they execute in integers, and how far the numbers are from
the fake-quant model's and the boxes from the FP32 model's."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch

from edgetrack_runtimes import SessionOptions, discover, open_session
from edgetrack_runtimes.onnxruntime_session import lower_zero_points, zero_points_after_relu
from quantize.calibrate import images
from quantize.graphs import DecodeStepGraph, EncodeGraph, TemplateGraph, TrackGraph, option_names, state_names
from train.data.pairs import Pair
from train.evaluation import iou
from train.losses import from_order
from train.models.seqtrack import SeqTrack

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
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        config = onnxruntime.SessionOptions()
        config.log_severity_level = 3
        config.intra_op_num_threads = 1
        config.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        lower_zero_points(onnxruntime, config, zero_points_after_relu(graph))
        onnxruntime.InferenceSession(str(graph), config, providers=["CPUExecutionProvider"])
        nodes = onnx.load(config.optimized_model_filepath, load_external_data=False).graph.node
    return [(n.op_type, n.op_type in _ORT_INTEGER) for n in nodes if n.op_type in _ORT_INTEGER | _ORT_FLOAT]


def _openvino_operations(graph: Path) -> list[tuple[str, bool]]:
    import openvino

    compiled = openvino.Core().compile_model(
        str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
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
def prove(fp32: SeqTrack, int8: SeqTrack, graphs: Mapping[str, Path], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Run every INT8 graph on every CPU runtime, on examples, next to the frozen fake-quant model and the FP32 model.

    Returns:
        JSON values: per runtime its version, the operations executed, the largest difference of each output relative to
        the largest value of the fake-quant model's, the share of equal tokens, and the overlap of boxes with FP32's.
    """
    answers = [_Answers(fp32, int8, pair, index) for pair in pairs for index in range(len(pair.box))]
    shown = [answer for answer in answers if answer.present]
    report: dict[str, Any] = {
        "examples": len(answers),
        "fake-quant": _overlap(int8, [(a.fp32_tokens, a.graphs["track"][1]["tokens"]) for a in shown]),
        "runtimes": {},
    }
    for status in discover():
        if status.available and status.backend.endswith("-cpu"):
            report["runtimes"][status.backend] = {
                "version": status.runtime_version,
                "executed": {name: executed(status.backend, path)._asdict() for name, path in graphs.items()},
                **_compared(status.backend, int8, graphs, answers),
            }
    return report


class _Answers:
    """What every graph is fed and has to answer for one example, by the fake-quant model; and FP32's tokens."""

    def __init__(self, fp32: SeqTrack, int8: SeqTrack, pair: Pair, index: int) -> None:
        config = int8.config
        templates, search = images(pair.templates[index]), images(pair.search[index : index + 1])
        names = state_names(config)

        def named(keys: Sequence[str], values: Sequence[torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
            return {key: value.numpy() for key, value in zip(keys, values, strict=True)}

        def track(model: SeqTrack) -> tuple[torch.Tensor, ...]:
            return TrackGraph(model)(search, *TemplateGraph(model)(templates), *options.values())

        state = TemplateGraph(int8)(templates)
        every_option = {"window": torch.ones(config.bins), "prompt": int8.prompt(pair.history[index : index + 1])}
        options = {name: every_option[name] for name in option_names(config)}
        self.present = bool(pair.present[index])
        self.fp32_tokens = track(fp32)[0].numpy()
        inputs = named(("search", *names), (search, *state))
        self.graphs = {
            "template": ({"templates": templates.numpy()}, named(names, state)),
            "track": (
                {**inputs, **named(tuple(options), tuple(options.values()))},
                named(("tokens", "likelihoods", "presence"), track(int8)),
            ),
        }
        if config.decoding == "autoregressive":
            cross = EncodeGraph(int8)(search, *state)
            past = torch.zeros(len(cross[0]), *cross[0].shape[1:3], int8.decoder.sequence, cross[0].shape[-1])
            first = (torch.tensor([int8.decoder.start]), torch.tensor([0]), past, past, *cross)
            cross_names = ("cross_keys", "cross_values")
            step_names = ("token", "position", "past_keys", "past_values", *cross_names)
            step = named(("logits", "present_keys", "present_values"), DecodeStepGraph(int8)(*first))
            self.graphs["encode"] = (inputs, named(cross_names, cross))
            self.graphs["decode_step"] = (named(step_names, first), step)


def _compared(backend: str, int8: SeqTrack, graphs: Mapping[str, Path], answers: Sequence[_Answers]) -> dict[str, Any]:
    worst: dict[str, float] = {}
    tokens, boxes = [], []
    for graph, path in graphs.items():
        with open_session(backend, path, SessionOptions(threads=1)) as session:
            for answer in answers:
                feeds, expected = answer.graphs[graph]
                found = session.run(feeds)
                if graph == "track":
                    tokens.append((found["tokens"], expected["tokens"]))
                    if answer.present:
                        boxes.append((answer.fp32_tokens, found["tokens"]))
                for name, value in expected.items():
                    if name != "tokens":
                        key = f"{graph}.{name}"
                        relative = float(np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-12))
                        worst[key] = max(worst.get(key, 0.0), relative)
    equal = np.mean([found == expected for found, expected in tokens])
    return {
        "largest_difference": {name: float(f"{value:.2g}") for name, value in worst.items()},
        "tokens_equal": round(float(equal), 4),
        **_overlap(int8, boxes),
    }


def _overlap(model: SeqTrack, tokens: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> dict[str, Any]:
    """Overlap of the boxes that two sets of tokens mean, example by example: its mean and its 5th percentile."""
    config = model.config
    one, other = (
        from_order(torch.from_numpy(np.concatenate(side)).float() / (config.bins - 1), config.order)
        for side in zip(*tokens, strict=True)
    )
    overlap = iou(one, other).numpy()
    return {
        "overlap_with_fp32": {
            "mean": round(float(overlap.mean()), 4),
            "5th_percentile": round(float(np.quantile(overlap, 0.05)), 4),
        }
    }
