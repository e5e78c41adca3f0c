"""One's own videos, in GOT-10k's layout without its many files: small enough to be read and checked at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetrack.sources import natural_key
from train.data.labels import (
    MIN_SIDE,
    Box,
    DatasetError,
    Track,
    Tracks,
    found_in,
    read_flags,
    read_names,
    read_picture,
    read_table,
    refuse_evaluation_split,
)
from train.data.readers.content import Content, Lists

LAYOUT = (
    "list.txt and NAME/{groundtruth.txt, 00000001.jpg}, perhaps NAME/absence.label, and in NAME/meta.json a video_group"
)
IMAGES = (".jpg", ".jpeg", ".png")


def recognises(root: Path) -> bool:
    return (root / "list.txt").is_file()


def read(root: Path, lists: Lists) -> Content:
    """All tracks with two visible frames; see `read_tracks`."""
    return Content("tracks", tracks=Tracks.of(read_tracks(root, lists)))


def read_tracks(root: Path, lists: Lists = Lists()) -> list[Track]:  # noqa: B008 (frozen)
    """Tracks of a folder with ``list.txt``, and per track frames, in natural order, ``groundtruth.txt`` and, where the
    target is absent, ``absence.label`` 1, a box of ``nan`` or an empty line; ``meta.json`` may name a ``video_group``.

    Raises:
        DatasetError: a track is broken, or the split is kept for measuring.
    """
    refuse_evaluation_split(root)
    if not recognises(root):
        raise DatasetError(f"{root} has no list.txt: {found_in(root)}; expected {LAYOUT}")
    tracks, few = [], []
    for name in lists.choose(read_names(root / "list.txt")):
        folder = root / name
        boxes = read_table(folder / "groundtruth.txt", 4)
        frames = sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGES), key=natural_key)
        if len(boxes) != len(frames):
            raise DatasetError(f"{folder}: {len(frames)} frames but boxes of shape {boxes.shape}")
        visible = np.ones(len(boxes), bool)
        if (folder / "absence.label").is_file():
            absence = read_flags(folder / "absence.label")
            if len(absence) != len(frames):
                raise DatasetError(f"{folder}: {len(frames)} frames but {len(absence)} entries of absence.label")
            visible = absence == 0
        visible &= ~_outside(name, np.where(visible[:, None], boxes, np.nan), frames)
        track = Track.visible_part(
            name,
            _video_group(folder / "meta.json") or name,
            lambda times, frames=frames: tuple(frames[time] for time in times),
            boxes,
            visible,
        )
        (tracks if len(track.frames) >= 2 else few).append(track)
    if few:
        logging.getLogger(__name__).warning(
            f"{root}: left out {', '.join(track.name for track in few)}: fewer than two frames show the target, with a "
            f"box of at least {MIN_SIDE:.0f} pixels a side that is in the picture and no label of absence"
        )
    if not tracks:
        raise DatasetError(f"{root}: no sequence with two visible frames")
    return tracks


def _outside(name: str, boxes: Box, frames: Sequence[Path]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) share nothing with the picture, where tools go on with them when the target has left; they are
    logged. The first frame is read for its size: the large datasets, whose own labels tell, are not asked so."""
    if not frames:
        return np.zeros(0, bool)
    height, width = read_picture(frames[0]).shape[:2]
    beside = (boxes[:, :2] >= (width, height)).any(1) | (boxes[:, :2] + boxes[:, 2:] <= 0).any(1)
    if beside.any():
        logging.getLogger(__name__).warning(
            f"{name}: {beside.sum()} boxes, the first of frame {np.flatnonzero(beside)[0] + 1}, lie outside the "
            f"picture of {width}x{height} pixels: the target is taken as absent there"
        )
    return beside


def _video_group(path: Path) -> str | None:
    """What a meta.json says; None where it says nothing, or is not there."""
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f'{path} cannot be read ({error}); expected JSON such as {{"video_group": "X"}}') from error
    if not isinstance(meta, dict):
        raise DatasetError(f'{path} holds {json.dumps(meta)[:40]}; expected an object such as {{"video_group": "X"}}')
    group = meta.get("video_group")
    return None if group is None else str(group)
