"""Track the aircraft of `edgetrack.scene` and say how well it went."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

import edgetrack
from edgetrack.drawing import annotate, annotate_track
from edgetrack.errors import OptionError, OutputError
from edgetrack.imaging import import_cv2, overlap
from edgetrack.outputs import VideoFile
from edgetrack.reporting import Latencies, caption, model_names
from edgetrack.scene import CROSSING, FPS, LENGTH, OCCLUSION, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image: TypeAlias = NDArray[np.uint8]

MOMENTS = (30, CROSSING, OCCLUSION - 6, 215)
"""Frames of the picture: in flight, beside the wingman, just hidden by the cloud, after a spurt."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        frames: frames tracked, the first one, which is given, not among them.
        hidden: those in which the target was out of sight; they do not count below.
        overlap: mean intersection over union with the true box.
        success: share of frames in which it is above 0.5.
        lost: frames in which the target was said to be lost, hidden or not.
        misled: frames in which it was said to be where it was not: hidden, or with an overlap of 0.5 at most.
        fps: frames per second of the tracker alone, of the median; drawing and encoding do not count.
        latency_ms: median time of one update.
        video, picture: the files written.
    """

    model: str
    backend: str
    precision: str
    threads: int | None
    frames: int
    hidden: int
    overlap: float
    success: float
    lost: int
    misled: int
    fps: float
    latency_ms: float
    video: Path
    picture: Path


def run_demo(
    output: Path,
    model: str | os.PathLike[str] | edgetrack.Model = "seqtrack-nano",
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    frames: int = LENGTH,
    seed: int = 0,
    redetect: str | os.PathLike[str] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> DemoResult:
    """Track the film of `seed`, and write ``demo.mp4`` and ``demo.png`` to the folder `output`, made if it is missing.

    Args:
        output: the folder.
        model: a shipped name, a bundle's path or a loaded model.
        backend, precision, threads: where and how to run; see `edgetrack.load`.
        frames: length of the film, at least 2.
        seed: which film.
        redetect: a shipped name or a bundle's path; see `edgetrack.Tracker`.
        advance: called after every frame, for a progress bar.

    Raises:
        OptionError: `frames` is too small, or an option does not fit the model.
        OutputError: the folder, the video or the picture cannot be written.
        BundleError, BackendError, MissingDependencyError: the model cannot be loaded.
    """
    if frames < 2:
        raise OptionError(f"got {frames} frames; expected at least 2: one to show the target, one to find it in")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; expected a folder, for demo.mp4 and demo.png")
    tracker = edgetrack.Tracker(model, backend, precision=precision, threads=threads, redetect=redetect)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made a folder: {error.strerror}") from None
    running = tracker.model
    moments = MOMENTS if frames > max(MOMENTS) else tuple(np.linspace(0, frames - 1, 4).round().astype(int).tolist())
    pictures: dict[int, Image] = {}
    overlaps: list[float] = []
    lost = misled = 0
    latencies = Latencies()
    scene = Scene(seed)
    with VideoFile(output / "demo.mp4", FPS, scene.size) as video:
        for index, frame in enumerate(scene.frames(frames)):
            label = caption(tracker)
            if index == 0:
                tracker.init(frame.image, frame.box)
                image = annotate(frame.image, frame.box, caption=label)
            else:
                track = tracker.update(frame.image)
                latencies.add(track.latency_ms)
                iou = 0.0 if frame.hidden else float(overlap(np.asarray(track.box), np.asarray(frame.box)))
                if not frame.hidden:
                    overlaps.append(iou)
                lost += not track.ok
                misled += track.ok and iou <= 0.5
                label += f" | {latencies.fps:.0f} fps"
                image = annotate_track(frame.image, track, label)
            video.write(image)
            if index in moments:
                pictures[index] = image
            advance()
    picture = output / "demo.png"
    if not import_cv2().imwrite(str(picture), _sheet([pictures[m] for m in moments])):
        raise OutputError(f"{picture}: cannot be written; check that the disk has room and nothing else has this name")
    return DemoResult(
        model=model_names(tracker),
        backend=running.backend,
        precision=running.precision,
        threads=running.options.threads,
        frames=frames - 1,
        hidden=frames - 1 - len(overlaps),
        overlap=float(np.mean(overlaps)),
        success=float(np.mean(np.asarray(overlaps) > 0.5)),
        lost=lost,
        misled=misled,
        fps=latencies.fps,
        latency_ms=latencies.median,
        video=output / "demo.mp4",
        picture=picture,
    )


def _sheet(images: list[Image], gap: int = 6) -> Image:
    """Four images of one size as two rows of two, with white between them."""
    a, b, c, d = images
    column = np.full((a.shape[0], gap, 3), 255, np.uint8)
    top, bottom = np.hstack([a, column, b]), np.hstack([c, column, d])
    return np.vstack([top, np.full((gap, top.shape[1], 3), 255, np.uint8), bottom])
