"""What an earlier quantisation learned, carried over to weights that were trained further since.

Fine-tuning a rounded model moves its weights a little, and so does training on from weights that are good already. Both
moves are small beside the weights, so they add up, as those of two tasks do (Ilharco et al., ICLR 2023): what FP32's
training changed is added to the rounded model's weights, and its activations' ranges stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantize.equalise import relu_pairs, scale_between
from quantize.norms import fold_norms
from train.models.registry import Model


@torch.no_grad()
def carry(quantised: Model, before: Model, after: Model) -> None:
    """Add to `quantised`, in place, what has changed from `before` to `after`.

    Args:
        quantised: a rounded model that was made of `before`, as `quantize.checkpoints.load_quantised` returns it.
        before: FP32. Changed: its normalisations are folded and its channels evened out as the rounded model's were.
        after: FP32, of the same configuration. Changed in the same way.

    Raises:
        ValueError: the three are not of one configuration.
    """
    if not quantised.config == before.config == after.config:
        raise ValueError(
            "the quantised model, the weights that it was made of and those trained since are not of one "
            "configuration; expected weights that were trained on as they were"
        )
    for model in (before, after):
        fold_norms(model)
    pairs = zip(relu_pairs(quantised), relu_pairs(before), relu_pairs(after), strict=True)
    for (rounded, _), old, new in pairs:
        factor = _equalised_by(old[0].weight, rounded.weight)
        scale_between(*old, factor)
        scale_between(*new, factor)
    was, now = before.state_dict(), after.state_dict()
    for name, tensor in quantised.state_dict().items():
        if name in was and tensor.is_floating_point():
            tensor += now[name] - was[name]


def _equalised_by(weight: Tensor, equalised: Tensor) -> Tensor:
    """The factor (C,) by which each output channel of `weight` (C, ...) was divided, as well as `equalised` tells it
    after some training: that of the least squares. 1 for channels of which nothing is left."""
    weight, equalised = weight.flatten(1), equalised.flatten(1)
    product = (weight * equalised).sum(1)
    return torch.where(product > 0, weight.square().sum(1) / product, 1)
