"""Backbones trained elsewhere: a convolutional network in a VTT or a SeqTrack, the ViT of a MAE in a SeqTrack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from train.checkpoints.foreign import OfficialWeightsError, check_fit, count
from train.checkpoints.positions import resized
from train.models.efficientnet import EfficientNet
from train.models.registry import Config, Model, build
from train.models.seqtrack import SeqTrack, SeqTrackConfig

DETR = "backbone.0.body."
"""What DETR puts before torchvision's names."""
MAE_ALONE = ("cls_token", "mask_token", "decoder_", "head.", "fc_norm.")
"""What MAE's files hold besides the encoder: pretraining's decoder, or the classifier of a fine-tuned one."""
EFFICIENTNET_EPSILON = 1e-3
"""Of the batch normalisation in TensorFlow's EfficientNets, from which the PyTorch ones were converted."""


def with_backbone(state_dict: Mapping[str, Tensor], config: Config) -> Model:
    """A tracker with the convolutional backbone whose weights are given and all else random, in eval mode.

    Args:
        state_dict: torchvision's ResNet, with or without a classifier; all of a DETR, whose transformer is left out; or
            an EfficientNet-Lite under the names of lukemelas/EfficientNet-PyTorch, whose layers beyond stride 16 are
            left out and whose normalisation is folded into the convolutions.
        config: a model with a backbone.

    Raises:
        OfficialWeightsError: the model has no backbone, or its tensors are not all there, or of other shapes.
    """
    if not config.backbone:
        raise OfficialWeightsError("got a backbone's weights; expected a model that has a backbone")
    model = build(config)
    network = model.get_submodule(model.pretrained)
    given = dict(_efficientnet(state_dict, network) if isinstance(network, EfficientNet) else _resnet(state_dict))
    check_fit(given, network.state_dict(), f"the weights of a {config.backbone}")
    network.load_state_dict(given)
    return model.eval()


def is_convolutional(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a network that `with_backbone` takes."""
    first = ("conv1.weight", f"{DETR}conv1.weight", "_conv_stem.weight")
    return any(name in state_dict for name in first)


def _resnet(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    is_detr = any(name.startswith(DETR) for name in state_dict)
    for name, tensor in state_dict.items():
        ignored = name.startswith("fc.") or name.endswith("num_batches_tracked")
        if name.startswith(DETR) == is_detr and not ignored:
            yield name.removeprefix(DETR), tensor


def _efficientnet(state_dict: Mapping[str, Tensor], network: EfficientNet) -> Iterator[tuple[str, Tensor]]:
    """The tensors of `network`; those of convolutions that are not there are left out."""
    theirs = {"stem": ("_conv_stem", "_bn0")}
    for index in range(len(network.blocks)):
        block = f"_blocks.{index}"
        for number, name in enumerate(("expand", "depthwise", "project")):
            theirs[f"blocks.{index}.{name}"] = (f"{block}._{name}_conv", f"{block}._bn{number}")
    for ours, (conv, norm) in theirs.items():
        names = [f"{conv}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
        if all(name in state_dict for name in names):
            weight, gain, bias, mean, variance = (state_dict[name] for name in names)
            factor = gain / (variance + EFFICIENTNET_EPSILON).sqrt()
            yield f"{ours}.weight", weight * factor[:, None, None, None]
            yield f"{ours}.bias", bias - mean * factor


def is_mae(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are a plain ViT's names, as in MAE's checkpoints (facebookresearch/mae)."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state_dict.keys()


def seqtrack_from_mae(state_dict: Mapping[str, Tensor], config: SeqTrackConfig) -> SeqTrack:
    """A SeqTrack with the encoder whose weights are given and all else random, in eval mode.

    The class token goes with its position, and the position table (1, 1 + 14 * 14, D) is resized to the search and
    template grids as in the official code (microsoft/VideoX, SeqTrack's vit.py, load_pretrained): bicubic, corners
    aligned. A fine-tuned encoder has no normalisation at its end: it keeps the one training begins with, the identity.

    Args:
        state_dict: the ``model`` entry of a MAE checkpoint, pretrained or fine-tuned.
        config: must have the encoder's patch, width, depth and MLP ratio; heads cannot be told from tensors.

    Raises:
        OfficialWeightsError: the encoder is of another size, or its tensors are not all there or of other shapes.
    """
    if not is_mae(state_dict):
        raise OfficialWeightsError(
            "these are not the names of a plain ViT; expected the 'model' entry of a MAE checkpoint"
        )
    given = {
        name.replace("patch_embed.", "stem.").replace(".mlp.", "."): tensor
        for name, tensor in state_dict.items()
        if not name.startswith(MAE_ALONE)
    }
    _check_sizes(given, config)
    model = SeqTrack(config)
    expected = model.encoder.state_dict()
    if any(name.startswith("fc_norm.") for name in state_dict):
        given = {**{name: tensor for name, tensor in expected.items() if name.startswith("norm.")}, **given}
    table = given.pop("pos_embed")
    given["search_position"] = _resized(table, config.search_size // config.patch)
    given["template_position"] = _resized(table, config.template_size // config.patch)
    check_fit(given, expected, "the weights of a MAE's encoder")
    model.encoder.load_state_dict(given)
    return model.eval()


def _check_sizes(given: Mapping[str, Tensor], config: SeqTrackConfig) -> None:
    """Name what the encoder's sizes are and should be, rather than some of its hundred tensors."""
    if config.stem_widths or config.backbone:
        raise OfficialWeightsError(
            "MAE's stem is one of plain patches; expected a model without stem_widths and backbone"
        )
    dim, _, patch, _ = given["stem.proj.weight"].shape
    hidden = given.get("blocks.0.fc1.weight")
    found = {
        "patch": patch,
        "encoder_dim": dim,
        "encoder_depth": count(given, r"blocks\.(\d+)\."),
        "mlp_ratio": config.mlp_ratio if hidden is None else hidden.shape[0] / dim,
    }
    if wrong := [f"{k} is {v:g}, expected {getattr(config, k):g}" for k, v in found.items() if v != getattr(config, k)]:
        raise OfficialWeightsError(f"not a MAE's encoder of the size that this model has: {'; '.join(wrong)}")


def _resized(table: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + n * n, D), the class token's first -> (1, side * side, D), row by row."""
    try:
        return resized(table[:, 1:], side)
    except ValueError:
        raise OfficialWeightsError(
            f"pos_embed has {table.shape[1]} positions; expected a class token's and a square's"
        ) from None
