"""State dicts of other projects: read from PyTorch checkpoints without running what they hold, and held to a model."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.checkpoints.files import differences

ENTRIES = ("net", "model")
"""Where a checkpoint keeps its state dict: SeqTrack's, and MAE's or DETR's. torchvision's files are one themselves."""


class OfficialWeightsError(Exception):
    """Weights that cannot be read, or are not those of what they were said to be."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pth`` of SeqTrack's, MAE's, DETR's or torchvision's, by the names it has there.

    Raises:
        OfficialWeightsError: not a readable checkpoint, or one without a state dict.
    """
    if not path.is_file():
        raise OfficialWeightsError(f"{path} does not exist; expected a PyTorch checkpoint (.pth)")
    try:
        content = _read(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
        # torch's own message advises to read the file with its code run: advice not to be passed on.
        raise OfficialWeightsError(
            f"{path} is not a PyTorch checkpoint of tensors and plain values: it is damaged, or holds code "
            f"({type(error).__name__})"
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[entry] for entry in ENTRIES if entry in content), content)
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        found = ", ".join(list(map(str, content))[:5]) if isinstance(content, dict) else type(content).__name__
        raise OfficialWeightsError(
            f"{path} holds no state dict; expected a checkpoint of SeqTrack's (its entry 'net'), of MAE's or DETR's "
            f"('model') or of torchvision's, got {found or 'nothing'}"
        )
    return state


class _Inert:
    """Stands for whatever else a checkpoint holds: made of anything, it does nothing with it."""

    def __new__(cls, *_: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _read(path: Path) -> Any:
    """What a checkpoint holds, with objects that are neither tensors nor plain values replaced by inert ones.

    The official SeqTrack trainer saves its settings and meters, objects of its own classes, beside the weights.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(type("Inert", (_Inert,), {}), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)


def check_fit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise OfficialWeightsError, saying what `given` is not, unless it has the names and shapes of `expected`."""
    if problems := differences(given, expected):
        raise OfficialWeightsError(f"not {what}: {'; '.join(problems[:5])}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers there are: one more than the largest number that `pattern` finds at the start of a name."""
    return 1 + max((int(match.group(1)) for name in state if (match := re.match(pattern, name))), default=-1)
