"""What the states of the online algorithms have in common: that they can be told that a frame has another size."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from edgetrack import longterm, seqtrack, vtt

FACTOR = np.asarray([2.0, 3.0])
LOCAL = seqtrack.State(
    np.asarray([1.0, 2, 3, 4]), np.asarray([5.0, 6, 7, 8]), (), {}, 7, 0.5, None, (np.asarray([9.0, 1, 2, 3]),) * 2
)
SEEN = np.asarray([7.0, 7, 8, 9])
SEARCHED = vtt.State(
    np.asarray([4.0, 3, 2, 1]),
    {},
    np.asarray([1.1, 0.9]),
    None,
    np.arange(8.0).reshape(2, 4),
    np.asarray([0.9, 0.1]),
    SEEN,
    2,
)
STATES = {
    "seqtrack": LOCAL,
    "vtt": SEARCHED,
    "looking around": longterm.State(LOCAL, None, SEEN, 3, 0, 0, False),
    "searching": longterm.State(LOCAL, SEARCHED, SEEN, 3, 2, 1, True),
}


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """All that a state holds, states within it included."""
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name), field.name)]
    return [(name, value)]


@pytest.mark.parametrize("name", STATES)
def test_every_box_grows_with_the_frame_and_nothing_else_does(name: str) -> None:
    before = leaves(STATES[name])
    kept = [np.array(value) if isinstance(value, np.ndarray) else value for _, value in before]
    after = leaves(STATES[name].rescaled(FACTOR))
    grown = set()
    for (field, old), (_, new) in zip(before, after, strict=True):
        if field in ("box", "boxes", "region", "history", "seen"):
            np.testing.assert_array_equal(new, np.asarray(old) * [2, 3, 2, 3])
            grown.add(field)
        else:
            assert new is old
    assert "box" in grown
    for value, (_, old) in zip(kept, before, strict=True):
        np.testing.assert_array_equal(value, old)
