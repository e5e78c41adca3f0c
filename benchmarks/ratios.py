"""What caching saves: three ways to decode four tokens, and two ways to treat templates, as shares of one another.

Decoding: the official code re-runs the whole prefix through the decoder, and projects the memory again, at every step
("naive"); `decode_step` keeps keys and values ("cached"); `track` has the four steps inside the frame's graph
("fused"). Templates: with joint attention they go through the encoder with every frame; isolated, their keys and values
are computed once. Weights are random: they do not change the times.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.turns import Seconds, in_turns
from edgetrack.decoding import STEPS
from edgetrack_runtimes import Session, SessionOptions, open_session
from quantize.graphs import GraphSpec, seqtrack_graphs
from quantize.opset import EXPORTED
from train.models.seqtrack import PRESETS, SeqTrack


class NaiveStep(nn.Module):
    """Encoder tokens (1, N, D) and the whole prefix (1, n) -> logits (1, V) of the next token, from nothing."""

    def __init__(self, model: SeqTrack) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, sequence: Tensor) -> Tensor:
        return self.model.logits(tokens, sequence)[:, -1]


def measure(
    preset: str,
    backends: Iterable[str],
    threads: int | None = 1,
    rounds: int = 30,
    advance: Callable[[str], object] = lambda what: None,
) -> list[dict[str, Any]]:
    """Export the graphs of a preset with random weights and time them in turns on each backend.

    Returns, for each backend:
        milliseconds: medians of encoding with isolated and with joint templates, and of the three ways to decode.
        fused_quartiles: first and third quartile in milliseconds of fused decoding, which is the frame's graph less
            encoding: runs of different turns, whose noise can exceed what is left.
        of_encoding: the three ways to decode, as shares of encoding with isolated templates.
        isolated_of_joint: encoding with isolated templates as a share of that with joint ones.
    """
    isolated = SeqTrack(replace(PRESETS[preset], template_attention="isolated")).eval()
    joint = SeqTrack(replace(PRESETS[preset], template_attention="joint")).eval()
    generator = torch.Generator().manual_seed(0)
    graphs = seqtrack_graphs(isolated, generator)
    specs = {
        "encode": graphs["encode"],
        "track": graphs["track"],
        "step": graphs["decode_step"],
        "joint": seqtrack_graphs(joint, generator)["encode"],
        **{f"naive{n}": _naive(isolated, n, generator) for n in range(1, STEPS + 1)},
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in specs}
        for name, spec in specs.items():
            advance(f"{preset}: export {name}")
            _export(spec, paths[name])
        entries = []
        for backend in backends:
            advance(f"{preset}: time on {backend}")
            times = _time(backend, paths, specs, threads, rounds)
            entries.append(
                {"preset": preset, "backend": backend, "threads": threads, "rounds": rounds, **shares(times)}
            )
    return entries


def _time(
    backend: str, paths: Mapping[str, Path], specs: Mapping[str, GraphSpec], threads: int | None, rounds: int
) -> dict[str, Seconds]:
    """Seconds of every run of every graph."""
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_session(backend, path, SessionOptions(threads=threads)))
            for name, path in paths.items()
        }
        feeds = {name: _feeds(sessions[name], spec) for name, spec in specs.items()}
        calls = {name: partial(session.run, feeds[name]) for name, session in sessions.items()}
        return in_turns(calls, rounds)


def shares(times: Mapping[str, Seconds]) -> dict[str, Any]:
    """Medians in milliseconds and their ratios, from seconds by graph."""
    median = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    fused = 1e3 * (times["track"] - times["encode"])
    decoding = {
        "naive": sum(median[f"naive{n}"] for n in range(1, STEPS + 1)),
        "cached": STEPS * median["step"],
        "fused": float(np.median(fused)),
    }
    return {
        "milliseconds": {"encode_isolated": median["encode"], "encode_joint": median["joint"], **decoding},
        "fused_quartiles": [float(value) for value in np.percentile(fused, (25, 75))],
        "of_encoding": {name: value / median["encode"] for name, value in decoding.items()},
        "isolated_of_joint": median["encode"] / median["joint"],
    }


def _naive(model: SeqTrack, length: int, generator: torch.Generator) -> GraphSpec:
    config = model.config
    count = config.search_tokens + config.templates * config.template_tokens
    tokens = torch.randn(1, count, config.encoder_dim, generator=generator)
    sequence = torch.randint(config.bins, (1, length), generator=generator)
    return GraphSpec(NaiveStep(model), {"tokens": tokens, "sequence": sequence}, ("logits",))


def _export(spec: GraphSpec, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every optional package that is not installed
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            spec.module,
            tuple(spec.inputs.values()),
            path,
            dynamo=True,
            external_data=False,
            opset_version=EXPORTED,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            verbose=False,
        )


def _feeds(session: Session, spec: GraphSpec) -> dict[str, Any]:
    """The example inputs, those that stay the same from frame to frame already on the device."""
    stays = ("template_", "cross_")
    return {
        name: session.upload(name, tensor.numpy()) if name.startswith(stays) else tensor.numpy()
        for name, tensor in spec.inputs.items()
    }
