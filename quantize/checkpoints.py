"""Models with rounding layers in and out of files: FP32 weights, activations' ranges, and what was left in float."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantize.placement import place
from train.checkpoints import CheckpointError
from train.checkpoints.files import QUANTISED, differences, digest, read_tensors, save_model
from train.models.registry import Model, build, config_from_dict


def save_quantised(path: Path, model: Model, keep_float: Sequence[str], **metadata: Any) -> None:
    """Write a model that `place` was applied to with `keep_float`.

    Args:
        path: to write to.
        model: with its ranges.
        keep_float: what was left in float.
        metadata: what else to say of it, such as under "calibration" how the ranges were found.
    """
    save_model(path, model, **{**metadata, "kind": model.config.kind + QUANTISED, "keep_float": list(keep_float)})


def load_quantised(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model that `save_quantised` wrote, in eval mode, and the file's metadata; raises `CheckpointError`."""
    tensors, metadata = read_tensors(path)
    kind = metadata.get("kind", "")
    if not kind.endswith(QUANTISED):
        raise CheckpointError(f"{path} is no quantised model; make one with: python -m quantize ptq, or qat")
    try:
        config, keep_float = config_from_dict(kind.removesuffix(QUANTISED), metadata["config"]), metadata["keep_float"]
    except (KeyError, TypeError, ValueError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} does not say what was rounded ({problem}). Quantise it again") from error
    model = place(build(config), keep_float)
    if problems := differences(tensors, model.state_dict()):
        raise CheckpointError(
            f"{path} was rounded in other places than the model is now: {'; '.join(problems[:5])}. Quantise it again"
        )
    model.load_state_dict(tensors)
    return model.eval(), metadata


def origins(checkpoint: Path) -> tuple[str, str]:
    """By what a rounded model's file knows the FP32 one it was made of: the digest of its weights, beside which another
    score may be written; in older files that of the whole file."""
    of_weights, of_file = digest(read_tensors(checkpoint)[0]), hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return of_weights[:12], of_file[:12]


def check_origin(path: Path, metadata: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that the quantised file at `path` was made of `checkpoint`, where its metadata say of what.

    Raises:
        CheckpointError: it was made of other weights.
    """
    of = metadata.get("calibration", {}).get("checkpoint")
    if of is not None and of not in (known := origins(checkpoint)):
        raise CheckpointError(
            f"{path} was made of other weights, {of}, than {checkpoint} holds, {known[0]}; give the checkpoint it was "
            "made of, or quantise this one"
        )


def check_calibration(path: Path, asked: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Check that the quantised file at `path` was made as is asked now.

    Args:
        path: a file that `save_quantised` wrote.
        asked: "keep_float" and "calibration", as that is told them.
        before: what older files say in place of some values of "calibration".

    Raises:
        CheckpointError: names what differs.
    """
    _, metadata = read_tensors(path)
    was = {"keep_float": metadata.get("keep_float"), **metadata.get("calibration", {})}
    now = {"keep_float": asked["keep_float"], **asked["calibration"]}
    differ = [
        f"{key} was {was.get(key)}, now {now.get(key)}"
        for key in {**was, **now}
        if was.get(key) not in (now.get(key), before.get(key, now.get(key)))
    ]
    if differ:
        raise CheckpointError(
            f"{path} was calibrated with other settings: {'; '.join(differ)}. Give those, or another --out"
        )
