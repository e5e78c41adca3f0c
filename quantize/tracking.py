"""How well a bundle tracks: whole sequences, in each of its precisions on every CPU runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

import edgetrack
from edgetrack.errors import BoxError
from edgetrack.imaging import check_box
from edgetrack.sources import open_source
from edgetrack_runtimes import discover
from train.data.labels import DatasetError, found_in, read_flags, read_names, read_table, shown
from train.success import Floats, overlaps, success_curve

FLAGS = ("absence", "cover")
"""Labels of GOT-10k's that say where nothing of the target is in sight; see `train.data.labels.shown`."""
SHIFTS = tuple((x, y) for x in (-0.1, 0.0, 0.1) for y in (-0.1, 0.0, 0.1) if x or y)
"""In units of the target's width and height."""
SCALES = (0.8, 0.9, 1.1, 1.2)


class Truth(NamedTuple):
    """A folder of frames, and the target's boxes (N, 4) in them, x, y, w, h in pixels; NaN where it is absent."""

    folder: Path
    boxes: Floats


def read_sequences(root: Path) -> list[Truth]:
    """Sequences in GOT-10k's layout: ``list.txt``, ``NAME/00000001.jpg``, ``NAME/groundtruth.txt``; perhaps
    ``NAME/absence.label`` and ``NAME/cover.label``.

    Raises:
        DatasetError: the folder is not in this layout, or a sequence cannot be begun, from the true first box or one of
            those of `moved`, or scored.
        EdgeTrackError: a sequence's first frame cannot be read.
    """
    if not (root / "list.txt").is_file():
        raise DatasetError(f"{root} has no list.txt: {found_in(root)}; expected list.txt and NAME/groundtruth.txt")
    sequences = []
    for name in read_names(root / "list.txt"):
        folder = root / name
        boxes = read_table(folder / "groundtruth.txt", 4)
        flags = {}
        for flag in FLAGS:
            if (path := folder / f"{flag}.label").is_file():
                flags[flag] = read_flags(path)
                if len(flags[flag]) != len(boxes):
                    raise DatasetError(f"{folder}: {len(boxes)} boxes but {len(flags[flag])} entries of {path.name}")
        boxes[~shown(boxes, _checked_size(folder, boxes), **flags)] = np.nan
        seen = np.isfinite(boxes).all(1)
        if not seen[:1].any() or not seen[1:].any():
            raise DatasetError(f"{folder}: expected a box for the first frame, and for another to score")
        sequences.append(Truth(folder, boxes))
    if not sequences:
        raise DatasetError(f"{root / 'list.txt'} names no sequence")
    return sequences


def _checked_size(folder: Path, boxes: Floats) -> tuple[int, int]:
    """The frames' width and height; raises now what else would be found after the minutes that a bundle takes."""
    with open_source(folder) as frames:
        if frames.frame_count != len(boxes):
            raise DatasetError(f"{folder}: {frames.frame_count} frames but {len(boxes)} boxes; expected one a frame")
        for start in (boxes[0], *moved(boxes[0])) if np.isfinite(boxes[0]).all() else ():
            try:
                check_box(start, frames.size)
            except BoxError as error:
                raise DatasetError(
                    f"{folder}: it is to be tracked from the first box, {boxes[0].tolist()}, and from twelve near it: "
                    f"{error}"
                ) from error
        return frames.size


def moved(box: Floats) -> Floats:
    """The 12 first boxes (12, 4) of the spatial robustness evaluation, SRE (Wu et al. 2013): the true one, x, y, w, h,
    shifted by a tenth of its size in eight directions, and scaled about its centre by 0.8, 0.9, 1.1 and 1.2."""
    shifted = [np.concatenate([box[:2] + box[2:] * shift, box[2:]]) for shift in SHIFTS]
    scaled = [np.concatenate([box[:2] + (1 - scale) / 2 * box[2:], scale * box[2:]]) for scale in SCALES]
    return np.stack([*shifted, *scaled])


def tracking(
    bundle: Path, precisions: Sequence[str], sequences: Sequence[Truth], progress: Progress | None = None
) -> dict[str, Any]:
    """Give a bundle's tracker the first box of each sequence, and those of `moved`, and score its other frames. The
    runtimes do so side by side, in a thread each.

    One pass hangs on single events, such as a target lost or just not: between precisions it may differ by points
    either way. The mean over moved first boxes tells what a precision costs.

    Returns:
        JSON values, by CPU runtime and precision: "auc", the area under the success curve over the frames in which the
        target is; "sre", the mean of it over the moved first boxes; and of INT8 "overlap_with_fp32", the mean overlap
        of those frames' boxes with FP32's on the same runtime, from the true first box. All are means over sequences.

    Raises:
        EdgeTrackError: the bundle or a frame cannot be used.
    """
    backends = [status.backend for status in discover() if status.available and status.backend.endswith("-cpu")]
    progress = progress or Progress(disable=True)
    task = progress.add_task("track", total=len(backends) * len(precisions) * len(sequences))
    ended = Event()

    def track(backend: str) -> dict[str, Any]:
        boxes: dict[str, list[Floats]] = {}
        for precision in precisions:
            model = edgetrack.load(bundle, backend, precision, threads=1)
            boxes[precision] = []
            for sequence in sequences:
                progress.update(task, description=f"track {sequence.folder.name}, {precision} on {backend}")
                boxes[precision].append(_run(model, sequence, ended))
                progress.advance(task)
        return {name: _scores(boxes, name, sequences) for name in precisions}

    with ThreadPoolExecutor() as pool:
        try:
            runs = [pool.submit(track, backend) for backend in backends]
            for run in wait(runs, return_when=FIRST_EXCEPTION).done:
                run.result()  # raises what ended it
        finally:
            ended.set()  # or an error or Ctrl-C would wait for the minutes that the other runtimes take
    runtimes = {backend: run.result() for backend, run in zip(backends, runs, strict=True)}
    return {"sequences": len(sequences), "frames": sum(len(each.boxes) for each in sequences), "runtimes": runtimes}


def _run(model: edgetrack.Model, sequence: Truth, ended: Event) -> Floats:
    """The boxes (13, N, 4) from the true first box and from the moved ones, the first as it was given.

    Raises:
        CancelledError: all has `ended` meanwhile.
    """
    starts = [sequence.boxes[0], *moved(sequence.boxes[0])]
    trackers = [edgetrack.Tracker(model) for _ in starts]
    found = [starts]
    with open_source(sequence.folder) as frames:
        first = next(frames)
        for tracker, start in zip(trackers, starts, strict=True):
            tracker.init(first, start)
        for frame in frames:
            if ended.is_set():
                raise CancelledError
            found.append([np.asarray(tracker.update(frame).box) for tracker in trackers])
    return np.asarray(found, np.float64).swapaxes(0, 1)


def _scores(boxes: Mapping[str, Sequence[Floats]], precision: str, sequences: Sequence[Truth]) -> dict[str, float]:
    areas, equal = [], []
    for found, exact, (_, truth) in zip(boxes[precision], boxes["fp32"], sequences, strict=True):
        counted = np.isfinite(truth).all(1)
        counted[0] = False  # the frame that was given
        areas.append([success_curve(overlaps(run[counted], truth[counted])).mean() for run in found])
        equal.append(overlaps(found[0, counted], exact[0, counted]).mean())
    auc, *sre = np.mean(areas, axis=0)
    scores = {"auc": round(float(auc), 4), "sre": round(float(np.mean(sre)), 4)}
    return scores if precision == "fp32" else scores | {"overlap_with_fp32": round(float(np.mean(equal)), 4)}
