"""Layers that compute in float32 with the rounding of INT8: what is trained, calibrated and exported.

Weights are rounded per output channel, or row of a table, activations per tensor; all symmetrically, to integers
-128..127 with zero point 0, which is what ONNX Runtime, OpenVINO and TensorRT all compute exactly, and, with weights
that `channel_scales` keeps small enough, on old x86 processors too. A weight's scale follows from the weight; an
activation's is learned, and starts from calibration (`quantize.calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.attention import Attend, hide

QMIN, QMAX = -128, 127
PAIR = 128
"""What two neighbouring weights of one sign add up to at most, in steps: 255 times that still fits into 16 bits."""
LARGEST_BIAS = 2**29
"""Of a convolution's bias as an integer: a quarter of what 32 bits hold. Half is the products', and behind a ReLU6 ONNX
Runtime counts in steps half as large (`edgetrack_runtimes.onnxruntime_session.constants_after_relu`)."""


class FakeQuantize(nn.Module):
    """x -> s * clamp(round(x / s), -128, 127), with s learned as its logarithm (Esser et al. 2020, LSQ).

    Attributes:
        enabled: off, the values pass unchanged, as they must while calibration looks at them.
        fixed_range: the scale covers all that calibration saw and is not learned. For what a ReLU puts out:
            `edgetrack_runtimes` lets ONNX Runtime use the negative half of the integers for it, so that values above
            the range are not cut there, and only a range that is never exceeded computes the same everywhere; and
            behind a ReLU6, whose 6 the range must not exceed.
    """

    def __init__(self, *, fixed_range: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1), requires_grad=not fixed_range)
        self.register_buffer("zero_point", torch.zeros(1), persistent=False)
        self.enabled = True
        self.fixed_range = fixed_range
        self._frozen: float | None = None

    @property
    def scale(self) -> float:
        return math.exp(self.log_scale.item())

    @scale.setter
    def scale(self, value: float) -> None:
        self.log_scale.data.fill_(math.log(value))

    def freeze(self) -> None:
        """Make the scale a plain number: the exporter fails on one that is a tensor."""
        self._frozen = self.scale

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self._frozen is not None:
            return torch.fake_quantize_per_tensor_affine(x, self._frozen, 0, QMIN, QMAX)
        # LSQ divides this gradient by sqrt(N * 127), for the sake of plain gradient descent. Adam makes every step as
        # large as its rate is, but for gradients of below 1e-8, and with the divisor most of these would be there.
        return torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), self.log_scale.exp(), self.zero_point, QMIN, QMAX, 1.0
        )


class FakeQuantizeWeight(nn.Module):
    """Rounds a weight (N, ...) with one scale for each of its N output channels or rows.

    Args:
        scales: of a weight (N, ...), what one step of rounding is in each of its channels or rows, (N,).
    """

    def __init__(self, scales: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enabled = True
        self.scales = scales
        self.register_buffer("scale", None, persistent=False)

    def freeze(self, weight: Tensor) -> None:
        """Keep the scales of `weight`: the exporter does not compute them in advance."""
        self.scale = self.scales(weight)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        scale = self.scales(weight) if self.scale is None else self.scale
        zero_point = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero_point, 0, QMIN, QMAX)


def row_scales(weight: Tensor) -> Tensor:
    """What takes each row of a weight (N, ...) to -127..127."""
    return weight.detach().float().flatten(1).abs().amax(1).clamp(min=1e-12) / QMAX


def channel_scales(weight: Tensor) -> Tensor:
    """What takes each output channel of a weight (N, K, ...) to -127..127, and no two neighbours' sum beyond `PAIR`.

    x86 processors without VNNI multiply a pair of 8-bit activations by a pair of weights and keep the sum in 16 bits;
    what is beyond them is cut off. The activations are unsigned there, up to 255, so that a pair of weights cannot add
    up to more than 32767 if those of one sign add up to 128 at most. Pairs are the input channels 2i and 2i + 1, in a
    convolution at one position of its kernel.
    """
    rows = weight.detach().float()
    even = rows.shape[1] // 2 * 2
    pairs = rows[:, :even].unflatten(1, (-1, 2))
    sums = torch.maximum(pairs.clamp(min=0).sum(2), -pairs.clamp(max=0).sum(2)).flatten(1)
    largest = sums.amax(1) if sums.shape[1] else sums.new_zeros(len(sums))
    # A hair less, so that the last bits of a quotient cannot make both of a pair round up.
    return torch.maximum(row_scales(weight), largest / (PAIR - 0.01))


class QuantLinear(nn.Linear):
    """A linear layer on rounded inputs and weights. What it puts out is not rounded: it goes to float operations."""

    def __init__(self, source: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self.input, self.weights = FakeQuantize(), FakeQuantizeWeight(channel_scales)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input(x), self.weights(self.weight), self.bias)


class QuantEmbedding(nn.Module):
    """A table of rounded rows, each with its scale. It is there for the bytes: what is looked up is float."""

    def __init__(self, source: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.weights = source.weight, FakeQuantizeWeight(row_scales)

    def forward(self, x: Tensor) -> Tensor:
        """Ids (...) -> rows (..., D)."""
        return F.embedding(x, self.weights(self.weight))


class QuantConv2d(nn.Module):
    """A convolution on rounded inputs and weights.

    Args:
        source: whose parameters it takes over.
        after_relu: the input is what a ReLU puts out.
        output: round the output too. ONNX Runtime convolves integers only into integers; where another rounded
            layer follows, that one's input already is the rounding it looks for.
        rounded_by: the convolution whose rounded output, and nothing else, is the input. To round it again, to other
            steps, would only lose.
    """

    def __init__(
        self,
        source: nn.Conv2d,
        *,
        after_relu: bool = False,
        output: bool = False,
        rounded_by: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = source.weight, source.bias
        self.stride, self.padding, self.groups = source.stride, source.padding, source.groups
        self.weights = FakeQuantizeWeight(channel_scales)
        self.output = FakeQuantize() if output else None
        before = rounded_by.output if isinstance(rounded_by, QuantConv2d) else None
        self.input = FakeQuantize(fixed_range=after_relu) if before is None else None
        # In a tuple, so that another layer's rounding is not part of this module too.
        self._rounding = (before or self.input,)

    @property
    def input_scale(self) -> float:
        """One step of the input's rounding, wherever that is done."""
        return self._rounding[0].scale

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input is None else self.input(x)
        x = F.conv2d(x, self.weights(self.weight), self.bias, self.stride, self.padding, 1, self.groups)
        return x if self.output is None else self.output(x)


