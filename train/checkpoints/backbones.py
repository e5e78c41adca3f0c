"""ResNet weights from elsewhere, torchvision's or DETR's, into a VTT's backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from train.checkpoints.official import OfficialWeightsError, read_plain
from train.models.vtt import VTT, VTTConfig

DETR = "backbone.0.body."
"""What DETR puts before torchvision's names."""


def read_resnet(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pth`` of torchvision's (the tensors themselves) or of DETR's (its ``model`` entry).

    Raises:
        OfficialWeightsError: not a readable checkpoint, or one that holds more than tensors and plain values.
    """
    content = read_plain(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise OfficialWeightsError(f"{path} holds no state dict; expected a checkpoint of torchvision's or DETR's")
    return state


def vtt_from_resnet(state_dict: Mapping[str, Tensor], config: VTTConfig) -> VTT:
    """A VTT with the backbone whose weights are given and all else random, in eval mode.

    Args:
        state_dict: torchvision's, with or without a classifier, or all of a DETR, whose transformer is left out.

    Raises:
        OfficialWeightsError: the backbone's tensors are not all there, or of other shapes.
    """
    is_detr = any(name.startswith(DETR) for name in state_dict)
    given = {
        name.removeprefix(DETR): tensor
        for name, tensor in state_dict.items()
        if name.startswith(DETR) == is_detr and not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    model = VTT(config)
    expected = model.backbone.state_dict()
    problems = [f"unknown: {name}" for name in given.keys() - expected.keys()]
    problems += [f"missing: {name}" for name in expected.keys() - given.keys()]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        raise OfficialWeightsError(f"not the weights of a {config.backbone}: " + "; ".join(sorted(problems)[:5]))
    model.backbone.load_state_dict(given)
    return model.eval()
