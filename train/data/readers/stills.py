"""One's own labelled pictures, in COCO's layout without its years."""

from __future__ import annotations

import logging
from pathlib import Path

from train.data.labels import DatasetError, Stills, found_in, refuse_evaluation_split
from train.data.readers.coco import LEAST_SIDE, build_index, check_listed, from_index
from train.data.readers.content import Content, Lists

LAYOUT = "instances.json and images/NAME.jpg"


def recognises(root: Path) -> bool:
    return (root / "instances.json").is_file()


def read(root: Path, lists: Lists) -> Content:
    """Images with boxes, and images on which nothing is marked."""
    stills, backgrounds = read_stills(root)
    return Content("stills", stills=stills, backgrounds=backgrounds)


def read_stills(root: Path) -> tuple[Stills, list[Path]]:
    """Images with boxes, and images on which nothing is marked, which serve as backgrounds.

    Raises:
        DatasetError: the folder is something else, without its images, with boxes too small to learn from alone, or a
            split that is kept for measuring.
    """
    refuse_evaluation_split(root)
    if not recognises(root):
        raise DatasetError(f"{root} has no instances.json: {found_in(root)}; expected {LAYOUT}")
    labels = root / "instances.json"
    index = build_index(labels)
    if small := int(index["small"]):
        count = small + len(index["boxes"])
        left = f"{labels}: {small} of {count} boxes are less than {LEAST_SIDE:.0f} pixels wide or high"
        if not len(index["boxes"]):
            raise DatasetError(f"{left}; expected some that are larger")
        logging.getLogger(__name__).warning("%s and are left out", left)
    stills, backgrounds = from_index(root / "images", index)
    for first in (*(still.path for still in stills[:1]), *backgrounds[:1]):
        check_listed(labels, first, LAYOUT)
    return stills, backgrounds
