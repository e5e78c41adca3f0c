"""Sequences over machines, with Ray where it is installed (``pip install --group ray`` in this checkout).

``RAY_ADDRESS`` names a cluster; without it the workers are on this machine. Every machine needs this checkout, the
model and the dataset at the same paths; results come back and are written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from benchmarks.accuracy import run_sequence
from benchmarks.contenders import Spec
from benchmarks.datasets import Sequence as Video
from benchmarks.results import ResultsError, Track


def import_ray() -> ModuleType:
    """Return the ``ray`` module.

    Raises:
        ResultsError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ResultsError(
            "--ray needs Ray; pip install --group ray in this checkout, or use --processes alone on this machine"
        ) from None
    return ray


class Worker:
    """A process somewhere with the contender loaded."""

    def __init__(self, spec: Spec) -> None:
        self._contender = spec.make()

    def run(self, video: Video) -> tuple[str, Track]:
        return video.name, run_sequence(self._contender, video)


def run(spec: Spec, videos: Sequence[Video], workers: int) -> Iterator[tuple[str, Track]]:
    """Track sequences on `workers` processes of the cluster; names and tracks in the order in which they are done."""
    ray = import_ray()
    from ray.util import ActorPool

    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=spec.threads or 1)(Worker)
        pool = ActorPool([remote.remote(spec) for _ in range(workers)])
        yield from pool.map_unordered(lambda worker, video: worker.run.remote(video), videos)
    finally:
        if begun:
            ray.shutdown()
