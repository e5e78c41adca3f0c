"""Local tracking that finds again what it has lost: around where it was seen last, or by a search of the whole frame.

While the local tracker's score is below its threshold the target is lost. Where it stays lost for
`edgetrack.lookaround.PATIENCE` frames, for the reason given there, the tracker looks around, one place a frame
(`edgetrack.lookaround`), or the whole frame is searched, or both.

The search is of all of the frame at once, or, for a target that is small in it, of one view of it after the other
(`edgetrack.views`). A candidate is given to the local tracker to look at in the same frame: the best one where the
search is sure of it, and else the best in the first search of a view, in the next the second best that lies elsewhere,
and so on in turn, because a search that errs would err in the same way again. The local tracker looks with the size at
which the target was seen: a search knows better where than how large. Only if the local tracker sees it there, with the
low prior of any place elsewhere (`edgetrack.lookaround`), the target is found again.

Looking around comes first, which costs less than a search. Where nothing is found the tracker goes on from its own
answer, in a region of the size that the target had when it was seen last.

A frame costs at most one local step, one more for looking around, and a search with one more for its candidate. Of any
`interval` frames in succession at most one is searched, also where the target is lost and seen in turns. No template is
taken from a frame in which it stays lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.imaging import overlap, rescaled
from edgetrack.lookaround import is_gone, look, look_around, remembered
from edgetrack.online import REDETECT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrack import seqtrack, vtt
    from edgetrack.online import Estimate

CANDIDATES = 4
"""How many candidates are looked at in turn."""


@dataclass(frozen=True, eq=False)
class State:
    """Where the target is.

    Attributes:
        local: the local tracker's.
        searched: the global search's, as it was left by the last search; None where there is no search.
        seen: float64 (4,), what is remembered of where the target was seen last, as `box`.
        lost: frames since the target was seen last.
        searches: searches since then.
        wait: frames to come that will not be searched, for the sake of the time they take.
        has_searched: whether the last frame was searched.
    """

    local: seqtrack.State
    searched: vtt.State | None
    seen: NDArray[np.float64]
    lost: int
    searches: int
    wait: int
    has_searched: bool

    @property
    def box(self) -> NDArray[np.float64]:
        """float64 (4,), (x, y, w, h) in pixels of the last frame."""
        return self.local.box

    def rescaled(self, factor: NDArray[np.float64]) -> State:
        """The same target in a frame of another size; see `edgetrack.online.State`."""
        searched = None if self.searched is None else self.searched.rescaled(factor)
        return replace(self, local=self.local.rescaled(factor), searched=searched, seen=rescaled(self.seen, factor))


class LongTerm:
    """A local tracker, with what it does for a lost target.

    Args:
        local: must not update its templates where it is not sure, and must hold the size of its region.
        margin: pixels of the width and height of a place or a candidate that are kept in view.
        reach: from one place to the next where it looks around, in units of the geometric mean side of the target's
            box; None where it does not.
        search: on any model of its kind; None where the whole frame is not searched.
        interval: frames from one search to the next, at least.
    """

    def __init__(
        self,
        local: seqtrack.SeqTrack,
        margin: float,
        *,
        reach: float | None = None,
        search: vtt.VTT | None = None,
        interval: int = 1,
    ) -> None:
        self._local, self._margin, self._reach = local, margin, reach
        self._search, self._interval = search, interval

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`."""
        local = self._local.init(frame, box)
        searched = self._search.init(frame, box) if self._search is not None else None
        return State(local, searched, local.box, 0, 0, 0, False)

    def step(self, state: State, frame: NDArray[np.uint8]) -> tuple[State, Estimate]:
        """Find the target of `state` in `frame`."""
        local, found = self._local.step(state.local, frame)
        wait = max(state.wait - 1, 0)
        if found.ok:
            after = State(local, state.searched, remembered(state.seen, local.box), 0, 0, wait, False)
            return after, found._replace(timings={**found.timings, REDETECT: 0.0})
        started = perf_counter_ns()
        elsewhere, searched, has_searched = None, state.searched, False
        if self._reach is not None:
            elsewhere = look_around(self._local, state.local, frame, state.seen, state.lost, self._reach, self._margin)
        if (
            elsewhere is None
            and is_gone(state.lost)
            and not state.wait
            and self._search is not None
            and state.searched is not None
        ):
            views = self._search.views(state.seen, (frame.shape[1], frame.shape[0]))
            rank, turn = divmod(state.searches, len(views))
            searched, best = self._search.search(state.searched, frame, views[turn])
            elsewhere = self._confirmed(state, frame, searched.boxes, 0 if best.ok else rank)
            wait, has_searched = self._interval - 1, True
        timings = {**found.timings, REDETECT: (perf_counter_ns() - started) / 1e6}
        if elsewhere is not None:
            there, again = elsewhere
            after = State(there, searched, remembered(state.seen, there.box), 0, 0, wait, has_searched)
            return after, again._replace(timings=timings, redetected=True)
        after = State(local, searched, state.seen, state.lost + 1, state.searches + has_searched, wait, has_searched)
        return after, found._replace(timings=timings)

    def _confirmed(
        self, state: State, frame: NDArray[np.uint8], boxes: NDArray[np.float64], rank: int
    ) -> tuple[seqtrack.State, Estimate] | None:
        """What the local tracker finds at the candidate of this rank; None where it does not see the target."""
        candidates = _apart(boxes)
        candidate = candidates[rank % len(candidates)]
        size = state.seen[2:]
        box = np.concatenate([candidate[:2] + 0.5 * candidate[2:] - 0.5 * size, size])
        there, found = look(self._local, state.local, frame, box, self._margin)
        return (there, found) if found.ok else None


def _apart(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first `CANDIDATES` of boxes (N, 4), the best first, without those that overlap one before them by half."""
    crossing = overlap(boxes[:, None], boxes) > 0.5
    kept: list[int] = []
    for index in range(len(boxes)):
        if not crossing[index, kept].any():
            kept.append(index)
    return boxes[kept[:CANDIDATES]]
