"""Local tracking with global re-detection: follow the target from frame to frame, and search all of it when it is lost.

While the local tracker's score is below its threshold the target is lost. Where it stays lost for
`edgetrack.lookaround.PATIENCE` frames, for the reason given there, the whole frame is searched from then on: at once,
or, for a target that is small in it, in one view of it after the other (`edgetrack.views`). A candidate is given to the
local tracker to look at in the same frame: the best one where the search is sure of it, and else the best in the first
search of a view, in the next the second best that lies elsewhere, and so on in turn, because a search that errs would
err in the same way again. The local tracker looks with the size at which the target was seen: a search knows better
where than how large. Only if the local tracker sees it there, with the low prior of any place elsewhere
(`edgetrack.lookaround`), the target is found again.

A local tracker that looks around does so first, which costs less than a search. Where nothing is found it goes on from
its own answer, in a region of the size that the target had when it was seen last.

A frame costs at most two local steps and one search, or three where the tracker looks around, and of any `interval`
frames in succession at most one is searched, also where the target is lost and seen in turns. No template is taken from
a frame in which it stays lost.
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
    """Where the target is, for either algorithm.

    Attributes:
        local: the local tracker's.
        searched: the global search's, as it was left by the last search.
        seen: float64 (4,), what is remembered of where the target was seen last, as `box`.
        lost: frames since the target was seen last.
        searches: searches since then.
        wait: frames to come that will not be searched, for the sake of the time they take.
        has_searched: whether the last frame was searched.
    """

    local: seqtrack.State
    searched: vtt.State
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
        local, searched = self.local.rescaled(factor), self.searched.rescaled(factor)
        return replace(self, local=local, searched=searched, seen=rescaled(self.seen, factor))


class LongTerm:
    """The two algorithms as one.

    Args:
        local: must not update its templates where it is not sure, and must hold the size of its region.
        search: on any model of its kind.
        interval: frames from one search to the next, at least.
        margin: pixels of a candidate's width and height that are kept in view.
        reach: from one place to the next where the local tracker looks around, in units of the geometric mean side of
            the target's box; None where it does not.
    """

    def __init__(
        self, local: seqtrack.SeqTrack, search: vtt.VTT, interval: int, margin: float, reach: float | None = None
    ) -> None:
        self._local, self._search, self._interval, self._margin = local, search, interval, margin
        self._reach = reach

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`."""
        local = self._local.init(frame, box)
        return State(local, self._search.init(frame, box), local.box, 0, 0, 0, False)

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
        if elsewhere is None and is_gone(state.lost) and not state.wait:
            views = self._search.views(state.seen, (frame.shape[1], frame.shape[0]))
            rank, turn = divmod(state.searches, len(views))
            searched, best = self._search.search(state.searched, frame, views[turn])
            elsewhere = self._confirmed(state, frame, searched, 0 if best.ok else rank)
            wait, has_searched = self._interval - 1, True
        timings = {**found.timings, REDETECT: (perf_counter_ns() - started) / 1e6}
        if elsewhere is not None:
            there, again = elsewhere
            after = State(there, searched, remembered(state.seen, there.box), 0, 0, wait, has_searched)
            return after, again._replace(timings=timings, redetected=True)
        after = State(local, searched, state.seen, state.lost + 1, state.searches + has_searched, wait, has_searched)
        return after, found._replace(timings=timings)

    def _confirmed(
        self, state: State, frame: NDArray[np.uint8], searched: vtt.State, rank: int
    ) -> tuple[seqtrack.State, Estimate] | None:
        """What the local tracker finds at the candidate of this rank; None where it does not see the target."""
        candidates = _apart(searched.boxes)
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
