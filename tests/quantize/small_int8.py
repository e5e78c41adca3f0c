"""Small models with rounding layers, calibrated on drawn scenes."""

from __future__ import annotations

from functools import cache

from small_models import CONFIGS, random_model
from torch.utils.data import DataLoader

from quantize.calibrate import calibrate
from quantize.placement import place
from train.data.mixture import datasets
from train.data.pairs import Pair
from train.models.registry import Config
from train.models.seqtrack import SeqTrack
from train.recipes import Recipe


@cache
def examples(config: Config) -> tuple[Pair, ...]:
    recipe = Recipe(config, batch=8, steps=3)
    return tuple(Pair(*batch) for batch in DataLoader(datasets(recipe, [])[0], 8))


def batches(kind: str) -> tuple[Pair, ...]:
    return examples(CONFIGS[kind])


def calibrated_model(kind: str, method: str = "percentile", keep_float: tuple[str, ...] = ()) -> SeqTrack:
    model = place(random_model(kind), keep_float)
    calibrate(model, batches(kind)[:2], method)
    return model
