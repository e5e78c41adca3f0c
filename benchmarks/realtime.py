"""Tracking a camera that does not wait: accuracy as a function of latency.

Frame i arrives at i / fps and must be answered before the next one does. A tracker that is busy misses frames: it takes
the newest one when it is done. A frame without an answer in time keeps the box before (the rule of VOT's real-time
challenge). Time is simulated: each update takes what it took here, or a given latency, as on a slower or busier device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import percentiles
from benchmarks.contenders import Contender
from benchmarks.datasets import Dataset
from benchmarks.datasets import Sequence as Video
from benchmarks.protocols import score
from benchmarks.results import Track

_EPSILON = 1e-9  # of a second, so that rounding does not make a tracker late that is just in time


def run_realtime(contender: Contender, video: Video, fps: float, latency: float | None = None) -> tuple[Track, int]:
    """Track a video that plays at `fps`; `latency` in seconds stands in for the measured one.

    Returns:
        What was known of each frame when its time was up, and how many frames were looked at.
    """
    count, interval = len(video.frames), 1 / fps
    contender.init(video.read(0), video.truth[0].tolist())
    boxes, reported = np.repeat(video.truth[:1], count, axis=0), np.ones(count, bool)
    seconds, scores = np.full(count, np.nan), np.full(count, np.nan)
    frame, now, looked = 1, interval, 0
    while frame < count:
        answer = contender.update(video.read(frame))
        looked += 1
        seconds[frame] = answer.seconds if latency is None else latency
        done = now + seconds[frame]
        # The first frame whose time is not up by then; all later ones keep this answer until the next.
        first = max(frame, math.ceil(done / interval - _EPSILON * fps) - 1)
        boxes[first:], reported[first:], scores[first:] = answer.box, answer.ok, answer.score
        newest = math.floor(done / interval + _EPSILON * fps)
        frame = max(frame + 1, newest)
        now = max(done, frame * interval)
    return Track(boxes, seconds, scores, reported), looked


def measure(
    contender: Contender,
    dataset: Dataset,
    rates: Sequence[float],
    latencies: Sequence[float],
    advance: Callable[[str], object] = lambda name: None,
) -> list[dict[str, Any]]:
    """One entry for each rate in frames a second and each latency in seconds, the measured one first."""
    entries = []
    for fps in rates:
        for latency in (None, *latencies):
            results, looked, seconds = [], 0, []
            for video in dataset.sequences:
                track, each = run_realtime(contender, video, fps, latency)
                results.append(video.result(track))
                looked += each
                seconds.append(track.seconds)
            scores = score(results, dataset.protocol)
            entries.append(
                {
                    "fps": fps,
                    "latency_ms": None if latency is None else 1e3 * latency,
                    "update_ms": percentiles(np.concatenate(seconds)),
                    "looked_at": looked / sum(len(video.frames) - 1 for video in dataset.sequences),
                    "metrics": scores.metrics,
                }
            )
            advance(f"{fps:g} fps")
    return entries
