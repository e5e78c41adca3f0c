"""Pictures with an alpha channel, to be pasted: targets, distractors and occluders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2

from train.data.labels import DatasetError
from train.data.readers.content import Content, Lists

LAYOUT = "NAME.png or FOLDER/NAME.png, with an alpha channel"


def recognises(root: Path) -> bool:
    """A look at one picture: frames and masks are often .png too, but not transparent."""
    first = next(_pictures(root), None)
    image = cv2.imread(str(first), cv2.IMREAD_UNCHANGED) if first else None
    return image is not None and image.ndim == 3 and image.shape[2] == 4


def read(root: Path, lists: Lists) -> Content:
    """The .png pictures of `root` and of its folders.

    Raises:
        DatasetError: they are a clip's frames, which would be pasted whole.
    """
    if labels := next(chain(root.glob("groundtruth.txt"), root.glob("*/groundtruth.txt")), None):
        raise DatasetError(
            f"{labels} labels the pictures beside it: they are frames, not cut-outs; name the clips' folders in a "
            "list.txt above them, one a line, or move cut-outs to a folder of their own"
        )
    return Content("cutouts", cutouts=sorted(_pictures(root)))


def _pictures(root: Path) -> Iterator[Path]:
    """No deeper: a folder too high up, that holds cut-outs among other datasets, is not one of them."""
    return chain(root.glob("*.png"), root.glob("*/*.png"))
