"""Recipes by name: the model, its data mixture and how it is trained: all that decides a run's result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.checkpoints import CheckpointError
from train.data.pairs import OFFICIAL, WHOLE_FRAMES, PairConfig
from train.models import seqtrack, vtt
from train.models.registry import Config, config_from_dict
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

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("video", "stills", "scenes", "drawn")}
        if self.ratios is not None:
            if not isinstance(self.ratios, dict):
                raise ValueError(
                    f'ratios is {self.ratios!r}; expected shares by kind, such as {{"lasot": 1, "coco": 1}}'
                )
            shares |= {f"ratios.{kind}": share for kind, share in self.ratios.items()}
        for name, share in shares.items():
            if type(share) not in (int, float) or not 0 <= share < math.inf:
                raise ValueError(f"{name} is {share!r}; expected a share, a number of at least 0")


@dataclass(frozen=True)
class Assignment:
    """Weights of VTT's loss; see `train.assignment`. The defaults are the paper's."""

    giou: float = 1.0
    l1: float = 5.0
    score: float = 0.01
    """Of the cross-entropy over all queries."""
    every_layer: bool = False
    """Whether the loss is taken after every decoder layer, as in DETR, or after the last."""


PRECISIONS = ("bf16", "fp16", "fp32")
SCHEDULES = ("linear", "step")


@dataclass(frozen=True)
class Recipe:
    """One training run. The defaults are SeqTrack's edge preset's."""

    model: Config
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
    """The learning rate of what is pretrained, the encoder or the backbone, as a share of `lr`; 0 freezes it."""
    frozen: tuple[str, ...] = ()
    """Parameters of the model that stay as they begin, by name with *, ? and [0-9]."""
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
    """SeqTrack: spread of the soft targets, in units of the search crop's side; 0 for hard ones."""
    end_weight: float = 0.0
    """SeqTrack: weight of the END that follows a box."""
    assignment: Assignment = field(default_factory=Assignment)
    dense: float = 1.0
    """Weight of the auxiliary loss on search tokens; training only."""
    matching: float = 0.0
    """VTT: weight of the auxiliary loss on the correlation; training only."""
    absent: float = 0.5
    """Weight of absent targets: of SeqTrack's END, or of VTT's scores as a share of that of present ones."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "steps"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a whole number of at least 1")
        if type(self.ema) not in (int, float) or not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema!r}; expected a number of at least 0 and less than 1")
        if not all(isinstance(pattern, str) for pattern in self.frozen):
            raise ValueError(f"frozen is {list(self.frozen)}; expected a list of parameters' names")
        for name, allowed in (("precision", PRECISIONS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")

    @property
    def freezes(self) -> str:
        """What does not learn, in words; empty where all of the model does."""
        return ", ".join([*self.frozen, *(["encoder_lr is 0"] if self.encoder_lr == 0 else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {**dataclasses.asdict(self), "model": {"kind": self.model.kind, **self.model.to_dict()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        model = dict(values["model"])
        kind = model.pop("kind", "seqtrack")  # files from before there was a second kind do not name it
        return cls(
            **{
                **values,
                "model": config_from_dict(kind, model),
                "mixture": Mixture(**values["mixture"]),
                "pairs": PairConfig(**values["pairs"]),
                "assignment": Assignment(**values.get("assignment", {})),
                "frozen": tuple(values.get("frozen", ())),
            }
        )


EPOCHS = 500
"""Length of SeqTrack's published training; over the last 100 epochs the learning rate is a tenth."""