class QuantAttend(Attend):
    """Attention whose matrix products take rounded operands; the softmax between them is float.

    Args:
        shares: whether that is so of the second product, of what the softmax puts out and the values, too. 127 steps do
            not hold both what attends to one token of hundreds and what attends to all of them.
    """

    def __init__(self, source: Attend, *, shares: bool = True) -> None:
        super().__init__()
        self.shares = shares
        self.query, self.key = FakeQuantize(), FakeQuantize()
        self.value, self.share = (FakeQuantize() if shares else nn.Identity() for _ in range(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        # Rounded after the transposition: between a DequantizeLinear and its product there may be nothing.
        scores = self.query(q * q.shape[-1] ** -0.5) @ self.key(k.transpose(-2, -1))
        if visible is not None:
            scores = hide(scores, visible)
        return self.share(scores.softmax(-1)) @ self.value(v)


def freeze(model: nn.Module) -> None:
    """Make every scale of `model` a constant, so that it can be exported.

    A convolution's bias is rounded to multiples of input scale times weight scale: ONNX Runtime adds it as an integer
    in these units, and so little of a difference is enough for later layers to round otherwise. In the units of a
    filter with next to no weights the integer would not fit into its 32 bits; there the weights' steps are made larger.
    """
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.freeze()
        elif isinstance(module, (QuantLinear, QuantConv2d, QuantEmbedding)):
            module.weights.freeze(module.weight)
    for module in model.modules():
        if isinstance(module, QuantConv2d) and module.bias is not None:
            bias, weights = module.bias.detach(), module.weights
            weights.scale = torch.maximum(weights.scale, bias.abs() / (module.input_scale * LARGEST_BIAS))
            unit = module.input_scale * weights.scale
            module.bias = nn.Parameter((bias / unit).round() * unit)
