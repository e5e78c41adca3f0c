"""Channels evened out before they are rounded: cross-layer equalisation (Nagel et al. 2019, Sec. 4.1).

A ReLU lets a positive factor through, relu(x / s) = relu(x) / s. So channel c between two convolutions can be made
s_c times smaller, and the next weight's input channel c as many times larger, and the function stays what it was. The
activations share one scale, in which a channel of small values is left few steps; here, unlike there, s follows from
what the activations reach on examples, because weights, with a scale for each output channel, lose nothing by the
division.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from quantize.answers import answer
from quantize.fake import channel_scales
from quantize.norms import fold_norms
from train.data.pairs import Pair
from train.models.registry import Model
from train.models.resnet import Block
from train.models.vit import ConvStem


@torch.no_grad()
def equalise(model: Model, batches: Iterable[Pair]) -> None:
    """Even out the channels of every ReLU between two convolutions of `model`, in place, before `place`.

    Normalisations are folded into the convolutions before them first. s_c = sqrt(a_c / w_c), scaled to the geometric
    mean 1: a_c is the largest activation of channel c on `batches`, w_c its largest weight in the next convolution, in
    steps of the output channel's rounding. A channel that never fires, or that is not used, stays as it is.
    """
    fold_norms(model)
    model.eval()
    reached = {following: torch.zeros(following.in_channels) for _, following in relu_pairs(model)}

    def observe(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        reached[module] = torch.maximum(reached[module], inputs[0].amax((0, 2, 3)))

    handles = [module.register_forward_pre_hook(observe) for module in reached]
    try:
        for pair in batches:
            answer(model, pair)
    finally:
        for handle in handles:
            handle.remove()
    for conv, following in relu_pairs(model):
        steps = following.weight / channel_scales(following.weight)[:, None, None, None]
        activations, weights = reached[following], steps.abs().amax((0, 2, 3))
        used = (activations > 0) & (weights > 0)
        logarithm = torch.where(used, (activations / weights).log() / 2, 0)
        factor = torch.where(used, (logarithm - logarithm[used].mean()).exp(), 1)
        scale_between(conv, following, factor)


@torch.no_grad()
def scale_between(conv: nn.Conv2d, following: nn.Conv2d, factor: Tensor) -> None:
    """Make the channels between two convolutions smaller by `factor` (C,), in place, and the outcome what it was."""
    conv.weight /= factor[:, None, None, None]
    if conv.bias is not None:
        conv.bias /= factor
    following.weight *= factor[:, None, None]


def relu_pairs(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Conv2d]]:
    """Convolutions of which the second alone takes what the first puts out, through a ReLU and nothing else."""
    for module in model.modules():
        if isinstance(module, ConvStem):
            yield from pairwise(module.convs)
        elif isinstance(module, Block):
            yield from pairwise(getattr(module, f"conv{index}") for index in range(1, module.depth + 1))
