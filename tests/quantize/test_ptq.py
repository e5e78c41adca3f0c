"""Rounding layers, where they are placed, and how their ranges are found."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_int8 import batches, calibrated_model
from small_models import CONFIGS, ISOLATED, random_model
from torch import nn

from quantize.answers import answer
from quantize.calibrate import METHODS, Histogram, calibrate
from quantize.fake import FakeQuantize, QuantAttend, QuantConv2d, QuantEmbedding, QuantLinear, freeze
from quantize.placement import place, quantised_layers, roundings
from train.models.attention import Attend
from train.models.seqtrack import SeqTrack


def rounded(x: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Eq. 1 of any paper on quantisation."""
    return np.clip(np.rint(x / scale), -128, 127) * scale


def test_a_linear_layer_rounds_inputs_by_tensor_and_weights_by_output() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(nn.Linear(6, 3))
    layer.input.scale = 0.02
    with torch.no_grad():
        layer.weight[1] *= 100  # one scale for all rows would lose the others
    x = torch.randn(4, 6) * 2  # some are beyond 127 * 0.02
    weight = layer.weight.detach().numpy()
    pairs = [weight[:, i : i + 2] * sign for i in (0, 2, 4) for sign in (1, -1)]  # see test_x86_pairs
    heaviest = np.max([pair.clip(min=0).sum(1, keepdims=True) for pair in pairs], axis=0)
    scales = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, heaviest / 127.99)
    expected = rounded(x.numpy(), 0.02) @ rounded(weight, scales).T
    expected += layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    learned = layer(x)
    freeze(layer)
    torch.testing.assert_close(layer(x), learned)


def test_a_table_rounds_each_row_by_itself() -> None:
    torch.manual_seed(0)
    table = QuantEmbedding(nn.Embedding(5, 8))
    with torch.no_grad():
        table.weight[1] *= 100
    rows = table.weight.detach().numpy()
    expected = rounded(rows, np.abs(rows).max(1, keepdims=True) / 127)[[1, 4, 1]]
    learned = table(torch.tensor([1, 4, 1]))
    np.testing.assert_allclose(learned.detach().numpy(), expected, rtol=1e-6)
    freeze(table)
    torch.testing.assert_close(table(torch.tensor([1, 4, 1])), learned)


def test_weights_of_nothing_add_nothing() -> None:
    linear, embedding = QuantLinear(nn.Linear(6, 3)), QuantEmbedding(nn.Embedding(5, 8))
    with torch.no_grad():
        linear.weight[1] = 0
        embedding.weight[1] = 0
    for layer in (linear, embedding):
        assert (layer.weights.scales(layer.weight) > 0).all()  # as a graph's must be
    for _ in range(2):
        assert torch.equal(linear(torch.ones(4, 6))[:, 1], linear.bias[1].expand(4))
        assert torch.equal(embedding(torch.tensor([1])), torch.zeros(1, 8))
        freeze(linear)
        freeze(embedding)


def test_attention_that_rounds_sees_what_attention_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 4, 8, generator=generator) for _ in range(3))
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    for shares in (True, False):
        module = QuantAttend(Attend(), shares=shares)
        for rounding in roundings(module).values():
            rounding.scale = 4 / 127
        exact = Attend()(q, k, v, visible)
        assert (module(q, k, v, visible) - exact).norm() < 0.05 * exact.norm()


def test_what_a_convolution_rounded_is_not_rounded_again() -> None:
    one = QuantConv2d(nn.Conv2d(2, 2, 1), output=True)
    one.output.scale, one.input.scale = 0.5, 0.25
    other = QuantConv2d(nn.Conv2d(2, 2, 1), rounded_by=one)
    assert other.input is None
    assert other.input_scale == pytest.approx(0.5)
    assert list(roundings(nn.Sequential(one, other))) == ["0.output", "0.input"]


def test_a_scale_learns_to_fit_its_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000)
    rounding = FakeQuantize()
    errors = []
    rounding.scale = 8.0 / 127
    optimiser = torch.optim.Adam(rounding.parameters(), lr=0.02)
    for _ in range(200):
        error = ((rounding(x) - x) ** 2).mean()
        errors.append(error.item())
        # The step's own gradient is scaled down by sqrt(N * 127); Adam does not see it.
        error.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert errors[-1] < 0.6 * errors[0]
    assert x.abs().max() * 0.7 < rounding.scale * 127 < 6.0


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_rounding_the_model_is_the_one_it_was_made_of(kind: str) -> None:
    model = place(random_model(kind))
    assert model.state_dict().keys() >= random_model(kind).state_dict().keys()
    for rounding in roundings(model).values():
        rounding.enabled = False
    for layer in quantised_layers(model).values():
        layer.weights = nn.Identity()
    with torch.no_grad():
        pair = batches(kind)[0]
        torch.testing.assert_close(answer(model, pair).logits, answer(random_model(kind), pair).logits)


