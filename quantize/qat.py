"""Quantisation-aware fine-tuning: the rounded model learns to answer what the FP32 model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from quantize.answers import answer, divergence
from quantize.placement import place
from train.checkpoints.files import QUANTISED
from train.data.pairs import Pair
from train.models.registry import Model, build
from train.objective import Objective
from train.recipes import Recipe

SCALE_RATE = 25.0
"""Of the activations' scales, in units of the weights' rate. They are logarithms, so that a step changes each by the
same proportion: a thousandth at a rate of 4e-5."""


def qat_recipe(recipe: Recipe) -> Recipe:
    """The recipe a model was trained with, made short and gentle: a small rate, no decay towards zero.

    In float32, because bfloat16 rounds more coarsely than INT8 with calibrated ranges does. What training froze
    learns too: it is rounded like the rest.
    """
    gentle = {"steps": 1500, "lr": 2e-5, "warmup": 50, "schedule": "linear", "decay": 750, "weight_decay": 0.0}
    rates = {"encoder_lr": recipe.encoder_lr or 1.0, "frozen": ()}
    return replace(recipe, **gentle, **rates, ema=0.99, dense=0.0, precision="fp32")


def distillation(teacher: Model, facts: Mapping[str, Any]) -> Callable[[Recipe], Objective]:
    """What `train.loop.fit` makes its objective with: a rounded model taught by `teacher`.

    Args:
        teacher: the FP32 model.
        facts: of the rounded one, for its file: "keep_float", and how it was calibrated.
    """
    return lambda recipe: Distillation(recipe, teacher, facts)


class Distillation(Objective):
    """The teacher's distribution over every token (Hinton et al. 2015, at temperature 1), and its encoder's output.

    Targets that are absent take part: what the teacher makes of them is presence.
    """

    losses = ("divergence", "encoder")
    rates: Mapping[str, float] = MappingProxyType({"log_scale": SCALE_RATE})

    def __init__(self, recipe: Recipe, teacher: Model, facts: Mapping[str, Any]) -> None:
        super().__init__(recipe, place(build(recipe.model), facts["keep_float"]), width=1)
        # In a tuple, so that it is not part of this module: neither trained nor saved.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.facts = {**facts, "kind": recipe.model.kind + QUANTISED}

    def counts(self, pair: Pair) -> Tensor:
        return torch.full((2,), float(len(pair.box)), device=pair.box.device)

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        teacher = self._teacher[0].to(pair.box.device)
        with torch.no_grad():
            wanted = answer(teacher, pair)
        found = answer(self.model, pair)
        tokens, expected = found.tokens.float(), wanted.tokens.float()
        error = (tokens - expected).square().mean((1, 2)) / expected.square().mean((1, 2))
        return self._joint((divergence(found, wanted).float().sum(), error.sum()), (1.0, 1.0), counts)
