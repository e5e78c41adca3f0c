"""What the command line and the demo say of a run in the same words."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgetrack.tracker import Tracker


def model_names(tracker: Tracker) -> str:
    """Of the models that a tracker runs, the one that searches behind the one that follows."""
    return " + ".join(each.manifest.name for each in (tracker.model, tracker.search) if each is not None)


def caption(tracker: Tracker) -> str:
    """What runs, in which precision and where."""
    return f"{model_names(tracker)} {tracker.model.precision} | {tracker.model.backend}"


class Latencies:
    """Times of updates in milliseconds, counted by the hundredth, so that days of a camera take no more memory than its
    first minutes.

    The median stands for them, also where frames per second are told: it is what an update takes, whatever a few slow
    ones took.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._number, self._sum = 0, 0.0

    def __len__(self) -> int:
        return self._number

    def add(self, milliseconds: float) -> None:
        """Count one more."""
        self._counts[round(100 * milliseconds)] += 1
        self._number += 1
        self._sum += milliseconds

    @property
    def median(self) -> float:
        """In milliseconds; needs one time at least."""
        middle = (self._number - 1) // 2, self._number // 2
        return sum(self._ranked(rank) for rank in middle) / 200

    @property
    def mean(self) -> float:
        """In milliseconds; needs one time at least."""
        return self._sum / self._number

    @property
    def fps(self) -> float:
        """Frames per second, of the median."""
        return 1000 / max(self.median, 0.01)

    def _ranked(self, rank: int) -> int:
        """What the time of this rank, from 0, was counted as."""
        ordered = sorted(self._counts)
        return ordered[bisect_right(list(accumulate(self._counts[each] for each in ordered)), rank)]
