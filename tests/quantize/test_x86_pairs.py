"""Products as x86 processors without VNNI compute them, pairs summed in 16 bits: exact for weights as we round them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from edgetrack.bundle import find_model, read_bundle, shipped_models
from quantize.fake import QMAX, QMIN, QuantConv2d, QuantLinear, channel_scales, row_scales


def multiplied_in_pairs(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """What PMADDUBSW and PMADDWD make of activations (K,) and weights (N, K): (N,)."""
    products = activations.astype(np.int64) * weights
    return np.clip(products[:, 0::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(1)


def rounded(weight: torch.Tensor, scales: torch.Tensor) -> NDArray[np.int8]:
    steps = weight.detach() / scales.reshape(-1, *[1] * (weight.ndim - 1))
    return steps.round().clamp(QMIN, QMAX).numpy().astype(np.int8)


def worst_for(weights: NDArray[np.int8]) -> list[NDArray[np.uint8]]:
    """Activations that reach as far up or down as any can with one row of weights, for every row."""
    return [np.where(sign * row > 0, 255, 0).astype(np.uint8) for row in weights for sign in (1, -1)]


@given(arrays(np.float32, (3, 8), elements=st.floats(-4, 4, width=32)))
def test_no_activations_overflow(values: NDArray[np.float32]) -> None:
    weight = torch.from_numpy(values)
    integers = rounded(weight, channel_scales(weight))
    for activations in worst_for(integers):
        exact = integers.astype(np.int64) @ activations
        np.testing.assert_array_equal(multiplied_in_pairs(activations, integers), exact)


@pytest.mark.parametrize("half", [1.5, 3.5, 20.5, 62.5, 63.5])
def test_the_last_bits_of_a_quotient_round_no_pair_up_twice(half: float) -> None:
    """Pairs that reach the limit as halves of a step, 63.5 + 64.5: in float32 both may end up a hair above."""
    sizes = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    weight = sizes * torch.tensor([half, 128 - half])
    assert rounded(weight, channel_scales(weight)).astype(int).sum(1).max() <= 128


def test_with_all_of_the_integers_they_would() -> None:
    weight = torch.ones(1, 8)
    integers = rounded(weight, row_scales(weight))
    assert integers.max() == 127
    activations = np.full(8, 255, np.uint8)
    assert multiplied_in_pairs(activations, integers) == 4 * 32767 < (integers.astype(int) @ activations).item()


def test_a_convolution_is_exact_at_every_position_of_its_kernel() -> None:
    weight = torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    integers = rounded(weight, channel_scales(weight))
    for y in range(3):
        for x in range(3):
            for activations in worst_for(integers[:, :, y, x]):
                exact = integers[:, :, y, x].astype(np.int64) @ activations
                np.testing.assert_array_equal(multiplied_in_pairs(activations, integers[:, :, y, x]), exact)


@pytest.mark.parametrize(
    "weight",
    [
        torch.tensor([[1.0, -0.9, -0.5, 1.0, 0.2, 0.0]]),  # neighbours of two signs, or small
        torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]]),  # neighbours, but in two pairs; and the last has none
        torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)),  # depthwise
        torch.zeros(2, 4),
    ],
)
def test_all_of_the_integers_are_used_where_no_pair_is_too_large(weight: torch.Tensor) -> None:
    assert torch.equal(channel_scales(weight), row_scales(weight))


def test_the_layers_round_so() -> None:
    linear, conv = nn.Linear(8, 3), nn.Conv2d(8, 3, 3)
    for layer in (QuantLinear(linear), QuantConv2d(conv)):
        nn.init.constant_(layer.weight, 0.1)
        integers = rounded(layer.weights(layer.weight), channel_scales(layer.weight))
        assert set(np.unique(integers)) == {64}


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_graphs_are_exact_too(name: str) -> None:
    """Read off the files anew: every int8 weight of a product, with the activations that are worst for it."""
    bundle = read_bundle(find_model(name))
    checked = 0
    for graph in bundle.manifest.variants["int8"].graphs.values():
        proto = onnx.load(bundle.root / graph.file)
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        sources = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
        for node in proto.graph.node:
            tensor = tensors.get(sources.get(node.input[1], "")) if node.op_type in ("Conv", "MatMul") else None
            if tensor is None or tensor.data_type != onnx.TensorProto.INT8:
                continue
            weight = numpy_helper.to_array(tensor).astype(np.int64)
            rows = np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]) if node.op_type == "Conv" else weight.T
            rows = rows[:, : rows.shape[1] // 2 * 2]
            for activations in (255 * (rows > 0), 255 * (rows < 0)):
                products = activations * rows
                assert abs(products[:, 0::2] + products[:, 1::2]).max(initial=0) < 2**15
            checked += 1
    assert checked > 50
