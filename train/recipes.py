"""Recipes by name: the model, its data mixture and how it is trained: all that decides a run's result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from train.data.pairs import PairConfig
from train.models.seqtrack import PRESETS, SeqTrackConfig
from train.settings import with_settings


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources in the stream of examples; a source without data gives its share to the others."""

    video: float = 0.45
    stills: float = 0.35
    scenes: float = 0.2
    drawn: float = 0.15
    """Share of drawn shapes among the scenes' cut-outs."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    model: SeqTrackConfig
    mixture: Mixture = field(default_factory=Mixture)
    pairs: PairConfig = field(default_factory=PairConfig)
    batch: int = 64
    steps: int = 14_000
    lr: float = 8e-4
    warmup: int = 500
    decay: int = 3000
    """The learning rate falls linearly to zero over the last `decay` steps and is constant before."""
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    sigma: float = 0.01
    """Spread of the soft targets, in units of the search crop's side."""
    dense: float = 1.0
    """Weight of the auxiliary loss on search tokens; training only."""
    absent: float = 0.5
    """Weight of the END loss."""
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        return cls(
            **{
                **values,
                "model": SeqTrackConfig.from_dict(values["model"]),
                "mixture": Mixture(**values["mixture"]),
                "pairs": PairConfig(**values["pairs"]),
            }
        )


RECIPES: dict[str, Recipe] = {"seqtrack-nano": Recipe(PRESETS["seqtrack-nano"])}


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with ``key=value`` settings applied; see `train.settings.with_settings`."""
    return Recipe.from_dict(with_settings(recipe.to_dict(), settings))
