"""GOT-10k (Huang et al., TPAMI 2021): 9335 training videos of some 150 frames each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.labels import DatasetError, Numbered, Track, Tracks, check_lengths, read_flags, read_names, read_table
from train.data.readers.content import Content, Lists

LAYOUT = (
    "train/list.txt and train/GOT-10k_Train_000001/{groundtruth.txt, absence.label, cover.label, 00000001.jpg}; "
    "or the folder train itself"
)
TRAINING = "GOT-10k_Train_"


def recognises(root: Path) -> bool:
    listing = _folder(root) / "list.txt"
    return listing.is_file() and any(name.startswith("GOT-10k_") for name in read_names(listing)[:1])


def read(root: Path, lists: Lists) -> Content:
    """Videos of the training split. Frames whose target is absent, or covered altogether, are not used."""
    folder = _folder(root)
    names = read_names(folder / "list.txt")
    if others := [name for name in names if not name.startswith(TRAINING)]:
        raise DatasetError(
            f"{folder / 'list.txt'} lists {others[0]}, of a split that is kept for measuring: never train on it; "
            f"expected {TRAINING}000001 and so on"
        )
    names = lists.choose(names)
    return Content("got10k", tracks=Tracks(names, names, _Reader(folder)))


def _folder(root: Path) -> Path:
    return root / "train" if (root / "train" / "list.txt").is_file() else root


@dataclass(frozen=True)
class _Reader:
    folder: Path

    def __call__(self, name: str) -> Track:
        folder = self.folder / name
        boxes = read_table(folder / "groundtruth.txt", 4)
        absence, cover = read_flags(folder / "absence.label"), read_flags(folder / "cover.label")
        ends = Numbered(folder, "{:08d}.jpg", np.asarray([len(boxes), len(boxes) + 1]))
        check_lengths(folder, len(boxes), (ends[0], ends[1]), absence=len(absence), cover=len(cover))
        return Track.visible_part(
            name,
            name,
            lambda times: Numbered(folder, "{:08d}.jpg", times + 1),
            boxes,
            # cover counts the visible eighths of the target.
            (absence == 0) & (cover > 0),
        )