def _paper(preset: str, epoch: int, ratios: dict[str, float]) -> Recipe:
    """SeqTrack's published training (Sec. 4.1 and the official configuration), `epoch` examples an epoch."""
    batch = 64
    return Recipe(
        seqtrack.PRESETS[preset],
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


VTT_EPOCH = 60_000
"""Examples of an epoch; like the batch size, the paper does not say, and it is SeqTrack's."""
VTT_BATCH = 32


def _vtt_paper(epochs: int, decay: int, ratios: dict[str, float]) -> Recipe:
    """One stage of VTT's published training; the learning rate is a tenth over the last `decay` epochs."""
    return Recipe(
        vtt.PRESETS["vtt-r50"],
        mixture=Mixture(ratios=ratios),
        pairs=WHOLE_FRAMES,
        batch=VTT_BATCH,
        steps=epochs * VTT_EPOCH // VTT_BATCH,
        lr=1e-4,
        encoder_lr=0.0,
        beta2=0.999,
        schedule="step",
        warmup=0,
        decay=decay * VTT_EPOCH // VTT_BATCH,
        weight_decay=1e-4,
        decay_vectors=True,
        clip=0.1,
        ema=0.0,
        dense=0.0,
        absent=0.0,
    )


_SEQTRACK_NANO = Recipe(
    seqtrack.PRESETS["seqtrack-nano"],
    pairs=PairConfig(centre_jitter=4.5, shade=0.3),
    steps=4000,
    encoder_lr=0.2,
    frozen=("encoder.stem.features.stem.*", "encoder.stem.features.blocks.[0-4].*"),
    warmup=200,
    decay=1500,
)
"""The edge preset, whose backbone begins with ImageNet's features. Its layers above stride 16 stay as they are: they
find what all pictures have, and most of the time that a step would take is theirs."""

_VTT_NANO = Recipe(
    vtt.PRESETS["vtt-nano"],
    mixture=Mixture(video=0.4, stills=0.3, scenes=0.3),
    pairs=PairConfig(absent=0.2, template_jitter=0.1, window=0.5, shrink=0.25, shade=0.3),
    batch=32,
    steps=4000,
    lr=2.5e-4,
    encoder_lr=0.2,
    frozen=("backbone.stem.*", "backbone.blocks.[0-4].*"),
    warmup=150,
    decay=1500,
    ema=0.995,
    assignment=Assignment(score=0.2, every_layer=True),
    dense=5.0,
    matching=1.0,
    absent=1.0,
)
"""The edge preset: absent targets, and losses after every layer, on every token and on the correlation.
What the tokens learn the queries can use: with the tokens' loss at weight 5 instead of 1 the boxes' loss, too, falls
faster. With a backbone learned from nothing, nothing was matched in 30,000 pairs without the loss on the correlation,
and at twice the rate training went astray after 160,000. The backbone is treated as seqtrack-nano's is."""

_ALL_FOUR = {"lasot": 1.0, "got10k": 1.0, "coco": 1.0, "trackingnet": 1.0}
_PAPER_PRESETS = tuple(name for name in seqtrack.PRESETS if name != "seqtrack-nano")

RECIPES: dict[str, Recipe] = {
    "seqtrack-nano": _SEQTRACK_NANO,
    **{name: _paper(name, 60_000, _ALL_FOUR) for name in _PAPER_PRESETS},
    "vtt-nano": _VTT_NANO,
    "vtt-r50-coco": _vtt_paper(20, 0, {"coco": 1.0}),
    "vtt-r50": _vtt_paper(100, 20, {"coco": 0.4, "got10k": 0.4, "lasot": 0.2}),
    **{f"{name}-got": _paper(name, 30_000, {"got10k": 1.0}) for name in _PAPER_PRESETS},
}
"""By name. SeqTrack's published variants, with -got trained on GOT-10k alone, as its protocol asks; VTT's, whose second
stage begins with the weights of the first, -coco; and the edge presets."""


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with ``key=value`` settings applied; see `train.settings.with_settings`."""
    return Recipe.from_dict(with_settings(recipe.to_dict(), settings))


def recipe_of(path: Path, metadata: Mapping[str, Any]) -> Recipe:
    """The recipe under "recipe" in the metadata of the weights at `path`; raises `CheckpointError`."""
    try:
        return Recipe.from_dict(metadata["recipe"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{path} was trained with a recipe that is not one here ({problem}); take the version that wrote it"
        ) from error
