"""Quantisation-aware fine-tuning: the rounded model learns to answer what the FP32 model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quantize.checkpoints import KIND
from quantize.placement import place
from train.data.pairs import Pair
from train.losses import box_tokens, in_order
from train.models.seqtrack import SeqTrack
from train.objective import Objective, normalised
from train.recipes import Recipe


def qat_recipe(metadata: Mapping[str, Any], model: SeqTrack) -> Recipe:
    """The recipe the model was trained with, made short and gentle: a small rate, no decay towards zero.

    The scales are learned at the same rate; they are logarithms, so a step changes each by the same proportion. In
    float32, because bfloat16 rounds more coarsely than INT8 with calibrated ranges does.
    """
    recipe = Recipe.from_dict(metadata["recipe"]) if "recipe" in metadata else Recipe(model.config)
    gentle = {"steps": 1500, "lr": 2e-5, "warmup": 50, "schedule": "linear", "decay": 750, "weight_decay": 0.0}
    return replace(recipe, **gentle, ema=0.99, dense=0.0, precision="fp32")


def distillation(teacher: SeqTrack, keep_float: list[str]) -> Callable[[Recipe], Objective]:
    """What `train.loop.fit` makes its objective with: a rounded model taught by `teacher`."""
    return lambda recipe: Distillation(recipe, teacher, keep_float)


class Distillation(Objective):
    """The teacher's distribution over every token (Hinton et al. 2015, at temperature 1), and its encoder's output.

    Targets that are absent take part: what the teacher makes of them is presence.
    """

    losses = ("divergence", "encoder")

    def __init__(self, recipe: Recipe, teacher: SeqTrack, keep_float: list[str]) -> None:
        super().__init__(recipe, place(SeqTrack(recipe.model), keep_float), recipe.model.encoder_dim)
        # In a tuple, so that it is not part of this module: neither trained nor saved.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.facts = {"kind": KIND, "keep_float": keep_float}

    def counts(self, pair: Pair) -> Tensor:
        return torch.full((2,), float(len(pair.box)), device=pair.box.device)

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        model, teacher = self.model, self._teacher[0].to(pair.box.device)
        templates, search = normalised(pair.templates), normalised(pair.search)
        boxes = in_order(pair.box, model.config.order)
        ids = box_tokens(boxes, model.config.bins)
        with torch.no_grad():
            wanted = teacher.encode(templates, search)
            wanted_log_p = teacher.answers(wanted, ids, pair.history)[:, :4].float().log_softmax(-1)
        tokens = model.encode(templates, search)
        log_p = model.answers(tokens, ids, pair.history)[:, :4].float().log_softmax(-1)  # (B, 4, V)
        divergence = F.kl_div(log_p, wanted_log_p, log_target=True, reduction="none").sum(-1).mean(1).sum()
        wanted = wanted.float()
        error = (tokens.float() - wanted).square().mean((1, 2)) / wanted.square().mean((1, 2))
        return self._joint((divergence, error.sum()), (1.0, 1.0), counts)
