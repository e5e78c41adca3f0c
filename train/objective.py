"""The model under training: its losses on a batch, and the parts that only training needs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgetrack.imaging import IMAGENET_MEAN, IMAGENET_STD
from train.assignment import assignment_loss
from train.data.pairs import Pair
from train.losses import box_tokens, dense_loss, in_order, matching_loss, sequence_loss, terms
from train.models.registry import Model
from train.models.seqtrack import SeqTrack, SeqTrackConfig
from train.models.vtt import VTT, VTTConfig
from train.recipes import Recipe


def normalised(images: Tensor) -> Tensor:
    """uint8 BGR (..., H, W, 3) -> RGB float (..., 3, H, W), the values of `edgetrack.imaging.normalise`."""
    scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=images.device)
    return (images.flip(-1) * scale + shift).movedim(-1, -3)


class Objective(nn.Module):
    """Images in, losses out. Holds the model and the head of the dense auxiliary loss; a subclass for each kind.

    Attributes:
        losses: names of the terms.
        facts: what the file of weights says besides their kind, configuration and training.
        rates: of parameters whose names end so, the share of the learning rate that they learn at.
    """

    losses: ClassVar[tuple[str, ...]]
    facts: Mapping[str, Any] = MappingProxyType({})
    rates: Mapping[str, float] = MappingProxyType({})
    model: Model

    def __init__(self, recipe: Recipe, model: Model, width: int) -> None:
        super().__init__()
        self.recipe, self.model = recipe, model
        if recipe.encoder_lr == 0:
            model.get_submodule(model.pretrained).requires_grad_(False)
        self._freeze(recipe.frozen)
        # Absent where nothing asks for it, so that every parameter has a gradient in every process.
        self.dense = nn.Linear(width, 5) if recipe.dense > 0 else None

    def _freeze(self, patterns: Iterable[str]) -> None:
        parameters = dict(self.model.named_parameters())
        for pattern in patterns:
            names = fnmatch.filter(parameters, pattern)
            if not names:
                raise ValueError(
                    f"frozen is {pattern!r}, which is no parameter's name; expected one like {min(parameters)}"
                )
            for name in names:
                parameters[name].requires_grad_(False)

    def counts(self, pair: Pair) -> Tensor:
        """What the terms are sums over in this batch, in the order of `losses`."""
        raise NotImplementedError

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss of a batch, and its terms before weighting, detached; auxiliary ones that are off are left
        out at the end, or 0.

        Args:
            pair: the batch.
            counts: as `counts` gives them, of the joint batch that this one may be a part of.
        """
        raise NotImplementedError

    def _joint(self, sums: tuple[Tensor, ...], weights: tuple[float, ...], counts: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.stack(sums) / counts[: len(sums)].clamp(min=1)
        return means @ torch.tensor(weights[: len(sums)], device=means.device), means.detach()


class SeqTrackObjective(Objective):
    """Cross-entropy of the box's tokens."""

    losses = ("coordinates", "absent", "on_target", "edges")
    model: SeqTrack

    def __init__(self, recipe: Recipe, config: SeqTrackConfig) -> None:
        super().__init__(recipe, SeqTrack(config), config.encoder_dim)
        self.model.encoder.recompute = recipe.recompute

    def counts(self, pair: Pair) -> Tensor:
        return terms(pair.box, pair.present, self.model.config.grid)

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        recipe, model = self.recipe, self.model
        boxes = in_order(pair.box, model.config.order)
        tokens = model.encode(normalised(pair.templates), normalised(pair.search))
        logits = model.answers(tokens, box_tokens(boxes, model.config.bins), pair.history)
        sums = sequence_loss(logits, boxes, pair.present, sigma=recipe.sigma, end_weight=recipe.end_weight)
        if self.dense is not None:
            predictions = self.dense(tokens[:, : model.config.search_tokens])
            sums += dense_loss(predictions, pair.box, pair.present, model.config.grid)
        return self._joint(sums, (1.0, recipe.absent, recipe.dense, recipe.dense), counts)


class VTTObjective(Objective):
    """The optimal assignment loss, see `train.assignment`, and auxiliary ones where the recipe asks for them."""

    losses = ("box", "score", "absent", "on_target", "edges", "match")
    model: VTT

    def __init__(self, recipe: Recipe, config: VTTConfig) -> None:
        if recipe.recompute:
            raise ValueError("recompute is true; expected false, a VTT keeps its activations")
        super().__init__(recipe, VTT(config), config.dim)
        self.match = nn.Linear(config.dim, 1, bias=False) if recipe.matching > 0 else None

    def counts(self, pair: Pair) -> Tensor:
        present, *rest = terms(pair.box, pair.present, self.model.config.grid)
        return torch.stack([present, present, *rest, present])

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        recipe, model, weights = self.recipe, self.model, self.recipe.assignment
        states, memory, kernel, features = model(normalised(pair.templates[:, 0]), normalised(pair.search), pair.extent)
        # In half precision a box would be known to half a pixel.
        with torch.autocast(memory.device.type, enabled=False):
            answers = model.answer([state.float() for state in (states if weights.every_layer else states[-1:])])
        box, score, absent = assignment_loss(
            answers.boxes, answers.logits, pair.box, pair.present, giou=weights.giou, l1=weights.l1
        )
        on_target, edges = self._dense(memory, pair)
        share = weights.score
        return self._joint(
            (box, score, absent, on_target, edges, self._match(kernel, features, pair)),
            (1.0, share, share * recipe.absent, recipe.dense, recipe.dense, recipe.matching),
            counts,
        )

    def _dense(self, memory: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
        if self.dense is None:
            none = torch.zeros((), device=memory.device)
            return none, none
        return dense_loss(self.dense(memory), pair.box, pair.present, self.model.config.grid)

    def _match(self, kernel: Tensor, features: Tensor, pair: Pair) -> Tensor:
        """The matching loss of what one channel says of a cell before the encoder, for every kernel and every canvas
        of the batch: a linear function of the tokens, and so of the products of kernel and feature."""
        if self.match is None:
            return torch.zeros((), device=kernel.device)
        with torch.autocast(kernel.device.type, enabled=False):
            weight = (self.match.weight @ self.model.reduce.weight)[0]  # (C,)
            likeness = torch.einsum("jc,imc->jim", kernel.float() * weight, features.float())
        visible = self.model.visible(pair.extent)[:, 0, 0]  # (B, M)
        return matching_loss(likeness, visible, pair.box, pair.present, self.model.config.grid)


def objective(recipe: Recipe) -> Objective:
    """The objective of a recipe, its model with random weights."""
    if isinstance(recipe.model, VTTConfig):
        return VTTObjective(recipe, recipe.model)
    return SeqTrackObjective(recipe, recipe.model)
