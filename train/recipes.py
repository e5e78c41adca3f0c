"""Recipes by name: the model, its data mixture and how it is trained: all that decides a run's result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from train.data.pairs import OFFICIAL, PairConfig
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
    ratios: dict[str, float] | None = None
    """Instead of the above: shares by dataset kind, such as lasot 1, got10k 1; "scenes" and "clips" are drawn."""


@dataclass(frozen=True)
class Recipe:
    """One training run. The defaults are the edge presets'."""

    model: SeqTrackConfig
    mixture: Mixture = field(default_factory=Mixture)
    pairs: PairConfig = field(default_factory=PairConfig)
    batch: int = 64
    """Examples of one step, over all processes."""
    accumulate: int = 1
    """Parts that a step's examples are computed in, one after the other, where memory is short."""
    recompute: bool = False
    """Keep no activations inside the encoder's blocks: less memory, a third more time."""
    precision: str = "bf16"
    """Autocast: "bf16", "fp16" (with a scaled loss) or "fp32" (none)."""
    steps: int = 14_000
    lr: float = 8e-4
    encoder_lr: float = 1.0
    """The encoder's learning rate, as a share of `lr`."""
    beta2: float = 0.98
    schedule: str = "linear"
    """What the last `decay` steps do: "linear" to zero, or "step" to a tenth."""
    warmup: int = 500
    decay: int = 3000
    weight_decay: float = 0.05
    decay_vectors: bool = False
    """Whether biases and normalisation are decayed too."""
    clip: float = 1.0
    ema: float = 0.999
    """Decay of the averaged weights, which are what is validated and kept; 0 keeps the last."""
    sigma: float = 0.01
    """Spread of the soft targets, in units of the search crop's side; 0 for hard ones."""
    end_weight: float = 0.0
    """Weight of the END that follows a box."""
    dense: float = 1.0
    """Weight of the auxiliary loss on search tokens; training only."""
    absent: float = 0.5
    """Weight of the END of absent targets."""
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


EPOCHS = 500
"""Length of the paper's training; over the last 100 epochs the learning rate is a tenth."""


def _paper(preset: str, epoch: int, ratios: dict[str, float]) -> Recipe:
    """SeqTrack's published training (Sec. 4.1 and the official configuration), `epoch` examples an epoch."""
    batch = 64
    return Recipe(
        PRESETS[preset],
        mixture=Mixture(ratios=ratios),
        pairs=OFFICIAL,
        batch=batch,
        recompute=preset == "seqtrack-l384",
        steps=EPOCHS * epoch // batch,
        lr=1e-4,
        encoder_lr=0.1,
        beta2=0.999,
        schedule="step",
        warmup=0,
        decay=100 * epoch // batch,
        weight_decay=1e-4,
        decay_vectors=True,
        clip=0.1,
        ema=0.0,
        sigma=0.0,
        end_weight=0.01,
        dense=0.0,
        absent=0.0,
    )


_ALL_FOUR = {"lasot": 1.0, "got10k": 1.0, "coco": 1.0, "trackingnet": 1.0}
_PAPER_PRESETS = tuple(name for name in PRESETS if name != "seqtrack-nano")

RECIPES: dict[str, Recipe] = {
    "seqtrack-nano": Recipe(PRESETS["seqtrack-nano"]),
    **{name: _paper(name, 60_000, _ALL_FOUR) for name in _PAPER_PRESETS},
    **{f"{name}-got": _paper(name, 30_000, {"got10k": 1.0}) for name in _PAPER_PRESETS},
}
"""By name. The paper's variants, with -got trained on GOT-10k alone, as its protocol asks; the edge preset."""


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with ``key=value`` settings applied; see `train.settings.with_settings`."""
    return Recipe.from_dict(with_settings(recipe.to_dict(), settings))
