"""EfficientNet-Lite: the published size, blocks that compute what their formula says, and weights from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from train.checkpoints import OfficialWeightsError, load_model, with_backbone
from train.cli import app
from train.models.efficientnet import EFFICIENTNETS, EfficientNet, EfficientNetConfig, InvertedResidual, Stage
from train.models.registry import PRESETS, build
from train.models.seqtrack import SeqTrackConfig
from train.models.vtt import VTTConfig

LITE0 = EFFICIENTNETS["efficientnet-lite0"]
SEQTRACK = SeqTrackConfig(
    backbone="efficientnet-lite0",
    search_size=64,
    template_size=32,
    encoder_dim=16,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=16,
    decoder_layers=1,
    decoder_heads=2,
    decoder_ffn=16,
    bins=20,
)
VTT = VTTConfig(
    backbone="efficientnet-lite0",
    search_width=96,
    search_height=64,
    template_size=32,
    dim=16,
    heads=2,
    ffn=16,
    encoder_layers=0,
    decoder_layers=1,
)


def published(config: EfficientNetConfig = LITE0) -> dict[str, Tensor]:
    """Random tensors under the names of lukemelas/EfficientNet-PyTorch, the layers beyond stride 16 among them."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv_bn(conv: str, norm: str, shape: tuple[int, int, int]) -> None:
        outputs, inputs, kernel = shape
        fan = inputs * kernel**2
        state[f"{conv}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) / fan**0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = torch.rand(outputs, generator=generator) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    conv_bn("_conv_stem", "_bn0", (config.stem, 3, 3))
    channels, index = config.stem, 0
    for stage in (*config.stages, Stage(1, 24, 5, 2)):
        for _ in range(stage.blocks):
            block, width = f"_blocks.{index}", channels * stage.expansion
            if stage.expansion > 1:
                conv_bn(f"{block}._expand_conv", f"{block}._bn0", (width, channels, 1))
            conv_bn(f"{block}._depthwise_conv", f"{block}._bn1", (width, 1, stage.kernel))
            conv_bn(f"{block}._project_conv", f"{block}._bn2", (stage.channels, width, 1))
            channels, index = stage.channels, index + 1
    conv_bn("_conv_head", "_bn1", (32, channels, 1))
    return {**state, "_fc.weight": torch.zeros(10, 32), "_fc.bias": torch.zeros(10)}


def forward(state: dict[str, Tensor], images: Tensor, config: EfficientNetConfig = LITE0) -> Tensor:
    """The network written out, with its batch normalisation."""

    def conv_bn(x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        gain, bias, mean, variance = (state[f"{norm}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        return F.batch_norm(x, mean, variance, gain, bias, eps=1e-3)

    x = conv_bn(images, "_conv_stem", "_bn0", 2).clamp(0, 6)
    index = 0
    for stage in config.stages:
        for number in range(stage.blocks):
            block, y = f"_blocks.{index}", x
            if stage.expansion > 1:
                y = conv_bn(y, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
            stride = stage.stride if number == 0 else 1
            y = conv_bn(y, f"{block}._depthwise_conv", f"{block}._bn1", stride, y.shape[1]).clamp(0, 6)
            y = conv_bn(y, f"{block}._project_conv", f"{block}._bn2")
            x = x + y if number else y
            index += 1
    return x


def test_lite0_has_the_published_number_of_parameters() -> None:
    whole = EfficientNet(replace(LITE0, stages=(*LITE0.stages, Stage(4, 192, 5, 2), Stage(1, 320, 3, 1))))
    convs = [module for module in whole.modules() if isinstance(module, nn.Conv2d)]
    folded = sum(conv.weight.numel() + 2 * conv.out_channels for conv in convs)  # gain and bias of what was folded in
    head, classifier = 320 * 1280 + 2 * 1280, 1280 * 1000 + 1000
    assert folded + head + classifier == 4_652_008
    assert LITE0.stride == 16
    assert EfficientNet(LITE0)(torch.zeros(1, 3, 64, 96)).shape == (1, LITE0.channels, 4, 6)


@pytest.mark.parametrize("config", [SEQTRACK, VTT], ids=["seqtrack", "vtt"])
def test_imported_weights_compute_what_the_network_with_normalisation_does(config: SeqTrackConfig | VTTConfig) -> None:
    state = published()
    model = with_backbone(state, config)
    network = model.get_submodule(model.pretrained)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = forward(state, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named() -> None:
    state = published()
    del state["_blocks.3._bn1.running_var"]
    with pytest.raises(
        OfficialWeightsError, match=r"not the weights of a efficientnet-lite0: missing: blocks\.3\.depth"
    ):
        with_backbone(state, SEQTRACK)
    with pytest.raises(OfficialWeightsError, match="expected a model that has a backbone"):
        with_backbone(published(), replace(SEQTRACK, backbone=""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg'; expected one of resnet50"),
        ({"patch": 32}, "efficientnet-lite0 has stride 16, but patch is 32"),
        ({"stem_widths": (8, 8, 8)}, "expected one of them"),
    ],
)
def test_a_stem_that_is_none_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(replace(SEQTRACK, **changes))  # type: ignore[arg-type]


def test_import_begins_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "seqtrack-nano", SEQTRACK)
    torch.save(published(), tmp_path / "lite0.pth")
    arguments = ["import", str(tmp_path / "lite0.pth"), "--as", "seqtrack-nano", "--out", str(tmp_path / "start")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    model, metadata = load_model(tmp_path / "start")
    assert model.config == SEQTRACK
    assert metadata["source"] == "backbone of lite0.pth, else random"
    expected = with_backbone(published(), SEQTRACK).get_submodule("encoder.stem.features").state_dict()
    found = model.get_submodule("encoder.stem.features").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("learns", [True, False])
def test_a_block_in_bf16_learns_as_in_float32(learns: bool) -> None:
    torch.manual_seed(0)
    block = InvertedResidual(8, Stage(1, 8, 5, 1), 1)
    block.depthwise.requires_grad_(learns)
    x = torch.randn(4, 8, 12, 12)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = block(x)
        y.float().square().mean().backward()
        gradients.append({name: p.grad for name, p in block.named_parameters() if p.requires_grad})
    assert ("depthwise.weight" in gradients[0]) == learns
    for name, exact in gradients[0].items():
        assert (gradients[1][name] - exact).norm() < 0.1 * exact.norm(), name
