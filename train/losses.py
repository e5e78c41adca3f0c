"""What SeqTrack is trained with, cross-entropy over tokens, and auxiliary losses: a dense one, and VTT's matching.

Every loss is a sum over what it applies to, and `terms` counts that. The caller divides by counts over the joint batch,
so that a batch spread over processes, or cut into parts, has the gradient of the whole; but for `matching_loss`, which
compares the images of a part with each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ON_TARGET = 0.5
"""A token lies on the target when more than this share of its patch does."""


def terms(boxes: Tensor, present: Tensor, grid: tuple[int, int]) -> Tensor:
    """What the four sums are over, (4,) float: present targets, absent ones, search tokens, tokens on the target.

    Args:
        boxes: (B, 4) cx, cy, w, h in [0, 1].
        present: (B,) bool.
        grid: rows and columns of the search tokens.
    """
    covered = coverage(boxes, grid) * present[:, None]
    counts = (present.sum(), (~present).sum(), torch.tensor(covered.numel()), (covered > ON_TARGET).sum())
    return torch.stack([count.to(boxes.device, torch.float32) for count in counts])


def box_tokens(boxes: Tensor, bins: int) -> Tensor:
    """Values (..., 4) -> token ids (..., 4), floor(v * (bins - 1)) of v clamped to [0, 1].

    The official code's, where `train.data.pairs` has clipped the boxes to the crop, as it does in its official
    processing. Elsewhere they say where the box is, beyond the crop's border too, as far as a token can.
    """
    return (boxes.clamp(0, 1) * (bins - 1)).long()


def in_order(boxes: Tensor, order: str) -> Tensor:
    """(..., 4) cx, cy, w, h -> what a sequence of the order "xywh", "whxy" or "corner" says, in [0, 1] as they were."""
    if order == "corner":
        return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    return boxes if order == "xywh" else boxes.roll(2, -1)


def from_order(values: Tensor, order: str) -> Tensor:
    """The inverse of `in_order`. Corners that were decoded the wrong way round span the same box."""
    if order == "corner":
        low, high = torch.minimum(values[..., :2], values[..., 2:]), torch.maximum(values[..., :2], values[..., 2:])
        return torch.cat([(low + high) / 2, high - low], -1)
    return values if order == "xywh" else values.roll(2, -1)


def soft_targets(boxes: Tensor, bins: int, sigma: float) -> Tensor:
    """Boxes (B, 4) -> target distributions (B, 4, bins): a Gaussian around v * (bins - 1).

    Args:
        sigma: standard deviation in units of the range [0, 1].
    """
    centre = boxes.clamp(0, 1)[..., None] * (bins - 1)
    distance = torch.arange(bins, device=boxes.device) - centre  # (B, 4, bins)
    weights = torch.exp(-0.5 * (distance / (sigma * (bins - 1))) ** 2)
    return weights / weights.sum(-1, keepdim=True)


def sequence_loss(
    logits: Tensor, boxes: Tensor, present: Tensor, *, sigma: float, end_weight: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the tokens: the four coordinates and END of present targets, and END at once of absent ones.

    An absent target's sequence is END alone, so the first step decides between a coordinate and END. Where all
    coordinates are answered at once, no END follows.

    Args:
        logits: (B, 5, bins + 2), teacher-forced with START and the four coordinates; or (B, 4, bins + 2).
        boxes: (B, 4) in token order, in [0, 1].
        present: (B,) bool.
        sigma: spread of the soft targets; 0 for the paper's hard ones.
        end_weight: weight of the END that follows a box; the official code's 0.01.

    Returns:
        Sums over the present targets, of the weighted mean over their tokens, and over the absent ones.
    """
    bins = logits.shape[-1] - 2
    log_p = logits.float().log_softmax(-1)  # (B, 5, V)
    if sigma > 0:
        coordinates = -(soft_targets(boxes, bins, sigma) * log_p[:, :4, :bins]).sum(-1)
    else:
        coordinates = -log_p[:, :4].gather(-1, box_tokens(boxes, bins)[..., None])[..., 0]
    total, weight = coordinates.sum(1), 4.0
    if logits.shape[1] > 4:
        total, weight = total - end_weight * log_p[:, 4, bins], weight + end_weight
    sequence = total / weight
    return (sequence * present).sum(), (-log_p[:, 0, bins] * ~present).sum()


