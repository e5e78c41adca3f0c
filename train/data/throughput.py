"""How many examples a second the data layer gives by itself: what a GPU can be fed with."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from torch.utils.data import DataLoader

from train.data.pairs import PairDataset

BATCH = 16


@dataclass(frozen=True)
class Throughput:
    """What was measured.

    Attributes:
        workers: loading processes; 0 is the main process itself.
        pairs: examples loaded in the time measured.
        seconds: the time measured.
    """

    workers: int
    pairs: int
    seconds: float

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds


def measure(dataset: PairDataset, workers: int, seconds: float) -> Throughput:
    """Load batches from the dataset's beginning for about `seconds`, and count. Beyond its end the examples go on: they
    are drawn by their number, and a run's length is no limit to what can be measured.

    Starting the processes and each one's first two batches are not counted. A batch counts when it is handed over: what
    is half loaded when the time begins makes up for what is half loaded when it ends.
    """
    loader = DataLoader(
        dataset, BATCH, sampler=itertools.count(), num_workers=workers, prefetch_factor=1 if workers else None
    )
    batches = iter(loader)
    for _ in range(2 * max(1, workers)):
        next(batches)
    pairs, began = 0, time.perf_counter_ns()
    for _ in batches:
        pairs += BATCH
        if (time.perf_counter_ns() - began) * 1e-9 >= seconds:
            break
    return Throughput(workers, pairs, (time.perf_counter_ns() - began) * 1e-9)
