"""TrackingNet (Müller et al., ECCV 2018): 30,132 training videos in twelve parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.labels import DatasetError, Numbered, Track, Tracks, check_lengths, read_table
from train.data.readers.content import Content, Lists

LAYOUT = "TRAIN_0/anno/NAME.txt and TRAIN_0/frames/NAME/0.jpg, up to TRAIN_11"
PARTS = 12


def recognises(root: Path) -> bool:
    return bool(_parts(root))


def read(root: Path, lists: Lists) -> Content:
    """Videos of the parts that are there, named such as TRAIN_0/NAME; TEST is not looked at.

    A video's name is its source's, with the number of the target: targets of one source share a group. There are no
    labels of absence; a box without area has the frame passed over.
    """
    names = []
    for part in _parts(root):
        listed = sorted(path.stem for path in (part / "anno").iterdir() if path.suffix == ".txt")
        if not listed:
            raise DatasetError(f"{part / 'anno'} holds no label; expected {LAYOUT}")
        names += [f"{part.name}/{name}" for name in listed]
    names = lists.choose(names)
    return Content("trackingnet", tracks=Tracks(names, [_source(name) for name in names], _Reader(root)))


def _parts(root: Path) -> list[Path]:
    parts = (root / f"TRAIN_{number}" for number in range(PARTS))
    return [part for part in parts if (part / "anno").is_dir()]


def _source(name: str) -> str:
    return name.partition("/")[2].rpartition("_")[0] or name


@dataclass(frozen=True)
class _Reader:
    root: Path

    def __call__(self, name: str) -> Track:
        part, _, video = name.partition("/")
        boxes = read_table(self.root / part / "anno" / f"{video}.txt", 4)
        folder = self.root / part / "frames" / video
        ends = Numbered(folder, "{}.jpg", np.asarray([len(boxes) - 1, len(boxes)]))
        check_lengths(folder, len(boxes), (ends[0], ends[1]))
        return Track.visible_part(
            name, _source(name), lambda times: Numbered(folder, "{}.jpg", times), boxes, np.ones(len(boxes), bool)
        )
