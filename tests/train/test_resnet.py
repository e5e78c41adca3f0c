"""Residual networks: torchvision's names, and blocks that compute what their formula says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train.models.resnet import RESNETS, FrozenBatchNorm, ResNet, ResNetConfig

SMALL = ResNetConfig((1, 1), (4, 6), stem=5)


def randomised(net: ResNet) -> ResNet:
    """Statistics and weights that leave no part of the computation out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return net.eval()


def test_resnet50_has_torchvisions_tensors() -> None:
    net = ResNet(RESNETS["resnet50"])
    names = {"conv1.weight"}
    norms = {"bn1"}
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            where = f"layer{stage}.{block}"
            names |= {f"{where}.conv{i}.weight" for i in (1, 2, 3)}
            norms |= {f"{where}.bn{i}" for i in (1, 2, 3)}
        names.add(f"layer{stage}.0.downsample.0.weight")
        norms.add(f"layer{stage}.0.downsample.1")
    names |= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias", "running_mean", "running_var")}
    assert set(net.state_dict()) == names
    # torchvision's 25,557,032 parameters less the classifier's 2,049,000; ours are buffers where they normalise.
    learned = sum(t.numel() for name, t in net.state_dict().items() if "running" not in name)
    assert learned == 25_557_032 - 2_049_000
    assert net.layer3[0].conv2.stride == (2, 2)
    assert net.layer3[0].conv1.stride == (1, 1)


def test_frozen_normalisation_is_batch_normalisation_in_eval_mode() -> None:
    norm = FrozenBatchNorm(3)
    for name, value in zip(("weight", "bias", "running_mean", "running_var"), torch.rand(4, 3) + 0.1, strict=True):
        getattr(norm, name).copy_(value)
    x = torch.randn(2, 3, 4, 5)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
    torch.testing.assert_close(norm.train()(x), expected)
    assert list(norm.parameters()) == []


def test_a_bottleneck_network_is_its_formula() -> None:
    net = randomised(ResNet(SMALL))
    w = net.state_dict()

    def conv_bn(x: Tensor, conv: str, norm: str, stride: int, padding: int) -> Tensor:
        x = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
        mean, var, scale, shift = (
            w[f"{norm}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    images = torch.randn(2, 3, 32, 48)
    x = F.max_pool2d(conv_bn(images, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for layer, stride in (("layer1.0", 1), ("layer2.0", 2)):
        y = conv_bn(x, f"{layer}.conv1", f"{layer}.bn1", 1, 0).relu()
        y = conv_bn(y, f"{layer}.conv2", f"{layer}.bn2", stride, 1).relu()
        y = conv_bn(y, f"{layer}.conv3", f"{layer}.bn3", 1, 0)
        x = (conv_bn(x, f"{layer}.downsample.0", f"{layer}.downsample.1", stride, 0) + y).relu()
    torch.testing.assert_close(net(images), x)
    assert x.shape == (2, SMALL.channels, 32 // SMALL.stride, 48 // SMALL.stride)


def test_a_network_without_normalisation_is_its_formula() -> None:
    net = randomised(ResNet(ResNetConfig((2,), (4,), stem=3, bottleneck=False, pooled=False, normalised=False)))
    w = net.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)

    images = torch.randn(1, 3, 16, 24)
    x = conv(images, "conv1", 2).relu()
    branch = conv(conv(x, "layer1.0.conv1", 2).relu(), "layer1.0.conv2")
    x = (conv(x, "layer1.0.downsample.0", 2, 0) + branch).relu()
    x = (x + conv(conv(x, "layer1.1.conv1").relu(), "layer1.1.conv2")).relu()
    torch.testing.assert_close(net(images), x)


@pytest.mark.parametrize("name", sorted(RESNETS))
def test_stride_and_channels_are_what_the_configuration_says(name: str) -> None:
    config = RESNETS[name]
    with torch.device("meta"):
        out = ResNet(config)(torch.empty(1, 3, 2 * config.stride, 3 * config.stride))
    assert out.shape == (1, config.channels, 2, 3)
