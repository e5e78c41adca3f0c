"""Learned tables of a SeqTrack for crops, or template slots, that its weights were not trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

ENCODER = ("encoder.search_position", "encoder.template_position")
MEMORY = "decoder.memory_position"
"""SeqTrack's tables, of crops' tokens, row by row; the decoder's is one where its memory is the search tokens."""

SLOTS = "encoder.template_slot"


def resized(table: Tensor, side: int) -> Tensor:
    """A square's positions (1, n * n, D), row by row -> (1, side * side, D): bicubic, corners aligned, as SeqTrack's
    official code does with MAE's (microsoft/VideoX, SeqTrack's vit.py, load_pretrained).

    Raises:
        ValueError: the positions are not a square's.
    """
    n = math.isqrt(table.shape[1])
    if n * n != table.shape[1]:
        raise ValueError(f"got {table.shape[1]} positions; expected a square's")
    if side == n:
        return table
    grid = table.unflatten(1, (n, n)).movedim(-1, 1)  # (1, D, n, n)
    return F.interpolate(grid, (side, side), mode="bicubic", align_corners=True).flatten(2).transpose(1, 2)


def at_resolution(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SeqTrack's tensors with its position tables resized to crops of another size; all others as they are.

    Args:
        given: a state dict.
        expected: that of the model that it is for. Where the two do not differ in crop sizes alone, the tables are not
            touched.
    """

    def lengths(tensors: Mapping[str, Tensor]) -> list[int]:
        tables = (tensors.get(name) for name in (*ENCODER, MEMORY))
        return [0 if table is None else table.shape[1] for table in tables]

    sides = [math.isqrt(length) for length in lengths(expected)]
    memory_is_search = all(memory == search for search, _, memory in (lengths(given), lengths(expected)))
    squares = all(math.isqrt(n) ** 2 == n for n in (*lengths(given), *lengths(expected)))
    if not memory_is_search or not squares or 0 in (*lengths(given), *lengths(expected)):
        return dict(given)
    return {**given, **{name: resized(given[name], side) for name, side in zip((*ENCODER, MEMORY), sides, strict=True)}}


def with_slots(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SeqTrack's tensors with slots for its templates where the model `expected` has them and `given` has none. They
    begin at zero: the model answers as it did before it told them apart."""
    if SLOTS in expected and SLOTS not in given:
        return {**given, SLOTS: torch.zeros_like(expected[SLOTS])}
    return dict(given)
