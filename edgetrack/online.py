"""What the online algorithms have in common: their shape, and how they report a step.

An algorithm holds no state of a target: `init` returns one, and `step` takes one and returns the next. Whoever keeps it
(`edgetrack.Tracker`) replaces it once a step has succeeded, so a step that fails changes nothing.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGES = ("crop", "graph", "postprocess", "template")
"""A step's time: making the search image, running graphs on it, turning outputs into a box, updating the template."""
REDETECT = "redetect"
"""The stage after them that looking for a lost target elsewhere is counted as."""


class Estimate(NamedTuple):
    """What one step found: the score in the manifest's terms, milliseconds by stage, and whether the target had been
    lost and was found again elsewhere."""

    score: float
    ok: bool
    timings: dict[str, float]
    redetected: bool = False


class State(Protocol):
    """Where a target is; what else it holds is the algorithm's matter."""

    @property
    def box(self) -> NDArray[np.float64]:
        """float64 (4,), (x, y, w, h) in pixels of the last frame."""
        ...

    def rescaled(self, factor: NDArray[np.float64]) -> State:
        """The same target in a frame of another size: `factor` (2,) is what x and width, and y and height, grow by."""
        ...


class Algorithm(Protocol):
    """See the module docstring. Safe to share between trackers: nothing in it changes after construction."""

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`."""
        ...

    def step(self, state: Any, frame: NDArray[np.uint8]) -> tuple[State, Estimate]:
        """Find the target of `state`, one of this algorithm's own, in `frame`."""
        ...


class Clock:
    """Milliseconds by stage, each counted from the end of the one before."""

    def __init__(self) -> None:
        self.stages = dict.fromkeys(STAGES, 0.0)
        self._last = perf_counter_ns()

    def lap(self, stage: str) -> None:
        """Count the time since the last call, or since construction, as `stage`."""
        now = perf_counter_ns()
        self.stages[stage] += (now - self._last) / 1e6
        self._last = now
