"""Recipes that train in a second on drawn scenes, one for each kind of model, and runs of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from train.data.mixture import datasets
from train.data.pairs import PairConfig
from train.loop import fit
from train.models.seqtrack import SeqTrackConfig
from train.models.vtt import VTTConfig
from train.recipes import Assignment, Recipe

SEQTRACK = Recipe(
    SeqTrackConfig(
        search_size=32,
        template_size=32,
        templates=1,
        encoder_dim=16,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=16,
        decoder_heads=2,
        decoder_ffn=16,
        bins=20,
        template_attention="isolated",
    ),
    batch=4,
    steps=6,
    warmup=2,
    decay=3,
)
TINY_VTT = VTTConfig(
    search_width=96,
    search_height=64,
    template_size=32,
    backbone="resnet-nano",
    dim=16,
    encoder_layers=1,
    decoder_layers=2,
    heads=2,
    ffn=16,
    queries=4,
    dropout=0.0,
)
VTT = Recipe(
    TINY_VTT,
    pairs=PairConfig(absent=0.3, window=0.5, shrink=0.3),
    batch=4,
    steps=6,
    warmup=2,
    decay=3,
    assignment=Assignment(score=0.1, every_layer=True),
)


class Killed(Exception):
    """The end of a run that did not see it coming."""


def run(
    recipe: Recipe, out: Path, every: int = 2, start: Path | None = None, data: Sequence[str] = ()
) -> list[dict[str, float]]:
    """Train, or go on, on drawn scenes as if they were `data`, and read the log."""
    train, validation = datasets(recipe, [], validation_pairs=8)
    fit(recipe, train, validation, out, every=every, start=start, data=data)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def run_killed(recipe: Recipe, out: Path, example: int, start: Path | None = None) -> None:
    """Train as `run` does until an example of this number, or a later one, is read."""
    train, _ = datasets(recipe, [])
    read = type(train).__getitem__

    def killed(self: object, index: int) -> object:
        if index >= example:
            raise Killed
        return read(self, index)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(train), "__getitem__", killed)
        with pytest.raises(Killed):
            run(recipe, out, start=start)
