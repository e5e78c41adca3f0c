"""The trackers that an embedded developer would otherwise take, on the same frames in the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import loss
from benchmarks.accuracy import evaluate
from benchmarks.contenders import OPENCV, Spec
from benchmarks.datasets import Dataset
from benchmarks.results import ResultsError


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
    specs: list[Spec], dataset: Dataset, out: Path, advance: Callable[[str], object] = lambda name: None
) -> list[dict[str, Any]]:
    """Accuracy, times and behaviour at a loss of each contender."""
    compared = []
    for spec in specs:
        contender = spec.make()
        advance(contender.label)
        _, content = evaluate(spec, dataset, out, contender=contender)
        compared.append({**content, "loss": loss.measure(contender, dataset.sequences)})
    return compared
