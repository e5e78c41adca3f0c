"""How long a frame takes, and what else the device pays: start, memory, disk, energy.

Everything is measured in a process of its own that has done nothing else, on frames that are decoded before the clock
starts. They are walked forwards and backwards, so that the target never jumps, however many are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.accuracy import percentiles
from benchmarks.contenders import EdgetrackContender, Frame, Spec
from benchmarks.energy import EnergyMeter
from benchmarks.records import load_average
from benchmarks.results import ResultsError
from edgetrack.kinds import FRAME_GRAPHS

FILM = 120
"""Frames of the drawn film."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        frames: updates that are timed, after `warmup` that are not.
        size: (width, height) of the drawn film.
        cores: the processor cores that the process may use; None leaves it to the system.
    """

    frames: int = 300
    warmup: int = 30
    size: tuple[int, int] = (640, 360)
    cores: tuple[int, ...] | None = None


def measure(spec: Spec, plan: Plan) -> dict[str, Any]:
    """Measure a contender in a fresh process; the content of a record.

    "processor_ms" is the processor time of all threads a frame: it stays what it is on a machine that is busy.

    Raises:
        ResultsError: the plan names cores that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    if absent := sorted(set(plan.cores or ()) - allowed):
        raise ResultsError(
            f"no core {', '.join(map(str, absent))} for this process; it may use {', '.join(map(str, sorted(allowed)))}"
        )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, spec, plan).result()


def _measure(spec: Spec, plan: Plan) -> dict[str, Any]:
    if plan.cores is not None:
        os.sched_setaffinity(0, plan.cores)
    images, box = _frames(plan)
    reset_peak()
    before = memory()
    begin = perf_counter()
    contender = spec.make()
    loaded = perf_counter()
    contender.init(images[0], box)
    ready = perf_counter()
    first = contender.update(images[1]).seconds
    inits = []
    for _ in range(5):
        started = perf_counter()
        contender.init(images[0], box)
        inits.append(perf_counter() - started)
    walk = there_and_back(len(images))
    for _ in range(plan.warmup):
        contender.update(images[next(walk)])
    seconds, stages, overheads = [], [], []
    with EnergyMeter() as energy:
        started, worked = perf_counter(), process_time()
        for _ in range(plan.frames):
            image = images[next(walk)]
            if isinstance(contender, EdgetrackContender):
                track = contender.tracker.update(image)
                seconds.append(track.latency_ms / 1e3)
                stages.append(track.timings)
                overheads.append((track.latency_ms - track.timings["graph"]) / 1e3)
            else:
                seconds.append(contender.update(image).seconds)
        elapsed, work = perf_counter() - started, process_time() - worked
    own: dict[str, Any] = {}
    if isinstance(contender, EdgetrackContender):
        frame_graph = FRAME_GRAPHS[contender.tracker.model.manifest.kind]
        own = {
            "stages_ms": {name: percentiles(np.asarray([each[name] for each in stages]) / 1e3) for name in stages[0]},
            "overhead_ms": percentiles(np.asarray(overheads)),
            "graph_alone_ms": percentiles(graph_alone(contender, plan.frames)),
            "placement": dict(contender.tracker.model.session(frame_graph).placement),
            "disk_bytes": disk_bytes(contender),
        }
    return {
        "contender": {"label": contender.label, **contender.identity},
        "threads": spec.threads,
        "cores": sorted(plan.cores) if plan.cores is not None else None,
        "frame_size": [images[0].shape[1], images[0].shape[0]],
        "frames": plan.frames,
        "warmup": plan.warmup,
        "update_ms": percentiles(np.asarray(seconds)),
        "processor_ms": round(1e3 * work / plan.frames, 3),
        **own,
        "load_ms": round(1e3 * (loaded - begin), 2),
        "cold_start_ms": round(1e3 * (ready - begin + first), 2),
        "init_ms": percentiles(np.asarray(inits)),
        "first_update_ms": round(1e3 * first, 3),
        "memory_mib": {"before": before, "peak": memory(peak=True)},
        "energy": {
            "source": energy.source,
            "joules_per_frame": None if energy.joules is None else energy.joules / plan.frames,
            "watts": None if energy.joules is None else energy.joules / elapsed,
        },
        "load_average": load_average(),
    }


def _frames(plan: Plan) -> tuple[list[Frame], Sequence[float]]:
    from edgetrack.scene import Scene

    film = list(Scene(0, plan.size).frames(FILM))
    return [frame.image for frame in film], film[0].box


def there_and_back(count: int) -> Iterator[int]:
    """1, 2, ..., count - 1, count - 2, ..., 0, 1, ... for ever: steps of one frame, from the frame after the first."""
    index, step = 0, 1
    while True:
        if not 0 <= index + step < count:
            step = -step
        index += step
        yield index


def graph_alone(contender: EdgetrackContender, count: int) -> np.ndarray[Any, Any]:
    """Seconds of each of `count` runs of the frame's graph with nothing around it, on the same inputs every time."""
    model = contender.tracker.model
    session, template = model.session(FRAME_GRAPHS[model.manifest.kind]), model.session("template")
    rng = np.random.default_rng(0)

    def draw(spec: Any) -> np.ndarray[Any, Any]:
        return rng.random(spec.shape).astype(spec.dtype)

    state = template.run({name: draw(spec) for name, spec in template.inputs.items()})
    feeds: dict[str, Any] = {name: session.upload(name, value) for name, value in state.items()}
    feeds |= {name: draw(spec) for name, spec in session.inputs.items() if name not in state}
    seconds = np.empty(count)
    for index in range(-10, count):
        started = perf_counter()
        session.run(feeds)
        seconds[index] = perf_counter() - started  # the warm-up's are written over
    return seconds


def disk_bytes(contender: EdgetrackContender) -> int:
    """The files of the bundle that the device needs for the precision that runs."""
    model = contender.tracker.model
    files = model.manifest.files
    chosen = [entry.bytes for name, entry in files.items() if name.startswith(f"{model.variant}/")]
    return sum(chosen or [entry.bytes for entry in files.values()])


def reset_peak() -> None:
    """Forget what came before in `memory(peak=True)`, where the kernel lets a process do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory(peak: bool = False) -> float:
    """Resident memory of this process in MiB, now or at its highest."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")
