"""Looking around for a lost target: beside its own answer, a local tracker looks at one more place a frame.

It begins to only after some frames: a target that was here a moment ago and cannot be made out is hidden or blurred and
not elsewhere, where all that there is to find then is what looks like it.

The places lie on a grid about where the target was seen last, half a search crop apart, so that wherever it is in
between, some crop shows it well inside; they are taken in turn, the nearest first, and then again, since the target may
come back where it was not a moment ago. The tracker's own answers are of no use for this: while the target is not
there they wander off. This is the local-to-global search of DaSiamRPN (Zhu et al., ECCV 2018) with more places instead
of a wider crop: a model sees the target in them as large as it was trained to.

A lost target is at one of many places, so that a look at one begins with a low prior: more is asked of what is seen
there than of what is followed. The score sees to that, which goes on from a score before (`edgetrack.scoring`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.imaging import clip_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrack import seqtrack
    from edgetrack.online import Estimate

PATIENCE = 15
"""Frames that a target is lost for before it is looked for elsewhere: half a second of most films."""
SIZE_RATE = 0.05
"""How much of a change of size, of its logarithm, one frame adds to the size that a lost target is looked for with."""
RINGS = 2
"""Of places about the middle, where the frame has room for them."""
PRIOR = 1 / (2 * RINGS + 1) ** 2
"""The score that a look elsewhere goes on from: the chance that a target which may be at any place is at this one."""


def places(box: NDArray[np.float64], frame_size: tuple[int, int], reach: float) -> NDArray[np.float64]:
    """Where to look for a target that was seen at `box` -> (P, 4), (x, y, w, h) in pixels of the frame.

    The nearest come first, but for the place itself: it comes last, because it is where a tracker that has just lost
    its target has looked.

    Args:
        box: (x, y, w, h) in pixels of the frame.
        frame_size: width and height of the frame. Centres that lie outside are brought to the border, where that is
            less than half a step away or the box itself, and else left out.
        reach: from one place to the next, in units of the box's geometric mean side.
    """
    step = reach * float(np.sqrt(box[2] * box[3]))
    centre, size = box[:2] + 0.5 * box[2:], np.asarray(frame_size, np.float64)
    along = np.arange(-RINGS, RINGS + 1)
    offsets = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    offsets = offsets[np.argsort((offsets**2).sum(axis=1), kind="stable")]
    centres = centre + step * np.roll(offsets, -1, axis=0)
    outside = np.maximum(-centres, centres - size).max(axis=1)
    outside[-1] = 0
    centres = np.clip(centres[outside < 0.5 * step], 0, size)
    return np.concatenate([centres - 0.5 * box[2:], np.broadcast_to(box[2:], centres.shape)], axis=1)


def remembered(seen: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is kept of where a target was seen: the centre of `box`, with a size that goes slowly from `seen`'s to its.

    A target that disappears behind something is seen ever smaller, and would come back much larger than it was seen
    last.

    Args:
        seen: (x, y, w, h) in pixels of the frame, what was remembered before.
        box: the same, where the target is seen now.
    """
    before, after = np.maximum(seen[2:], 1), np.maximum(box[2:], 1)  # a side of no pixels would never grow again
    size = before * (after / before) ** SIZE_RATE
    return np.concatenate([box[:2] + 0.5 * (box[2:] - size), size])


def is_gone(lost: int) -> bool:
    """Whether a target that was lost for so many frames before this one may be elsewhere by now."""
    return lost >= PATIENCE


def look(
    tracker: seqtrack.SeqTrack, state: seqtrack.State, frame: NDArray[np.uint8], box: NDArray[np.float64], margin: float
) -> tuple[seqtrack.State, Estimate]:
    """Have a local tracker look for its target around `box`, of which `margin` pixels are brought into view."""
    box = clip_box(box, (frame.shape[1], frame.shape[0]), margin)
    # Where it was before is of no use to a model that is told of it.
    moved = replace(state, box=box, region=box, history=(box,) * len(state.history), score=PRIOR)
    return tracker.step(moved, frame)


def look_around(
    tracker: seqtrack.SeqTrack,
    state: seqtrack.State,
    frame: NDArray[np.uint8],
    seen: NDArray[np.float64],
    lost: int,
    reach: float,
    margin: float,
) -> tuple[seqtrack.State, Estimate] | None:
    """Have a local tracker look at the place whose turn it is; None where it does not see the target there, or where
    that was lost less than `PATIENCE` frames ago.

    Args:
        state: the tracker's, from before this frame.
        seen: (x, y, w, h) in pixels of the frame, where the target was seen last.
        lost: frames that it has been lost for before this one; the places are taken in turn.
        reach: from one place to the next, in units of the geometric mean side of `seen`.
        margin: pixels of the place's width and height that are kept in view.
    """
    if not is_gone(lost):
        return None
    all_places = places(seen, (frame.shape[1], frame.shape[0]), reach)
    there, found = look(tracker, state, frame, all_places[(lost - PATIENCE) % len(all_places)], margin)
    return (there, found) if found.ok else None
