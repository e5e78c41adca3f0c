"""Residual networks (He et al. 2016) under torchvision's names, without the classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ResNetConfig:
    """The shape of a network.

    Attributes:
        blocks: residual blocks of each stage.
        widths: channels of each stage; bottlenecks put out four times as many.
        stem: channels of the first convolution.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions instead of two of 3x3.
        pooled: a 7x7 first convolution and a max-pool, and no stride in the first stage; otherwise a 3x3 convolution,
            and every stage has stride 2.
        normalised: a `FrozenBatchNorm` behind every convolution. Without, convolutions have biases and a block begins
            as its shortcut: small networks train as well so, and there is nothing to fold before quantisation.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int = 64
    bottleneck: bool = True
    pooled: bool = True
    normalised: bool = True

    @property
    def channels(self) -> int:
        """Of the output."""
        return self.widths[-1] * (4 if self.bottleneck else 1)

    @property
    def stride(self) -> int:
        """Pixels of the input per cell of the output."""
        return 2 ** (len(self.blocks) + 1)


RESNETS: dict[str, ResNetConfig] = {
    "resnet50": ResNetConfig((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet-nano": ResNetConfig((1, 2, 2), (32, 64, 128), stem=24, bottleneck=False, pooled=False, normalised=False),
}


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine map, as in DETR: buffers, nothing to train."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Block(nn.Module):
    """y = relu(shortcut(x) + branch(x)); the branch is two 3x3 convolutions, or a bottleneck of three."""

    def __init__(self, config: ResNetConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * (4 if config.bottleneck else 1)
        # (inputs, outputs, kernel, stride) of each convolution; the stride is in the first of 3x3, as in torchvision.
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if config.bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.depth = len(shapes)
        for index, shape in enumerate(shapes, 1):
            conv, norm = _conv(config, *shape)
            setattr(self, f"conv{index}", conv)
            setattr(self, f"bn{index}", norm)
        if not config.normalised:
            nn.init.zeros_(conv.weight)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(*_conv(config, inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.depth):
            x = F.relu(getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x)))
        return F.relu(shortcut + getattr(self, f"bn{self.depth}")(getattr(self, f"conv{self.depth}")(x)))


class ResNet(nn.Module):
    """Normalised RGB (B, 3, H, W) -> features (B, C, H / stride, W / stride)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(config, 3, config.stem, 7 if config.pooled else 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.pooled else nn.Identity()
        self.stages = len(config.blocks)
        channels = config.stem
        for index, (blocks, width) in enumerate(zip(config.blocks, config.widths, strict=True), 1):
            stage = nn.Sequential()
            for number in range(blocks):
                stride = 2 if number == 0 and (index > 1 or not config.pooled) else 1
                stage.append(Block(config, channels, width, stride))
                channels = width * (4 if config.bottleneck else 1)
            setattr(self, f"layer{index}", stage)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for index in range(1, self.stages + 1):
            x = getattr(self, f"layer{index}")(x)
        return x


def _conv(config: ResNetConfig, inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution and its normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not config.normalised)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv, FrozenBatchNorm(outputs) if config.normalised else nn.Identity()
