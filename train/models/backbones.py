"""The convolutional networks that a tracker can look through, by name."""

from __future__ import annotations

from train.models.efficientnet import EFFICIENTNETS, EfficientNet, EfficientNetConfig
from train.models.resnet import RESNETS, ResNet, ResNetConfig

BACKBONES: dict[str, ResNetConfig | EfficientNetConfig] = {**RESNETS, **EFFICIENTNETS}


def build_backbone(name: str) -> ResNet | EfficientNet:
    """The network of that name, with random weights: normalised RGB (B, 3, H, W) -> (B, C, H / stride, W / stride)."""
    config = BACKBONES[name]
    return ResNet(config) if isinstance(config, ResNetConfig) else EfficientNet(config)


def check_backbone(name: str, **sizes: int) -> None:
    """Raise ValueError unless there is a backbone `name` and all sizes, in pixels, are multiples of its stride."""
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; expected one of {', '.join(BACKBONES)}")
    stride = BACKBONES[name].stride
    for what, size in sizes.items():
        if size % stride or size < stride:
            raise ValueError(f"{what} is {size}; expected a multiple of the backbone's {stride}")
