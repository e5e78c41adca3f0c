"""AdamW with the parameter groups and the schedules of the recipes."""

from __future__ import annotations

import math

import torch

from train.objective import Objective
from train.recipes import Recipe


def build(objective: Objective, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over four groups: the pretrained part and the rest, matrices with weight decay and vectors without; and one
    more for each of the objective's `rates`, without weight decay.

    Each group carries its own share of the learning rate as "factor". What is frozen is in none.
    """
    pretrained = f"model.{objective.model.pretrained}."
    learning = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    apart = [
        {"params": [learning.pop(name) for name in list(learning) if name.endswith(ending)], "factor": factor}
        for ending, factor in objective.rates.items()
    ]
    groups = []
    for is_pretrained in (True, False):
        for is_matrix in (True, False):
            parameters = [
                parameter
                for name, parameter in learning.items()
                if name.startswith(pretrained) == is_pretrained and (parameter.dim() > 1) == is_matrix
            ]
            decay = recipe.weight_decay if is_matrix or recipe.decay_vectors else 0.0
            factor = recipe.encoder_lr if is_pretrained else 1.0
            groups.append({"params": parameters, "weight_decay": decay, "factor": factor})
    groups += [{**group, "weight_decay": 0.0} for group in apart]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then constant; over the last `decay` steps a tenth ("step") or down to zero ("linear").

    A run that is shorter than warm-up and decay has both of them shorter by the same factor, and reaches the recipe's
    rate all the same.
    """
    shorter = min(1.0, recipe.steps / max(recipe.warmup + recipe.decay, 1))
    warmup, decay = recipe.warmup * shorter, recipe.decay * shorter
    left = (recipe.steps - step) / decay if decay else math.inf
    if recipe.schedule == "step":
        left = 0.1 if left <= 1 else 1.0
    return recipe.lr * min(1.0, (step + 1) / max(warmup, 1), left)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to its share."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
