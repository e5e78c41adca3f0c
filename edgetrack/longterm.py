"""Local tracking with global re-detection: follow the target from frame to frame, and search all of it when it is lost.

While the local tracker's score is below its threshold the target is lost. Then the whole frame is searched, and the
best candidate, if the search is sure of it, is given to the local tracker to look at in the same frame. Only if that
is sure, too, the target is found again.

Otherwise the local tracker goes on from its own answer, but with its centre in the frame and its size within a factor
of `DRIFT` of the one seen last: a tracker that sees nothing drifts, answers ever smaller boxes, and would soon look at
nothing. In between it is left alone, because a low score does not make a box wrong.

A frame costs at most two local steps and one search, and of any `interval` frames in succession at most one is
searched, also where the target is lost and seen in turns. No template is taken from a frame in which it stays lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.imaging import clip_box
from edgetrack.online import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrack import seqtrack, vtt

REDETECT = "redetect"
"""The stage, after `edgetrack.online.STAGES`, that a search and the look at its candidate are counted as."""
DRIFT = 2.0
"""How much larger or smaller, in geometric mean side, a box may get while the target is lost."""


@dataclass(frozen=True, eq=False)
class State:
    """Where the target is, for either algorithm.

    Attributes:
        local: the local tracker's.
        searched: the global search's, as it was left by the last search.
        side: the target's geometric mean side in pixels when it was seen last.
        wait: frames to come that will not be searched, for the sake of the time they take.
        has_searched: whether the last frame was searched.
    """

    local: seqtrack.State
    searched: vtt.State
    side: float
    wait: int
    has_searched: bool

    @property
    def box(self) -> NDArray[np.float64]:
        """float64 (4,), (x, y, w, h) in pixels of the last frame."""
        return self.local.box


class LongTerm:
    """The two algorithms as one.

    Args:
        local: must not update its templates where it is not sure.
        search: on any model of its kind.
        interval: frames from one search to the next, at least.
        margin: pixels of a candidate's width and height that are kept in view.
    """

    def __init__(self, local: seqtrack.SeqTrack, search: vtt.VTT, interval: int, margin: float) -> None:
        self._local, self._search, self._interval, self._margin = local, search, interval, margin

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`."""
        return State(self._local.init(frame, box), self._search.init(frame, box), _side(box), 0, False)

    def step(self, state: State, frame: NDArray[np.uint8]) -> tuple[State, Estimate]:
        """Find the target of `state` in `frame`."""
        local, found = self._local.step(state.local, frame)
        timings = {**found.timings, REDETECT: 0.0}
        if found.ok:
            side = _side(local.box)
        else:
            side, local = state.side, _held(local, state.side, (frame.shape[1], frame.shape[0]))
        if found.ok or state.wait:
            return State(local, state.searched, side, max(state.wait - 1, 0), False), found._replace(timings=timings)
        started = perf_counter_ns()
        searched, candidate = self._search.step(state.searched, frame)
        confirmed = None
        if candidate.ok:
            box = clip_box(searched.box, (frame.shape[1], frame.shape[0]), self._margin)
            # Where it was before is of no use to a model that is told of it.
            there = replace(state.local, box=box, history=(box,) * len(state.local.history))
            confirmed = self._local.step(there, frame)
        timings[REDETECT] = (perf_counter_ns() - started) / 1e6
        if confirmed is not None and confirmed[1].ok:
            local, found = confirmed
            estimate = Estimate(found.score, True, timings, redetected=True)
            return State(local, searched, _side(local.box), self._interval - 1, True), estimate
        return State(local, searched, side, self._interval - 1, True), found._replace(timings=timings)


def _side(box: NDArray[np.float64]) -> float:
    return float(np.sqrt(box[2:].prod()))


def _held(local: seqtrack.State, side: float, frame_size: tuple[int, int]) -> seqtrack.State:
    """The state with its box no further than `DRIFT` from `side`, about its own centre or the frame's nearest point."""
    centre = np.clip(local.box[:2] + 0.5 * local.box[2:], 0, frame_size)
    answered = _side(local.box)
    size = local.box[2:] * min(max(answered, side / DRIFT), side * DRIFT) / answered
    return replace(local, box=np.concatenate([centre - 0.5 * size, size]))
