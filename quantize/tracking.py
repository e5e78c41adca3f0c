"""How well a bundle tracks: whole sequences, in each of its precisions on every CPU runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import edgetrack
from edgetrack.sources import open_source
from edgetrack_runtimes import discover
from train.data.labels import DatasetError, found_in, read_table
from train.success import Floats, overlaps, success_curve

ABSENT = {"absence.label": 1, "cover.label": 0}
"""By file, the value that says that nothing of the target is in sight."""


class Truth(NamedTuple):
    """A folder of frames, and the target's boxes (N, 4) in them, x, y, w, h in pixels; NaN where it is absent."""

    folder: Path
    boxes: Floats


def read_sequences(root: Path) -> list[Truth]:
    """Sequences in GOT-10k's layout: ``list.txt``, ``NAME/00000001.jpg``, ``NAME/groundtruth.txt``; perhaps
    ``NAME/absence.label`` and ``NAME/cover.label``.

    Raises:
        DatasetError: the folder is not in this layout, or a sequence cannot be begun or scored.
    """
    if not (root / "list.txt").is_file():
        raise DatasetError(f"{root} has no list.txt: {found_in(root)}; expected list.txt and NAME/groundtruth.txt")
    sequences = []
    for name in (root / "list.txt").read_text().split():
        folder = root / name
        boxes = read_table(folder / "groundtruth.txt", 4)
        for file, absent in ABSENT.items():
            if (folder / file).is_file():
                labels = read_table(folder / file)
                if len(labels) != len(boxes):
                    raise DatasetError(f"{folder}: {len(boxes)} boxes but {len(labels)} entries of {file}")
                boxes[labels == absent] = np.nan
        shown = np.isfinite(boxes).all(1)
        if not shown[:1].any() or not shown[1:].any():
            raise DatasetError(f"{folder}: expected a box for the first frame, and for another to score")
        sequences.append(Truth(folder, boxes))
    if not sequences:
        raise DatasetError(f"{root / 'list.txt'} names no sequence")
    return sequences


def tracking(bundle: Path, precisions: Sequence[str], sequences: Sequence[Truth]) -> dict[str, Any]:
    """Give a bundle's tracker the first box of each sequence and score what it answers to the other frames.

    Returns:
        JSON values, by CPU runtime and precision: "auc", the area under the success curve over the frames in which the
        target is; and of INT8 "overlap_with_fp32", the mean overlap of those frames' boxes with FP32's on the same
        runtime. Both are means over sequences.

    Raises:
        EdgeTrackError: the bundle or a frame cannot be used.
        DatasetError: a sequence has not as many frames as boxes.
    """
    runtimes: dict[str, Any] = {}
    for status in discover():
        if status.available and status.backend.endswith("-cpu"):
            boxes = {precision: _run(bundle, status.backend, precision, sequences) for precision in precisions}
            runtimes[status.backend] = {name: _scores(boxes, name, sequences) for name in precisions}
    return {"sequences": len(sequences), "frames": sum(len(each.boxes) for each in sequences), "runtimes": runtimes}


def _run(bundle: Path, backend: str, precision: str, sequences: Sequence[Truth]) -> list[Floats]:
    """The tracker's boxes (N, 4) of each sequence, the first as it was given."""
    tracker = edgetrack.Tracker(edgetrack.load(bundle, backend, precision, threads=1))
    found = []
    for folder, truth in sequences:
        with open_source(folder) as frames:
            if frames.frame_count != len(truth):
                raise DatasetError(
                    f"{folder}: {frames.frame_count} frames but {len(truth)} boxes; expected one a frame"
                )
            tracker.init(next(frames), truth[0])
            found.append(np.asarray([truth[0], *(tracker.update(frame).box for frame in frames)], np.float64))
    return found


def _scores(boxes: Mapping[str, Sequence[Floats]], precision: str, sequences: Sequence[Truth]) -> dict[str, float]:
    areas, equal = [], []
    for found, exact, (_, truth) in zip(boxes[precision], boxes["fp32"], sequences, strict=True):
        counted = np.isfinite(truth).all(1)
        counted[0] = False  # the frame that was given
        areas.append(success_curve(overlaps(found[counted], truth[counted])).mean())
        equal.append(overlaps(found[counted], exact[counted]).mean())
    scores = {"auc": round(float(np.mean(areas)), 4)}
    return scores if precision == "fp32" else scores | {"overlap_with_fp32": round(float(np.mean(equal)), 4)}
