"""How much of the error of rounding comes from each layer, to choose those worth leaving in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from quantize.answers import answer, divergence
from quantize.fake import FakeQuantize, FakeQuantizeWeight
from quantize.placement import quantised_layers
from train.data.pairs import Pair
from train.models.registry import Model


class LayerShare(NamedTuple):
    """One layer.

    Attributes:
        layer: its name, as --keep-float takes it.
        divergence: of the answers from the float model's when this layer alone is rounded; see `quantize.answers`.
        share: of the sum of all layers' divergences.
        parameters: of its weight; in float they take four bytes each in place of one.
    """

    layer: str
    divergence: float
    share: float
    parameters: int


@torch.no_grad()
def shares(
    model: Model,
    batches: Sequence[Pair],
    through: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> list[LayerShare]:
    """Round one layer at a time of a calibrated model; the layer that matters most comes first.

    through: goes through the layers' names, and may show how far it is.
    """
    model.eval()
    layers = quantised_layers(model)
    try:
        set_rounding(model, False)
        wanted = [answer(model, pair) for pair in batches]
        divergences = {}
        for name in through(list(layers)):
            layer = layers[name]
            set_rounding(layer, True)
            found = [divergence(answer(model, pair), expected) for pair, expected in zip(batches, wanted, strict=True)]
            divergences[name] = torch.cat(found).mean().clamp(min=0).item()
            set_rounding(layer, False)
    finally:
        set_rounding(model, True)
    total = sum(divergences.values())
    weights = {name: getattr(layer, "weight", torch.empty(0)).numel() for name, layer in layers.items()}
    report = [LayerShare(name, error, error / total, weights[name]) for name, error in divergences.items()]
    return sorted(report, key=lambda layer: -layer.divergence)


def set_rounding(module: nn.Module, enabled: bool) -> None:
    """Switch all rounding in a module, of activations and weights, on or off."""
    for part in module.modules():
        if isinstance(part, (FakeQuantize, FakeQuantizeWeight)):
            part.enabled = enabled
