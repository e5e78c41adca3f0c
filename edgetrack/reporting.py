"""What the command line and the demo say of a run in the same words."""

from __future__ import annotations

from bisect import insort
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
    """Times of updates in milliseconds.

    The median stands for them, also where frames per second are told: it is what an update takes, whatever a few slow
    ones took.
    """

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, milliseconds: float) -> None:
        """Count one more."""
        insort(self._sorted, milliseconds)  # so that the median of a long run takes no longer in every frame

    @property
    def median(self) -> float:
        """In milliseconds; needs one time at least."""
        half = len(self._sorted) // 2
        return (self._sorted[half] + self._sorted[~half]) / 2

    @property
    def mean(self) -> float:
        """In milliseconds; needs one time at least."""
        return sum(self._sorted) / len(self._sorted)

    @property
    def fps(self) -> float:
        """Frames per second, of the median."""
        return 1000 / self.median
