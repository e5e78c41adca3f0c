"""One's own labelled pictures, in COCO's layout without its years."""

from __future__ import annotations

from pathlib import Path

from train.data.labels import DatasetError, Stills, found_in, refuse_evaluation_split
from train.data.readers.coco import build_index, check_listed, from_index
from train.data.readers.content import Content, Lists

LAYOUT = "instances.json and images/NAME.jpg"


def recognises(root: Path) -> bool:
    return (root / "instances.json").is_file()


def read(root: Path, lists: Lists) -> Content:
    """Images with boxes, and images without."""
    stills, backgrounds = read_stills(root)
    return Content("stills", stills=stills, backgrounds=backgrounds)


def read_stills(root: Path) -> tuple[Stills, list[Path]]:
    """Images with boxes, and images without, which serve as backgrounds.

    Raises:
        DatasetError: the folder is something else, without its images, or a split that is kept for measuring.
    """
    refuse_evaluation_split(root)
    if not recognises(root):
        raise DatasetError(f"{root} has no instances.json: {found_in(root)}; expected {LAYOUT}")
    labels = root / "instances.json"
    stills, backgrounds = from_index(root / "images", build_index(labels))
    for first in (*(still.path for still in stills[:1]), *backgrounds[:1]):
        check_listed(labels, first, LAYOUT)
    return stills, backgrounds
