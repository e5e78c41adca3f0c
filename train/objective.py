"""The model under training: its losses on a batch, and the parts that only training needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetrack.imaging import IMAGENET_MEAN, IMAGENET_STD
from train.data.pairs import Pair
from train.losses import box_tokens, dense_loss, in_order, sequence_loss
from train.models.seqtrack import SeqTrack
from train.recipes import Recipe

LOSSES = ("coordinates", "absent", "on_target", "edges")
"""The terms of the objective, in the order of `train.losses.terms`."""


def normalised(images: Tensor) -> Tensor:
    """uint8 BGR (..., H, W, 3) -> RGB float (..., 3, H, W), as `edgetrack.imaging.normalise` does for one image."""
    scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=images.device)
    return (images.flip(-1) * scale + shift).movedim(-1, -3)


class Objective(nn.Module):
    """Images in, losses out. Holds the model and the head of the dense auxiliary loss."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = SeqTrack(recipe.model)
        self.model.encoder.recompute = recipe.recompute
        # Absent where nothing asks for it, so that every parameter has a gradient in every process.
        self.dense = nn.Linear(recipe.model.encoder_dim, 5) if recipe.dense > 0 else None

    def forward(self, pair: Pair, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss of a batch, and its four terms (4,) before weighting, detached, in the order of `LOSSES`.

        Args:
            pair: the batch.
            counts: (4,), see `train.losses.terms`, of the joint batch that this one may be a part of.
        """
        recipe, model = self.recipe, self.model
        boxes = in_order(pair.box, model.config.order)
        start = torch.full((len(boxes), 1), model.decoder.start, device=boxes.device)
        sequence = torch.cat([start, box_tokens(boxes, model.config.bins)], 1)  # (B, 5)
        tokens = model.encode(normalised(pair.templates), normalised(pair.search))
        sums = sequence_loss(
            model.logits(tokens, sequence), boxes, pair.present, sigma=recipe.sigma, end_weight=recipe.end_weight
        )
        if self.dense is not None:
            sums += dense_loss(self.dense(tokens[:, : model.config.search_tokens]), pair.box, pair.present)
        weights = (1.0, recipe.absent, recipe.dense, recipe.dense)[: len(sums)]
        means = torch.stack(sums) / counts[: len(sums)].clamp(min=1)
        return means @ torch.tensor(weights, device=means.device), means.detach()
