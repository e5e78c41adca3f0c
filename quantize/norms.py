"""Normalisations with fixed statistics, folded into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from train.models.resnet import FrozenBatchNorm


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Make each convolution that a frozen normalisation follows do the work of both, in place.

    The two are one affine map of each output channel, so the numbers stay the same but for the last bits.
    """
    for parent in list(model.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm):
                shift = norm(torch.zeros_like(norm.bias)[:, None, None]).flatten()
                scale = norm(torch.ones_like(norm.bias)[:, None, None]).flatten() - shift
                bias = 0.0 if conv.bias is None else conv.bias * scale
                conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None])
                conv.bias = nn.Parameter(shift + bias)
                setattr(parent, name, nn.Identity())
