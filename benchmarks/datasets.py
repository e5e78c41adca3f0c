"""The benchmarks' folders as sequences of image paths with their truth, each with the protocol it is scored by.

A dataset is named ``READER:FOLDER``; a folder alone is in GOT-10k's layout. Nothing is downloaded, and frames are only
listed here, but for the first where its size is needed. In the truth, NaN means no annotation; whether the target is
absent is kept apart from it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import digest
from benchmarks.metrics import Flags, Floats
from benchmarks.results import Result, ResultsError, Track, read_numbers
from edgetrack.sources import IMAGE_SUFFIXES, images_in, natural_key, read_image
from train.data.labels import DatasetError, read_names, shown

OTB_ATTRIBUTES = frozenset(["IV", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OPR", "OV", "BC", "LR"])
"""Illumination and scale variation, occlusion, deformation, motion blur, fast motion, in-plane and out-of-plane
rotation, out of view, background clutter, low resolution (Wu et al., OTB)."""


@dataclass(frozen=True)
class Sequence:
    """One target in one video.

    Attributes:
        frames: paths of the images, in time order.
        truth: (N, 4) boxes x, y, w, h in pixels; NaN where there is no annotation. The first is always there.
        absent: (N,), True where the target is known to be out of sight.
        attributes: what makes it hard, such as "OCC".
    """

    name: str
    frames: tuple[Path, ...]
    truth: Floats
    absent: Flags
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.truth.shape != (len(self.frames), 4) or self.absent.shape != (len(self.frames),):
            raise ResultsError(
                f"{self.name}: {len(self.frames)} frames with truth of shape {self.truth.shape} and absence of "
                f"{self.absent.shape}; expected one box and one flag a frame"
            )
        if not len(self.frames) or not np.isfinite(self.truth[0]).all() or self.absent[0]:
            raise ResultsError(f"{self.name}: its first frame has no box to begin with")

    def read(self, index: int) -> NDArray[np.uint8]:
        """One picture, BGR (H, W, 3)."""
        return read_image(self.frames[index])

    @property
    def shown(self) -> str:
        """A digest of all that a tracker sees of it: the first box and the frames, by their names and bytes on disk."""
        try:
            frames = [[path.name, path.stat().st_size] for path in self.frames]
        except OSError as error:
            raise ResultsError(f"{self.name}: its frame {error.filename} cannot be read: {error.strerror}") from None
        return digest([self.truth[0].tolist(), frames])

    def result(self, track: Track) -> Result:
        """What a tracker said of this sequence, beside the truth."""
        return Result(self.name, self.truth, self.absent, track.boxes, track.reported, self.attributes)


@dataclass(frozen=True)
class Reader:
    """How a benchmark's folder is read, and the protocol it is scored by unless another is asked for."""

    protocol: str
    read: Callable[[Path], Iterator[Sequence]] = field(repr=False)
    expects: str


@dataclass(frozen=True)
class Dataset:
    name: str
    protocol: str
    sequences: tuple[Sequence, ...]

    def describe(self) -> dict[str, Any]:
        """What a record says of it. The digest is of all that is scored by: names, boxes, and where there are none."""
        return {
            "name": self.name,
            "sequences": len(self.sequences),
            "frames": sum(len(sequence.frames) for sequence in self.sequences),
            "digest": digest([[sequence.name, _marked(sequence).tolist()] for sequence in self.sequences]),
        }


def _marked(sequence: Sequence) -> Floats:
    """The truth with -1 where the target is absent and -2 where nothing is known."""
    known = np.nan_to_num(sequence.truth, nan=-2.0).round(3)
    return np.where(sequence.absent[:, None], -1.0, known)


