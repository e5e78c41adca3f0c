"""Sources of views: an image with a target box, several of the same target at a time.

A source answers `views(rng, templates)` with the target seen `templates + 1` times: the template views first, the
search view last. What differs between the views is the source's matter (time, in video; a random change, in stills);
cropping and augmentation are `train.data.pairs`'.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Box = NDArray[np.float64]
Rng = np.random.Generator

MIN_SIDE = 8.0
"""Boxes with a shorter side, in pixels, show too little to learn from and are passed over."""
EXTENSIONS = ("scenery", "reflect", "replicate", "none")
EVALUATION_SPLITS = frozenset({"dev", "val", "test", "testing", "validation"})


class DatasetError(Exception):
    """A dataset folder that is missing, malformed, or not to be trained on."""


@dataclass(frozen=True)
class View:
    """The target in one image.

    Attributes:
        image: BGR uint8 (H, W, 3).
        box: (x, y, w, h) in pixels of `image`.
    """

    image: Image
    box: Box


class Source(Protocol):
    """See the module docstring."""

    def __len__(self) -> int: ...

    def views(self, rng: Rng, templates: int) -> list[View]: ...


class ImageCache:
    """Decoded images, the least recently used dropped when they exceed `budget` bytes."""

    def __init__(self, budget: int = 4 << 30) -> None:
        self._budget = budget
        self._bytes = 0
        self._images: OrderedDict[Path, Image] = OrderedDict()

    def read(self, path: Path) -> Image:
        """The image as BGR uint8 (H, W, 3)."""
        if path in self._images:
            self._images.move_to_end(path)
            return self._images[path]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise DatasetError(f"{path} is not a readable image")
        self._images[path] = image
        self._bytes += image.nbytes
        while self._bytes > self._budget and len(self._images) > 1:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image


def refuse_evaluation_split(root: Path) -> None:
    """Raise DatasetError when `root` is, or lies in, a split that is kept for measuring."""
    found = {part.lower() for part in root.resolve().parts[-2:]} & EVALUATION_SPLITS
    if found:
        raise DatasetError(f"{root} is the split {found.pop()!r}, which is kept for measuring: never train on it")


@dataclass(frozen=True)
class Sequence:
    """One target's track.

    Attributes:
        name: its folder's name.
        group: tracks of one video share it; splits go by it.
        frames: image paths, in time order, of the frames where the target is visible.
        boxes: (N, 4) in pixels of those frames.
    """

    name: str
    group: str
    frames: tuple[Path, ...]
    boxes: NDArray[np.float64]


def read_sequences(root: Path) -> list[Sequence]:
    """Read a folder in GOT-10k's layout: ``list.txt``, and per sequence numbered frames, ``groundtruth.txt`` and, where
    the target is absent, ``absence.label`` 1 or a box of ``nan``; ``meta.json`` may name a ``video_group``."""
    refuse_evaluation_split(root)
    listing = root / "list.txt"
    if not listing.is_file():
        raise DatasetError(
            f"{root} has no list.txt; expected a folder in GOT-10k's layout "
            "(list.txt, NAME/groundtruth.txt, NAME/00000001.jpg)"
        )
    sequences = []
    for name in listing.read_text().split():
        folder = root / name
        try:
            boxes = np.loadtxt(folder / "groundtruth.txt", delimiter=",", ndmin=2)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{folder / 'groundtruth.txt'}: expected a line x,y,w,h per frame ({error})") from error
        frames = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if boxes.shape != (len(frames), 4):
            raise DatasetError(f"{folder}: {len(frames)} frames but boxes of shape {boxes.shape}")
        present = np.isfinite(boxes).all(1)
        if (folder / "absence.label").is_file():
            present &= np.loadtxt(folder / "absence.label", ndmin=1) == 0
        present[present] &= boxes[present, 2:].min(1) >= MIN_SIDE
        meta = json.loads((folder / "meta.json").read_text()) if (folder / "meta.json").is_file() else {}
        if present.sum() >= 2:
            keep = np.flatnonzero(present)
            sequences.append(Sequence(name, meta.get("video_group", name), tuple(frames[i] for i in keep), boxes[keep]))
    if not sequences:
        raise DatasetError(f"{root}: no sequence with two visible frames")
    return sequences


class VideoSource:
    """Views from one track at different times. Every sequence is as likely as any other, however long."""

    def __init__(self, sequences: list[Sequence], cache: ImageCache, max_gap: int = 400) -> None:
        self._sequences, self._cache, self._max_gap = sequences, cache, max_gap

    def __len__(self) -> int:
        return sum(len(sequence.frames) for sequence in self._sequences)

    def views(self, rng: Rng, templates: int) -> list[View]:
        sequence = self._sequences[rng.integers(len(self._sequences))]
        anchor = rng.integers(len(sequence.frames))
        low, high = max(0, anchor - self._max_gap), min(len(sequence.frames), anchor + self._max_gap + 1)
        times = [*rng.integers(low, high, templates), anchor]
        return [View(self._cache.read(sequence.frames[t]), sequence.boxes[t]) for t in times]


@dataclass(frozen=True)
class Still:
    """An image and its boxes (N, 4)."""

    path: Path
    boxes: NDArray[np.float64]


def read_stills(root: Path) -> tuple[list[Still], list[Path]]:
    """Read a folder with ``instances.json`` (COCO) and ``images/``.

    Returns:
        Images with boxes, and images without, which serve as backgrounds.
    """
    refuse_evaluation_split(root)
    listing = root / "instances.json"
    if not listing.is_file():
        raise DatasetError(
            f"{root} has no instances.json; expected a folder in COCO's layout (instances.json, images/)"
        )
    content: dict[str, Any] = json.loads(listing.read_text())
    boxes: dict[int, list[list[float]]] = {}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= 2 * MIN_SIDE:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    stills, backgrounds = [], []
    for image in content["images"]:
        path = root / "images" / image["file_name"]
        if image["id"] in boxes:
            stills.append(Still(path, np.asarray(boxes[image["id"]], np.float64)))
        else:
            backgrounds.append(path)
    return stills, backgrounds


class StillSource:
    """Views from one picture: each is the picture under another scale and aspect, with more of a scene around it.

    In a still the object often fills the picture, and a crop of four times its side would be mostly the black that lies
    outside: an edge that gives the box away and that video seldom has. So the picture is extended, by its reflection or
    by another one.
    """

    def __init__(self, stills: list[Still], cache: ImageCache) -> None:
        self._stills, self._cache = stills, cache

    def __len__(self) -> int:
        return sum(len(still.boxes) for still in self._stills)

    def views(self, rng: Rng, templates: int) -> list[View]:
        still = self._stills[rng.integers(len(self._stills))]
        image = self._cache.read(still.path)
        # Smaller objects have more real surroundings: they are drawn more often.
        share = still.boxes[:, 2:].prod(1) / (image.shape[0] * image.shape[1])
        weight = 1 / (share + 0.05)
        box = still.boxes[rng.choice(len(still.boxes), p=weight / weight.sum())]
        # Reflections are rare: they show the target's own mirror image, which is a fair distractor only now and then.
        extension = EXTENSIONS[rng.choice(4, p=(0.5, 0.15, 0.15, 0.2))]
        scenery = self._cache.read(self._stills[rng.integers(len(self._stills))].path)
        return [self._extend(self._stretch(rng, View(image, box)), extension, scenery) for _ in range(templates + 1)]

    @staticmethod
    def _stretch(rng: Rng, view: View) -> View:
        """Another aspect, by up to 20%; large objects shrunk to 64 to 112 pixels. Scale itself is the crop's matter."""
        side = float(np.sqrt(view.box[2] * view.box[3]))
        scale = min(1.0, rng.uniform(64, 112) / side)
        aspect = float(np.exp(rng.uniform(-0.2, 0.2) / 2))
        image = cv2.resize(
            view.image,
            None,
            fx=scale * aspect,
            fy=scale / aspect,
            interpolation=int(rng.choice((cv2.INTER_LINEAR, cv2.INTER_AREA))),
        )
        fx, fy = image.shape[1] / view.image.shape[1], image.shape[0] / view.image.shape[0]
        return View(image, view.box * (fx, fy, fx, fy))

    @staticmethod
    def _extend(view: View, extension: str, scenery: Image) -> View:
        """The view with a border of 2.5 object sides, filled as `extension` says."""
        if extension == "none":
            return view
        border = int(2.5 * np.sqrt(view.box[2] * view.box[3]))
        box = np.add(view.box, (border, border, 0, 0))
        if extension != "scenery":
            mode = cv2.BORDER_REFLECT_101 if extension == "reflect" else cv2.BORDER_REPLICATE
            return View(cv2.copyMakeBorder(view.image, *[border] * 4, mode), box)
        height, width = view.image.shape[:2]
        image = cv2.resize(scenery, (width + 2 * border, height + 2 * border), interpolation=cv2.INTER_LINEAR)
        image[border : border + height, border : border + width] = view.image
        return View(image, box)
