"""Timing several things against each other: in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, warmup: int) -> dict[str, Seconds]:
    """Seconds (rounds,) of every call, by name; one of each makes a round, and `warmup` rounds go before."""
    times = {name: np.empty(rounds) for name in calls}
    for index in range(-warmup, rounds):
        for name, call in calls.items():
            started = perf_counter()
            call()
            seconds = perf_counter() - started
            if index >= 0:
                times[name][index] = seconds
    return times
