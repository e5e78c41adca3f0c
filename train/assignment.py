"""VTT's loss: of all queries' answers the best is assigned to the target, and the others are taught to say no.

As in `train.losses`, every loss is a sum over examples, and over the decoder layers given; the caller divides.
"""

from __future__ import annotations

from torch import Tensor

from train.losses import generalised_iou


def box_loss(boxes: Tensor, target: Tensor, *, giou: float, l1: float) -> Tensor:
    """giou * (1 - GIoU) + l1 * ||b - t||_1 of boxes (..., 4) in cx, cy, w, h, broadcast -> (...)."""
    target = target.expand_as(boxes)
    (low, high), (target_low, target_high) = _corners(boxes), _corners(target)
    overlap = generalised_iou(low, high, target_low, target_high)
    return giou * (1 - overlap) + l1 * (boxes - target).abs().sum(-1)


def assignment_loss(
    boxes: Tensor, logits: Tensor, target: Tensor, present: Tensor, *, giou: float, l1: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal assignment loss: i* = argmin_i -p_i + L_box(b_i, t), then L_box(b_i*, t) and a binary cross-entropy
    of every query's p_i against [i = i*]. No query is assigned to an absent target.

    Args:
        boxes: (L, B, N, 4) cx, cy, w, h; each of L layers is assigned for itself.
        logits: (L, B, N, 2).
        target: (B, 4).
        present: (B,) bool.
        giou, l1: weights of the two parts of L_box.

    Returns:
        Sums over present targets of L_box and of the cross-entropies, and over absent ones of the cross-entropies.
    """
    boxes, log_p = boxes.float(), logits.float().log_softmax(-1)  # (L, B, N, 2)
    cost = box_loss(boxes, target[None, :, None], giou=giou, l1=l1)  # (L, B, N)
    best = (cost - log_p[..., 1].exp()).detach().argmin(-1, keepdim=True)  # (L, B, 1)
    none = -log_p[..., 0].sum(-1)  # (L, B): all queries say no
    one = none + (log_p[..., 0] - log_p[..., 1]).gather(-1, best)[..., 0]
    return (
        (cost.gather(-1, best)[..., 0] * present).sum(),
        (one * present).sum(),
        (none * ~present).sum(),
    )


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
