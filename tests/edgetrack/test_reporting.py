"""Times of updates: the median of all of them, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from edgetrack.reporting import Latencies


@pytest.mark.parametrize("number", [1, 2, 3, 10, 999, 1000])
def test_median_and_mean_are_those_of_all_times(number: int) -> None:
    times = np.random.default_rng(number).lognormal(1.5, 0.5, number)
    latencies = Latencies()
    for each in times:
        latencies.add(float(each))
        assert latencies.fps > 0
    assert len(latencies) == number
    assert latencies.median == pytest.approx(float(np.median(times)), abs=0.006)
    assert latencies.mean == pytest.approx(float(times.mean()))
    assert latencies.fps == pytest.approx(1000 / latencies.median)


def test_a_long_run_takes_no_more_memory_than_a_short_one() -> None:
    latencies = Latencies()
    for each in np.random.default_rng(0).uniform(3, 5, 100_000):
        latencies.add(float(each))
    assert len(latencies._counts) <= 201


def test_an_update_that_took_no_time_that_can_be_told_has_a_rate_too() -> None:
    latencies = Latencies()
    latencies.add(0.001)
    assert latencies.fps == 100_000
