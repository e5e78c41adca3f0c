"""EfficientNet-Lite up to stride 16 (Tan and Le 2019, Tab. 1; lite: no squeeze-and-excitation, ReLU6 for swish).

Without normalisation: what it was trained with is folded into the convolutions when weights are imported.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Stage:
    """`blocks` inverted residual blocks of `channels` outputs, the first of them with `stride`."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int = 6


@dataclass(frozen=True)
class EfficientNetConfig:
    """The channels of the first convolution, of stride 2, and the stages."""

    stem: int
    stages: tuple[Stage, ...]

    @property
    def channels(self) -> int:
        """Of the output."""
        return self.stages[-1].channels

    @property
    def stride(self) -> int:
        """Pixels of the input per cell of the output."""
        stride = 2
        for stage in self.stages:
            stride *= stage.stride
        return stride


EFFICIENTNETS: dict[str, EfficientNetConfig] = {
    "efficientnet-lite0": EfficientNetConfig(
        32,
        (
            Stage(1, 16, 3, 1, expansion=1),
            Stage(2, 24, 3, 2),
            Stage(2, 40, 5, 2),
            Stage(3, 80, 3, 2),
            Stage(3, 112, 5, 1),
        ),
    ),
}


class InvertedResidual(nn.Module):
    """x + project(relu6(depthwise(relu6(expand(x))))) (Sandler et al. 2018), no sum where the shape changes."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = inputs * stage.expansion
        self.expand = nn.Conv2d(inputs, width, 1) if stage.expansion > 1 else None
        self.depthwise = nn.Conv2d(width, width, stage.kernel, stride, stage.kernel // 2, groups=width)
        self.project = nn.Conv2d(width, stage.channels, 1)
        self.is_residual = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self._filtered(y), inplace=True))
        return x + y if self.is_residual else y

    def _filtered(self, y: Tensor) -> Tensor:
        """The depth-wise convolution of (B, C, H, W)."""
        # oneDNN takes four times as long over the gradient of a depth-wise weight in bf16 as in float32.
        if y.device.type != "cpu" or y.dtype != torch.bfloat16 or not self.depthwise.weight.requires_grad:
            return self.depthwise(y)
        with torch.autocast("cpu", enabled=False):
            return self.depthwise(y.float()).to(y.dtype)


class EfficientNet(nn.Module):
    """Normalised RGB (B, 3, H, W) -> features (B, C, H / stride, W / stride)."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.stem, 3, 2, 1)
        self.blocks = nn.Sequential()
        channels = config.stem
        for stage in config.stages:
            for number in range(stage.blocks):
                self.blocks.append(InvertedResidual(channels, stage, stage.stride if number == 0 else 1))
                channels = stage.channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(F.relu6(self.stem(images), inplace=True))