def read_dataset(name: str, only: tuple[str, ...] = ()) -> Dataset:
    """Read a dataset by ``READER:FOLDER`` or ``FOLDER``; `only` keeps the sequences of these names.

    Raises:
        ResultsError: an unknown reader, a folder that is not in its layout, or a sequence that is not there.
    """
    prefix, separator, rest = name.partition(":")
    reader, folder = (prefix, Path(rest)) if separator and prefix in READERS else ("folder", Path(name))
    if not folder.is_dir():
        raise ResultsError(f"no folder {folder}; expected FOLDER or READER:FOLDER, readers: {', '.join(READERS)}")
    chosen = READERS[reader]
    sequences = list(chosen.read(folder))
    if not sequences:
        raise ResultsError(f"{folder}: no sequences; {reader} expects {chosen.expects}")
    known = {sequence.name for sequence in sequences}
    if missing := [each for each in only if each not in known]:
        raise ResultsError(f"{folder}: no sequence {', '.join(missing)}; there are {', '.join(sorted(known))}")
    kept = tuple(sequence for sequence in sequences if not only or sequence.name in only)
    return Dataset(folder.resolve().name if reader == "folder" else reader, chosen.protocol, kept)


def images(folder: Path) -> tuple[Path, ...]:
    """The images of a folder, in natural order."""
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder of frames")
    found = images_in(folder)
    if not found:
        raise ResultsError(f"{folder}: no frames in it; expected images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return tuple(found)


def boxes_for(count: int, path: Path) -> Floats:
    """The truth of `count` frames in a file of one box a line; NaN after the first where that is alone, as in test
    sets."""
    boxes = read_numbers(path, 4)
    if len(boxes) not in (1, count):
        raise ResultsError(
            f"{path}: {len(boxes)} lines for {count} frames; expected a line for each frame, empty where there is no "
            "box, or one for the first alone"
        )
    return np.concatenate([boxes, np.full((count - len(boxes), 4), np.nan)])


def flags_for(count: int, path: Path) -> Floats:
    """The numbers in a file of one for each of `count` frames, on lines or all on one."""
    values = read_numbers(path).ravel()
    if len(values) != count:
        raise ResultsError(f"{path}: {len(values)} values for {count} frames; expected one for each")
    return values


def read_folder(root: Path) -> Iterator[Sequence]:
    """GOT-10k's layout: list.txt, NAME/00000001.jpg, NAME/groundtruth.txt; also absence.label, cover.label.

    A sequence's first frame is read for its size: a box outside the picture says that the target is absent.
    """
    listing = root / "list.txt"
    if not listing.is_file():
        raise ResultsError(f"{root}: no list.txt, which names the sequences, one a line")
    try:
        names = read_names(listing)
    except DatasetError as error:
        raise ResultsError(str(error)) from error
    for name in names:
        folder = root / name
        frames = images(folder)
        truth = boxes_for(len(frames), folder / "groundtruth.txt")
        labels = {name: folder / f"{name}.label" for name in ("absence", "cover")}
        flags = {name: flags_for(len(frames), path) for name, path in labels.items() if path.is_file()}
        # Of a test split, which tells the first box alone, it is not known that the target is absent in the others.
        told = truth if np.isfinite(truth[1:]).any() else np.repeat(truth[:1], len(truth), axis=0)
        height, width = read_image(frames[0]).shape[:2]
        absent = ~shown(told, (width, height), **flags)
        absent[:1] = False
        yield Sequence(name, frames, truth, absent, _attributes(folder))


def _attributes(folder: Path) -> tuple[str, ...]:
    path = folder / "meta.json"
    if not path.is_file():
        return ()
    words = re.findall(r"[A-Z]+", str(json.loads(path.read_text()).get("attributes", "")))
    return tuple(sorted(OTB_ATTRIBUTES.intersection(words)))


def read_lasot(root: Path) -> Iterator[Sequence]:
    """LaSOT and its extension: CLASS/NAME/img, groundtruth.txt, full_occlusion.txt and out_of_view.txt."""
    listed = root / "testing_set.txt"
    if listed.is_file():
        folders = [root / name.rpartition("-")[0] / name for name in listed.read_text().split()]
    else:
        folders = sorted((p.parent for p in root.glob("*/*/groundtruth.txt")), key=natural_key)
    for folder in folders:
        truth = read_numbers(folder / "groundtruth.txt", 4)
        absent = np.zeros(len(truth), bool)
        for flags in ("full_occlusion.txt", "out_of_view.txt"):
            absent |= flags_for(len(truth), folder / flags) > 0
        yield Sequence(folder.name, images(folder / "img")[: len(truth)], truth, absent)


def read_trackingnet(root: Path) -> Iterator[Sequence]:
    """TrackingNet: frames/NAME/0.jpg and anno/NAME.txt, which holds the first box alone in the test set."""
    base = root / "TEST" if (root / "TEST").is_dir() else root
    for path in sorted((base / "anno").glob("*.txt")):
        frames = images(base / "frames" / path.stem)
        yield Sequence(path.stem, frames, boxes_for(len(frames), path), np.zeros(len(frames), bool))


def read_tnl2k(root: Path) -> Iterator[Sequence]:
    """TNL2K: NAME/imgs and NAME/groundtruth.txt; an empty box where the target is out of sight."""
    for path in sorted(root.glob("*/groundtruth.txt")):
        truth = read_numbers(path, 4)
        yield Sequence(
            path.parent.name, images(path.parent / "imgs")[: len(truth)], truth, (truth[:, 2:] <= 0).all(axis=1)
        )


def read_nfs(root: Path) -> Iterator[Sequence]:
    """NFS at 30 fps: NAME/30/NAME/*.jpg and NAME/30/NAME.txt, ``id x1 y1 x2 y2 frame lost ...`` at 240 fps.

    A target that is lost has a box all the same, by which pytracking scores.
    """
    for path in sorted(root.glob("*/30/*.txt")):
        frames = images(path.parent / path.stem)
        words = [line.split() for line in path.read_text().rstrip().splitlines()]
        corners = np.asarray([[float(word) for word in line[1:5]] or [np.nan] * 4 for line in words])
        truth = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        if len(truth) > 2 * len(frames):
            truth = truth[::8]
        count = min(len(frames), len(truth))
        yield Sequence(path.stem, frames[:count], truth[:count], np.zeros(count, bool))


_UAV = re.compile(r"struct\('name',\s*'([^']+)',\s*'path',\s*'([^']+)',\s*'startFrame',\s*(\d+),\s*'endFrame',\s*(\d+)")


def read_uav123(root: Path) -> Iterator[Sequence]:
    """UAV123: anno/UAV123/NAME.txt, data_seq/UAV123/FOLDER, and configSeqs.m, which says which frames are whose."""
    config = root / "configSeqs.m"
    if not config.is_file():
        raise ResultsError(f"{root}: no configSeqs.m, which says which frames belong to a sequence")
    for name, path, start, end in _UAV.findall(config.read_text()):
        annotation = root / "anno" / "UAV123" / f"{name}.txt"
        if not annotation.is_file():  # configSeqs.m lists UAV20L too
            continue
        folder = root / "data_seq" / "UAV123" / re.split(r"[\\/]", path.rstrip("\\/"))[-1]
        truth = read_numbers(annotation, 4)
        frames = images(folder)[int(start) - 1 : int(end)]
        yield Sequence(name, frames, truth, np.isnan(truth).any(axis=1))


_OTB_RANGES = {
    "David": (299, 770),
    "Football1": (0, 74),
    "Freeman3": (0, 460),
    "Freeman4": (0, 283),
    "Diving": (0, 215),
}
"""Frames that OTB annotates, first and end, of the videos of which it does not annotate all."""


def read_otb(root: Path) -> Iterator[Sequence]:
    """OTB: NAME/img, NAME/groundtruth_rect.txt or, with several targets, groundtruth_rect.1.txt and so on."""
    for folder in sorted(p for p in root.iterdir() if (p / "img").is_dir()):
        targets = [path for path in sorted(folder.glob("groundtruth_rect*.txt")) if path.read_text().strip()]
        for number, path in enumerate(targets, 1):
            start, end = _OTB_RANGES.get(folder.name, (0, None))
            truth = read_numbers(path, 4)
            name = folder.name if len(targets) == 1 else f"{folder.name}.{number}"
            yield Sequence(name, images(folder / "img")[start:end], truth, np.zeros(len(truth), bool))


def read_tlp(root: Path) -> Iterator[Sequence]:
    """TLP: NAME/img and NAME/groundtruth_rect.txt, ``frame,x,y,w,h,lost``."""
    for path in sorted(root.glob("*/groundtruth_rect.txt")):
        rows = read_numbers(path, 6)
        yield Sequence(path.parent.name, images(path.parent / "img")[: len(rows)], rows[:, 1:5], rows[:, 5] > 0)


def read_oxuva(root: Path) -> Iterator[Sequence]:
    """OxUvA dev: tasks/dev.csv, annotations/dev.csv and images/dev/VIDEO/000000.jpeg; boxes relative to the image."""
    annotations: dict[tuple[str, str], list[list[str]]] = {}
    for row in _rows(root / "annotations" / "dev.csv"):
        annotations.setdefault((row[0], row[1]), []).append(row)
    for video, target, first, last, *_ in _rows(root / "tasks" / "dev.csv"):
        start, count = int(first), int(last) - int(first) + 1
        frames = tuple(root / "images" / "dev" / video / f"{start + i:06d}.jpeg" for i in range(count))
        height, width = read_image(frames[0]).shape[:2]
        truth, absent = np.full((count, 4), np.nan), np.zeros(count, bool)
        for row in annotations.get((video, target), ()):
            at = int(row[6]) - start
            if not 0 <= at < count:
                continue
            if row[7] == "absent":
                absent[at] = True
                continue
            x1, x2, y1, y2 = (float(value) for value in row[8:12])
            truth[at] = (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
        yield Sequence(f"{video}_{target}", frames, truth, absent)


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise ResultsError(f"{path}: no such file; oxuva expects {READERS['oxuva'].expects}")
    with path.open(newline="") as file:
        return list(csv.reader(file))


_LASOT = "CLASS/NAME/img, groundtruth.txt, full_occlusion.txt, out_of_view.txt; testing_set.txt to take these alone"
READERS: dict[str, Reader] = {
    "folder": Reader("ope", read_folder, "list.txt, NAME/groundtruth.txt and NAME/00000001.jpg"),
    "got10k": Reader("got10k", read_folder, "the folder of a split: list.txt, NAME/groundtruth.txt, NAME/00000001.jpg"),
    "lasot": Reader("lasot", read_lasot, _LASOT),
    "lasot-ext": Reader("lasot-ext", read_lasot, _LASOT),
    "trackingnet": Reader("trackingnet", read_trackingnet, "frames/NAME and anno/NAME.txt, or these under TEST"),
    "tnl2k": Reader("tnl2k", read_tnl2k, "NAME/imgs and NAME/groundtruth.txt"),
    "nfs": Reader("nfs", read_nfs, "NAME/30/NAME and NAME/30/NAME.txt"),
    "uav123": Reader("uav123", read_uav123, "anno/UAV123, data_seq/UAV123 and configSeqs.m"),
    "otb": Reader("otb", read_otb, "NAME/img and NAME/groundtruth_rect.txt"),
    "tlp": Reader("tlp", read_tlp, "NAME/img and NAME/groundtruth_rect.txt"),
    "oxuva": Reader("oxuva", read_oxuva, "tasks/dev.csv, annotations/dev.csv and images/dev/VIDEO"),
}
"""The datasets that can be read, by the name that goes before the folder."""
