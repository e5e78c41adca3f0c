"""Equalised channels: the same function, evener ranges, and less lost to rounding where one channel was wild."""

from __future__ import annotations

import copy

import pytest
import torch
from small_int8 import batches, examples
from small_models import random_model
from test_vtt_export import random_vtt
from torch import Tensor, nn

from quantize.answers import answer
from quantize.calibrate import calibrate
from quantize.equalise import equalise, relu_pairs
from quantize.norms import fold_norms
from quantize.placement import place
from train.data.pairs import Pair
from train.models.registry import Model

WILD = 40.0


def wild(kind: str) -> tuple[Model, tuple[Pair, ...]]:
    """A model and examples. Of what two of its convolutions put out, one channel is far larger than the others, and the
    next convolution makes up for that."""
    if kind == "seqtrack":
        model: Model = random_model("isolated")
        data = batches("isolated")
    else:
        model = random_vtt(kind)
        data = examples(model.config)
    fold_norms(model)
    with torch.no_grad():
        for conv, following in list(relu_pairs(model))[:2]:
            conv.bias.copy_(torch.linspace(-0.1, 0.2, len(conv.bias)))
            conv.weight[3] *= WILD
            conv.bias[3] *= WILD
            following.weight[:, 3] /= WILD
    return model, data


def largest_activations(model: Model, pair: Pair) -> list[Tensor]:
    """Of each channel between two convolutions, through the ReLU as torch computes it."""
    found: list[Tensor] = []
    handles = [
        conv.register_forward_hook(lambda module, inputs, output: found.append(output.relu().amax((0, 2, 3))))
        for conv, _ in relu_pairs(model)
    ]
    with torch.no_grad():
        answer(model, pair)
    for handle in handles:
        handle.remove()
    return found


def evenness(activations: Tensor) -> float:
    """Mean over channels that fire of their largest value, in units of the tensor's: 1 where all are equal."""
    return (activations[activations > 0] / activations.max()).mean().item()


@pytest.mark.parametrize("kind", ["seqtrack", "nano", "r50"])
def test_the_function_stays_and_the_ranges_get_evener(kind: str) -> None:
    model, data = wild(kind)
    equalised = copy.deepcopy(model)
    equalise(equalised, data[:1])
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (
            each.encoder.stem(images) if kind == "seqtrack" else each.backbone(images) for each in (equalised, model)
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    before, after = (largest_activations(each, data[1]) for each in (model, equalised))
    for index in range(2):  # those that were made wild
        assert evenness(after[index]) > 2 * evenness(before[index]), index


def test_rounding_loses_less_where_one_channel_was_wild() -> None:
    """Of the encoder's tokens, on examples that neither the factors nor the ranges were taken from."""
    model, data = wild("seqtrack")
    with torch.no_grad():
        wanted = answer(model, data[2]).tokens
    errors = []
    for even in (False, True):
        rounded = copy.deepcopy(model)
        if even:
            equalise(rounded, data[:2])
        calibrate(place(rounded), data[:2], "mse")
        with torch.no_grad():
            errors.append((answer(rounded, data[2]).tokens - wanted).norm())
    assert errors[1] < 0.5 * errors[0]


def test_a_channel_that_never_fires_or_is_not_used_stays_as_it_is() -> None:
    model = random_model("isolated")
    conv, following = next(relu_pairs(model))
    with torch.no_grad():
        conv.weight[0], conv.bias[0] = 0, -1.0
        following.weight[:, 1] = 0
    before = copy.deepcopy(conv)
    equalise(model, batches("isolated")[:1])
    for channel in (0, 1):
        assert torch.equal(conv.weight[channel], before.weight[channel])
    assert not torch.equal(conv.weight[2], before.weight[2])
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_factors_hang_on_all_batches_and_on_no_filters_size_and_neither_grow_nor_shrink_a_layer() -> None:
    """A filter that is a thousand times larger is rounded to steps that are, too."""
    model, data = wild("seqtrack")
    other = copy.deepcopy(model)
    before, following = next(relu_pairs(other))
    start = before.weight.detach().clone()
    with torch.no_grad():
        following.weight[0] *= 1000
        following.bias[0] *= 1000
    for each, batches_of in ((model, data[:2]), (other, data[1::-1])):
        equalise(each, batches_of)
    factors = [
        start.flatten(1).norm(dim=1) / next(relu_pairs(each))[0].weight.flatten(1).norm(dim=1)
        for each in (model, other)
    ]
    torch.testing.assert_close(*factors)
    assert factors[0].log().mean().item() == pytest.approx(0, abs=1e-5)
    alone = wild("seqtrack")[0]
    equalise(alone, data[:1])
    assert not torch.equal(next(relu_pairs(alone))[0].weight, next(relu_pairs(model))[0].weight)


def test_only_convolutions_with_nothing_but_a_relu_between_them_are_paired() -> None:
    """By hand: a stem's, and a block's own; neither what goes into a sum nor what a max-pool or a shortcut takes."""

    def names(model: nn.Module) -> list[tuple[str, str]]:
        found = {module: name for name, module in model.named_modules()}
        return [(found[one], found[other]) for one, other in relu_pairs(model)]

    stem = "encoder.stem.convs"
    assert names(random_model("isolated")) == [(f"{stem}.{index}", f"{stem}.{index + 1}") for index in range(3)]
    assert names(random_model("joint")) == []  # one projection
    blocks = [f"backbone.layer{stage}.{block}" for stage, count in ((1, 1), (2, 2), (3, 2)) for block in range(count)]
    assert names(random_vtt("nano")) == [(f"{block}.conv1", f"{block}.conv2") for block in blocks]
    assert len(names(random_vtt("r50"))) == 2 * (3 + 4 + 6 + 3)