def test_placement_follows_type_size_and_the_exceptions() -> None:
    layers = quantised_layers(place(random_model("isolated")))
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    float_layers = {n for n, m in random_model("isolated").named_modules() if isinstance(m, kinds)}
    assert float_layers - layers.keys() == {"encoder.stem.convs.0"}
    assert [layers[f"encoder.stem.convs.{i}"].output is not None for i in (1, 2, 3)] == [False, False, True]
    large = place(SeqTrack(replace(ISOLATED, search_size=256)))
    assert "encoder.blocks.0.attn.attend" in quantised_layers(large)
    assert "encoder.blocks.0.attn.attend" not in layers
    kept = quantised_layers(place(random_model("isolated"), ["decoder.head.?", "encoder.blocks.1.*"]))
    assert layers.keys() - kept.keys() == {
        *(f"decoder.head.{i}" for i in range(3)),
        *(f"encoder.blocks.1.{name}" for name in ("attn.qkv", "attn.proj", "fc1", "fc2")),
    }
    with pytest.raises(ValueError, match=r"'decoder\.tail' is no layer that is quantised"):
        place(random_model("isolated"), ["decoder.tail"])


@pytest.mark.parametrize("method", METHODS)
def test_ranges_of_known_values(method: str) -> None:
    """A normal variable with one far outlier, and the best range found by trying all on the values themselves."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(100_000), [40.0]]).astype(np.float32)
    histogram = Histogram()
    for part in np.array_split(values, 7):  # the limit grows on the way
        histogram.add(torch.from_numpy(part))
    found = METHODS[method](histogram)
    if method == "max":
        assert found == 40.0
    elif method == "percentile":
        assert found == pytest.approx(np.quantile(np.abs(values), 0.9999), abs=0.03)
    else:
        errors = {r: ((rounded(values, r / 127) - values) ** 2).mean() for r in np.linspace(2, 40, 96)}
        assert ((rounded(values, found / 127) - values) ** 2).mean() < 1.02 * min(errors.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_few_values_of_a_layer_that_seldom_fires_are_not_cut_off(method: str) -> None:
    histogram = Histogram()
    histogram.add(torch.cat([torch.zeros(100_000), torch.tensor([4.0, 5.0])]))
    assert METHODS[method](histogram) == pytest.approx(5.0, rel=0.05)


def test_calibration_makes_the_rounded_model_answer_like_the_float_one() -> None:
    """Far more than with ranges ten times as wide or as narrow, which bounds the error without a number of its own."""
    pair = batches("joint")[2]
    model = calibrated_model("joint")
    with torch.no_grad():
        expected = answer(random_model("joint"), pair).logits

        def error(model: SeqTrack) -> float:
            return ((answer(model, pair).logits - expected).norm() / expected.norm()).item()

        for factor in (0.1, 10):
            other = copy.deepcopy(model)
            for rounding in roundings(other).values():
                rounding.scale *= factor
            assert error(other) > 3 * error(model), factor


def test_what_a_relu_puts_out_is_never_cut_off() -> None:
    """By any method; of all else a percentile leaves out some."""
    widest, found = (roundings(calibrated_model("isolated", method)) for method in ("max", "percentile"))
    fixed = {name for name, rounding in found.items() if rounding.fixed_range}
    assert (
        fixed == {name for name in found if name.startswith("encoder.stem.convs") and name.endswith("input")} != set()
    )
    assert all(found[name].scale == widest[name].scale for name in fixed)
    assert any(found[name].scale < 0.99 * widest[name].scale for name in found.keys() - fixed)


def test_ranges_do_not_hang_on_those_before() -> None:
    model = calibrated_model("joint")
    expected = {name: rounding.scale for name, rounding in roundings(model).items()}
    for rounding in roundings(model).values():
        rounding.scale *= 0.01
    calibrate(model, batches("joint")[:2], "percentile")
    assert {name: rounding.scale for name, rounding in roundings(model).items()} == expected


def test_calibration_keeps_nothing_for_a_gradient() -> None:
    """Of a batch of dozens of pairs that would be gigabytes."""
    model, kept = place(random_model("joint")), []
    model.decoder.head[0].register_forward_hook(lambda module, inputs, output: kept.append(output.requires_grad))
    calibrate(model, batches("joint")[:1], "percentile")
    assert kept
    assert not any(kept)


def test_calibration_names_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="expected one of mse, percentile, max"):
        calibrated_model("joint", "best")
    dead = place(random_model("joint"))
    with torch.no_grad():
        dead.decoder.head[0].weight.zero_()
        dead.decoder.head[0].bias.zero_()
    with pytest.raises(ValueError, match=r"zeros at decoder\.head\.1\.input"):
        calibrate(dead, batches("joint")[:1], "percentile")
    with pytest.raises(ValueError, match="zeros at"):
        calibrate(place(random_model("joint")), [], "percentile")
    for value in (math.nan, math.inf):
        broken = place(random_model("joint"))
        with torch.no_grad():
            broken.encoder.blocks[1].fc1.bias[3] = value
        with pytest.raises(ValueError, match=r"not finite at encoder\.blocks\.1\.fc2\.input"):
            calibrate(broken, batches("joint")[:1], "percentile")


def test_a_scale_survives_saving_as_what_it_is() -> None:
    rounding = FakeQuantize()
    rounding.scale = 0.0123
    other = FakeQuantize()
    other.load_state_dict(rounding.state_dict())
    assert math.isclose(other.scale, 0.0123, rel_tol=1e-6)


def test_of_a_resnet_before_the_vit_all_but_the_first_convolution_is_rounded() -> None:
    model = place(random_model("isolated", stem_widths=(), backbone="resnet-nano"))
    plain = [name for name, module in model.named_modules() if type(module) is nn.Conv2d]
    assert plain == ["encoder.stem.features.conv1"]
