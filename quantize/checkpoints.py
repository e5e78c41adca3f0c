"""Models with rounding layers in and out of files: FP32 weights, activations' ranges, and what was left in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantize.placement import place
from train.checkpoints import CheckpointError
from train.checkpoints.files import read_tensors, save_model
from train.models.registry import Model, build, config_from_dict

SUFFIX = "-int8"
"""Of a model's kind in the file of its rounded form."""


def save_quantised(path: Path, model: Model, keep_float: Sequence[str], **metadata: Any) -> None:
    """Write a model that `place` was applied to with `keep_float`."""
    save_model(path, model, **{**metadata, "kind": model.config.kind + SUFFIX, "keep_float": list(keep_float)})


def load_quantised(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model that `save_quantised` wrote, in eval mode, and the file's metadata; raises `CheckpointError`."""
    tensors, metadata = read_tensors(path)
    kind = metadata.get("kind", "")
    if not kind.endswith(SUFFIX):
        raise CheckpointError(f"{path} is no quantised model; make one with: python -m quantize ptq, or qat")
    model = place(build(config_from_dict(kind.removesuffix(SUFFIX), metadata["config"])), metadata["keep_float"])
    model.load_state_dict(tensors)
    return model.eval(), metadata
