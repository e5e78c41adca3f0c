"""Timing several things against each other: in turns, so that what else the machine does falls on all of them alike.

A turn is many runs of one thing, the first of them untimed. A device runs one model, whose weights stay in the
processor's caches as far as they fit; changing the model with every run would charge each run for what the others threw
out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

SETTLE = 20
"""Untimed runs at the start of a turn: as many as seqtrack-nano in INT8 takes until it is no faster any more."""
TURN = 40
"""Timed runs of a turn, at most."""


def in_turns(calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, Seconds]:
    """Seconds (runs,) of the timed runs of every call, by name."""
    times = {name: np.empty(runs) for name in calls}
    for start in range(0, runs, TURN):
        for name, call in calls.items():
            for index in range(start - SETTLE, min(start + TURN, runs)):
                started = perf_counter()
                call()
                seconds = perf_counter() - started
                if index >= start:
                    times[name][index] = seconds
    return times
