"""The trackers that an embedded developer would otherwise take, on the same frames in the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import loss
from benchmarks.accuracy import evaluate, read_tracks
from benchmarks.contenders import OPENCV, Contender, Spec
from benchmarks.datasets import Dataset
from benchmarks.results import ResultsError
from benchmarks.returns import returning
from benchmarks.wide import wide


def available(weights: Path | None, threads: int | None) -> tuple[list[Spec], dict[str, str]]:
    """The peers that run here, and why the others do not.

    weights: a folder with ``*_backbone_*.onnx`` and ``*_head_*.onnx`` of NanoTrack.
    """
    specs = [Spec(f"opencv:{name}", threads=threads) for name in OPENCV if name != "nano"]
    if weights is not None:
        for backbone in sorted(weights.glob("*backbone*.onnx")):
            head = backbone.with_name(backbone.name.replace("backbone", "head"))
            specs.append(Spec(f"opencv:nano:{backbone},{head}", threads=threads))
    able, missing = [], {}
    for spec in specs:
        try:
            spec.make()
        except ResultsError as error:
            missing[spec.model] = str(error)
        else:
            able.append(spec)
    return able, missing


def compare(
    specs: list[Spec],
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    draws: int = 1,
    advance: Callable[[str], object] = lambda name: None,
) -> list[dict[str, Any]]:
    """Accuracy, times and behaviour at a loss of each contender.

    seed, draws: of the sequences whose target comes back far away, and of those in a wide view; see
        `benchmarks.returns` and `benchmarks.wide`.

    Returns:
        For each what `evaluate` returns, with "behaviour" on the dataset as it is ("given") and on what is made of it
        ("near", "far", "wide"), the "loss" that these come to, and the names of the sequences "left_out" of near and
        far.
    """
    near, left_out = returning(dataset, far=False)
    far, _ = returning(dataset, far=True, seed=seed, draws=draws)
    wide_views, _ = wide(dataset, seed, draws)
    runs = []
    for spec in specs:
        contender = spec.make()
        advance(contender.label)
        runs.append([_tracked(spec, contender, each, out) for each in (dataset, near, far, wide_views)])
    # Judged when all have been run: it loads more than a device would, beside which nothing should be timed.
    return [
        {
            **content,
            "behaviour": {
                "given": loss.behaviour(given),
                "near": loss.behaviour(here),
                "far": loss.behaviour(away),
                "wide": loss.behaviour(small),
            },
            "loss": loss.summary(here, away, small),
            "left_out": list(left_out),
        }
        for (content, given), (_, here), (_, away), (_, small) in runs
    ]


def _tracked(spec: Spec, contender: Contender, dataset: Dataset, out: Path) -> tuple[dict[str, Any], loss.Tracked]:
    _, content = evaluate(spec, dataset, out, contender=contender)
    tracks = read_tracks(Path(content["results"]), dataset, times=content["timed"] is not None)
    return content, [(sequence.result(tracks[sequence.name]), tracks[sequence.name]) for sequence in dataset.sequences]
