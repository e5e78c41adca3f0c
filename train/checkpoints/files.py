"""Our safetensors files: models with their configuration, and a run's resumable state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.models.registry import Model, build, config_from_dict


class CheckpointError(Exception):
    """A checkpoint that is missing, is not one, does not fit the model or cannot be written."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise CheckpointError where what is done to write `path` fails: a full disk, a folder that is none."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path} ({error}); expected a place that can be written to") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what is there when the block ends is put in the place of `path`, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, SafetensorError):
            with suppress(OSError):
                partial.unlink()
            raise


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata to a safetensors file, whole or not at all; raises CheckpointError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as partial:
        save_file(contiguous, partial, {key: json.dumps(value) for key, value in metadata.items()})
        partial.chmod(0o644)  # the library makes it readable by its owner alone


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of a file that `write_tensors` wrote."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a safetensors file written by train ({error}); convert weights from elsewhere with: "
            "python -m train import"
        ) from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash by which weights are known again, whatever their file says of them."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def differences(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """In words, how the names and shapes of `given` are not those of `expected`; empty where they are."""
    problems = [f"unknown: {name}" for name in given.keys() - expected.keys()]
    problems += [f"missing: {name}" for name in expected.keys() - given.keys()]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return sorted(problems)


def save_model(path: Path, model: Model, state: Mapping[str, Tensor] | None = None, **metadata: Any) -> None:
    """Write a model's weights (`state` when given) with its configuration beside them, in the same file."""
    facts = {"kind": model.config.kind, "config": model.config.to_dict(), **metadata}
    write_tensors(path, state or model.state_dict(), facts)


QUANTISED = "-int8"
"""What the kind of quantised weights, which quantize writes, ends in."""


def refuse_quantised(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a file's weights are quantised ones."""
    if str(metadata.get("kind", "")).endswith(QUANTISED):
        raise CheckpointError(
            f"{path} holds INT8 weights, which are for quantize's --int8 and --start; expected the weights in full "
            "precision that they were made of"
        )


def load_model(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model that `save_model` wrote, in eval mode, and the file's metadata; raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    refuse_quantised(path, metadata)
    try:
        model = build(config_from_dict(metadata.get("kind", "none"), metadata.get("config", {})))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no model's configuration ({error}); convert weights from elsewhere with: "
            "python -m train import"
        ) from error
    if problems := differences(tensors, model.state_dict()):
        raise CheckpointError(
            f"{path} does not hold its configuration's weights: {'; '.join(problems[:5])}. Fetch or write it again"
        )
    model.load_state_dict(tensors)
    return model.eval(), metadata
