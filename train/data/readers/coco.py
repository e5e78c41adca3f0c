"""COCO 2017's detection labels (Lin et al., ECCV 2014): 118,287 stills, 860,001 boxes, 450 MB of JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.labels import MIN_SIDE, DatasetError, Stills, found_in
from train.data.readers.content import Content, Lists

LAYOUT = "annotations/instances_train2017.json and train2017/000000000009.jpg (or images/train2017/...)"
LABELS = "instances_train2017.json"
LABEL_FOLDERS, IMAGE_FOLDERS = ("annotations", "."), ("train2017", "images/train2017")
LEAST_SIDE = 2 * MIN_SIDE
"""Boxes with a shorter side, in pixels, are left out."""
INDEX_VERSION = 2


def recognises(root: Path) -> bool:
    return any((root / folder / LABELS).is_file() for folder in LABEL_FOLDERS)


def read(root: Path, lists: Lists) -> Content:
    """Stills of the training split, their crowd and small boxes left out."""
    labels = next(root / folder / LABELS for folder in LABEL_FOLDERS if (root / folder / LABELS).is_file())
    folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise DatasetError(f"{root} has {labels.name} but no folder of images: {found_in(root)}; expected {LAYOUT}")
    index = cached_index(labels)
    stills, backgrounds = from_index(folder, index)
    if not len(stills):
        raise DatasetError(f"{labels} has no image with a box of at least {LEAST_SIDE:.0f} pixels a side")
    check_listed(labels, stills[0].path, LAYOUT)
    return Content("coco", stills=stills, backgrounds=backgrounds)


def check_listed(labels: Path, image: Path, layout: str) -> None:
    """Raise DatasetError when an image that `labels` lists is missing; of a million the first is looked for."""
    if not image.is_file():
        folder = image.parent
        raise DatasetError(f"{labels} lists {image}, which is missing: {folder}: {found_in(folder)}; expected {layout}")


Index = dict[str, NDArray[Any]]
"""names: (N,) file names, UTF-8 bytes; counts: (N,) boxes of each; boxes: (sum of counts, 4), x, y, w, h; empty: (N,)
images without any annotation; small: (), the number of boxes that were left out for their size."""


def build_index(labels: Path) -> Index:
    """Read a COCO file; crowds, and boxes less than `LEAST_SIDE` wide or high, are left out.

    Raises:
        DatasetError: the file is not COCO's.
    """
    try:
        # Outlines make up most of the file, and of the memory it takes: they are dropped as they are met.
        content = json.loads(labels.read_bytes(), object_pairs_hook=_without_outlines)
        files = {image["id"]: image["file_name"] for image in content["images"]}
        boxes: dict[int, list[list[float]]] = {image: [] for image in files}
        annotated, small = set(), 0
        for annotation in content["annotations"]:
            annotated.add(annotation["image_id"])
            if annotation.get("iscrowd"):
                continue
            if min(annotation["bbox"][2:]) >= LEAST_SIDE:
                boxes[annotation["image_id"]].append(annotation["bbox"])
            else:
                small += 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{labels} is not in COCO's format ({type(error).__name__}: {error}); expected images with id and "
            "file_name, annotations with image_id and bbox"
        ) from error
    return {
        "names": np.asarray([name.encode() for name in files.values()], np.bytes_),
        "counts": np.asarray([len(boxes[image]) for image in files], np.int64),
        "boxes": np.asarray([box for image in files for box in boxes[image]], np.float64).reshape(-1, 4),
        "empty": np.asarray([image not in annotated for image in files], bool),
        "small": np.asarray(small),
    }


def _without_outlines(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key != "segmentation"}


def cached_index(labels: Path) -> Index:
    """The index of a COCO file, kept in the user's cache folder: parsing all of COCO takes some ten seconds."""
    state = labels.stat()
    key = f"{labels.resolve()}|{state.st_size}|{state.st_mtime_ns}|{MIN_SIDE}|{INDEX_VERSION}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrack" / "indices"
    path = home / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in ("names", "counts", "boxes", "empty", "small")}
        except (OSError, ValueError, KeyError):
            logging.getLogger(__name__).warning("%s is damaged and is made anew", path)
    index = build_index(labels)
    try:
        home.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, **index)
        partial.replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("the index of %s is not kept: %s", labels, error)
    return index


def from_index(folder: Path, index: Index) -> tuple[Stills, list[Path]]:
    """Images of `folder` with boxes, and images on which nothing is marked, not even a crowd or what is too small."""
    labelled = index["counts"] > 0
    backgrounds = [folder / name.decode() for name in index["names"][index["empty"]]]
    return Stills(folder, index["names"][labelled], index["counts"][labelled], index["boxes"]), backgrounds
