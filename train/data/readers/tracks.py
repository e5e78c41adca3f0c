"""One's own videos, in GOT-10k's layout without its many files: small enough to be read and checked at once."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetrack.sources import IMAGE_SUFFIXES, images_in, warn_of_depth
from train.data.labels import (
    MIN_SIDE,
    Box,
    DatasetError,
    Track,
    Tracks,
    found_in,
    outside,
    read_flags,
    read_names,
    read_picture,
    read_table,
    refuse_evaluation_split,
    shown,
)
from train.data.readers.content import Content, Lists

LAYOUT = (
    "list.txt and NAME/{groundtruth.txt, 00000001.jpg}, perhaps NAME/absence.label, NAME/cover.label, and in "
    "NAME/meta.json a video_group"
)

OVER, SLACK = 0.2, 8.0
"""Share of a sequence's boxes that reach over the picture's right or lower border, and by how many pixels, from which
on they may be corners. Of the sequences at hand one has a ninth there, which the target leaves, and the others none."""


def recognises(root: Path) -> bool:
    return (root / "list.txt").is_file()


def read(root: Path, lists: Lists) -> Content:
    """All tracks with two visible frames; see `read_tracks`."""
    return Content("tracks", tracks=Tracks.of(read_tracks(root, lists)))


def read_tracks(root: Path, lists: Lists = Lists()) -> list[Track]:  # noqa: B008 (frozen)
    """Tracks of a folder with ``list.txt``, and per track frames, in natural order, ``groundtruth.txt`` and, where the
    target is absent, ``absence.label`` 1, ``cover.label`` 0, a box of ``nan`` or an empty line; ``meta.json`` may name
    a ``video_group``.

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
        frames = images_in(folder)
        _check_count(folder / "groundtruth.txt", f"{len(boxes)} lines", len(boxes), frames)
        absence, cover = _flags(folder / "absence.label", frames, 0), _flags(folder / "cover.label", frames, 8)
        # The first frame is read for its size: the large datasets, whose own labels tell, are not asked so.
        height, width = read_picture(frames[0]).shape[:2]
        warn_of_depth(frames[0])
        told = np.where(((absence == 0) & (cover > 0))[:, None], boxes, np.nan)
        _warn_of_outside(name, told, width, height)
        _warn_of_corners(name, told, width, height)
        track = Track.visible_part(
            name,
            _video_group(folder / "meta.json") or name,
            lambda times, frames=frames: tuple(frames[time] for time in times),
            boxes,
            shown(boxes, (width, height), absence, cover),
        )
        (tracks if len(track.frames) >= 2 else few).append(track)
    if few:
        logging.getLogger(__name__).warning(
            f"{root}: left out {', '.join(track.name for track in few)}: fewer than two frames show the target, with a "
            f"box of at least {MIN_SIDE:.0f} pixels a side that is in the picture and no label of absence or full cover"
        )
    if not tracks:
        raise DatasetError(f"{root}: no sequence with two visible frames")
    return tracks


def _flags(path: Path, frames: Sequence[Path], default: float) -> NDArray[np.float64]:
    """A sequence's labels, one for each of its frames; `default` for all where there is no such file."""
    if not path.is_file():
        return np.full(len(frames), default)
    flags = read_flags(path)
    _check_count(path, f"{len(flags)} entries", len(flags), frames)
    return flags


def _check_count(labels: Path, content: str, count: int, frames: Sequence[Path]) -> None:
    """Raise DatasetError unless a file of labels has one for each image beside it."""
    if count == len(frames):
        return
    found = f"no image (of {', '.join(sorted(IMAGE_SUFFIXES))})"
    if frames:
        suffixes = Counter(path.suffix.lower() for path in frames)
        listed = ", ".join(f"{number} {suffix}" for suffix, number in suffixes.items())
        found = f"{len(frames)} images ({listed}), from {frames[0].name} to {frames[-1].name}"
    if missing := _gap(frames):
        found += f", of whose numbers {missing} is the first that is missing"
    raise DatasetError(
        f"{labels} has {content} but {labels.parent} holds {found}; expected one for each image, where empty lines at "
        "the end do not count"
    )


def _gap(frames: Sequence[Path]) -> str | None:
    """The first number that is skipped where images are numbered, with its zeros."""
    names = [re.fullmatch(r"(.*?)(\d+)", path.stem) for path in frames]
    numbered = [name for name in names if name]
    if len(numbered) < len(names) or len({name[1] for name in numbered}) != 1:
        return None
    numbers = sorted(int(name[2]) for name in numbered)
    skipped = next((before + 1 for before, after in pairwise(numbers) if after > before + 1), None)
    return None if skipped is None else str(skipped).zfill(len(numbered[0][2]))


def _warn_of_outside(name: str, boxes: Box, width: int, height: int) -> None:
    """Log that boxes (N, 4) lie outside the picture."""
    beside = outside(boxes, (width, height))
    if beside.any():
        logging.getLogger(__name__).warning(
            f"{name}: {beside.sum()} boxes, the first of frame {np.flatnonzero(beside)[0] + 1}, lie outside the "
            f"picture of {width}x{height} pixels: the target is taken as absent there"
        )


def _warn_of_corners(name: str, boxes: Box, width: int, height: int) -> None:
    """Log that boxes (N, 4) look like x1, y1, x2, y2: so read all lie in the picture, and as x, y, w, h many do not."""
    boxes = boxes[np.isfinite(boxes).all(1)]
    size = np.asarray([width, height])
    over = (boxes[:, :2] + boxes[:, 2:] > size + SLACK).any(1)
    corners = (boxes[:, :2] <= boxes[:, 2:]) & (boxes[:, 2:] <= size + SLACK)
    if corners.all() and over.sum() > OVER * len(boxes):
        logging.getLogger(__name__).warning(
            f"{name}: {over.sum()} of {len(boxes)} boxes reach over the right or lower border of the picture of "
            f"{width}x{height} pixels: boxes are x, y, width, height, and these look like x1, y1, x2, y2; if they are, "
            "write x2 - x1 and y2 - y1 for the last two"
        )


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