def coverage(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each cell of a raster of `grid` rows and columns that a box covers.

    (B, 4) cx, cy, w, h -> (B, rows * columns), row by row.
    """
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2  # (B, 2)
    shares = []
    for axis, cells in ((1, grid[0]), (0, grid[1])):
        edges = torch.arange(cells, device=boxes.device) / cells
        ends, starts = torch.minimum(high[:, axis, None], edges + 1 / cells), torch.maximum(low[:, axis, None], edges)
        shares.append(((ends - starts) * cells).clamp(0, 1))  # (B, cells)
    rows, columns = shares
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def dense_loss(predictions: Tensor, boxes: Tensor, present: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What every search token is asked besides the decoder's answer: am I on the target, and where are its edges?

    Args:
        predictions: (B, Ns, 5), raw: a score, and the distances to the target's left, top, right and bottom edge.
        boxes: (B, 4) cx, cy, w, h in [0, 1].
        present: (B,) bool.
        grid: rows and columns of the search tokens.

    Returns:
        The sum over tokens of the binary cross-entropy of the score against the share of the token's patch that the
        target covers; and, over the tokens that lie on the target for the most part, of 1 - GIoU of the box that the
        distances span (FCOS, Tian et al. 2019).
    """
    covered = coverage(boxes, grid) * present[:, None]  # (B, Ns)
    predictions = predictions.float()
    on_target = F.binary_cross_entropy_with_logits(predictions[..., 0], covered, reduction="sum")
    y, x = ((torch.arange(cells, device=boxes.device) + 0.5) / cells for cells in grid)
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)  # (Ns, 2), row by row
    # Scaled so that a distance of a quarter of the crop, the usual order, is a value near 0.
    distances = F.softplus(predictions[..., 1:]) * 0.25
    low, high = centres - distances[..., :2], centres + distances[..., 2:]  # (B, Ns, 2)
    target_low = (boxes[:, None, :2] - boxes[:, None, 2:] / 2).expand_as(low)
    target_high = (boxes[:, None, :2] + boxes[:, None, 2:] / 2).expand_as(high)
    spans = 1 - generalised_iou(low, high, target_low, target_high)
    return on_target, (spans * (covered > ON_TARGET)).sum()


def matching_loss(likeness: Tensor, visible: Tensor, boxes: Tensor, present: Tensor, grid: tuple[int, int]) -> Tensor:
    """How well each target's cells are told from the other cells of its image, and from those of all images.

    Of random features, an encoder learns where things are long before it learns which of them is asked for; told apart
    across images, a cell cannot be right for being salient (van den Oord et al. 2018, InfoNCE).

    Args:
        likeness: (B, B, M), of example j's target to the cells of image i.
        visible: (B, M) bool, the cells that the images cover.
        boxes: (B, 4) cx, cy, w, h in [0, 1], of each example's target in its own image.
        present: (B,) bool. Images without their target offer cells to be told from.
        grid: rows and columns of the cells.

    Returns:
        The sum over present targets of the mean of two cross-entropies, among the M cells of the image and among all
        B M, against the target's coverage of its cells as a distribution. In parts of a batch, or on several
        processes, other images are those of the same part.
    """
    likeness = likeness.float().masked_fill(~visible, -1e9)
    covered = coverage(boxes, grid)
    wanted = covered / covered.sum(-1, keepdim=True).clamp(min=1e-6)  # (B, M)
    own = torch.arange(len(likeness), device=likeness.device)
    here = likeness[own, own].log_softmax(-1)
    anywhere = likeness.flatten(1).log_softmax(-1).view_as(likeness)[own, own]
    return -((wanted * (here + anywhere)).sum(-1) / 2 * present).sum()


def generalised_iou(low: Tensor, high: Tensor, other_low: Tensor, other_high: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019, Alg. 1) of boxes given by their corners (..., 2) -> (...)."""
    intersection = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(-1)
    union = (high - low).prod(-1) + (other_high - other_low).prod(-1) - intersection
    hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).prod(-1)
    return intersection / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)
