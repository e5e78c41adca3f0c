"""Labels: tracks through videos and boxes in stills, in collections that are read as they are asked for."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetrack.errors import SourceError
from edgetrack.sources import read_image

Box = NDArray[np.float64]

MIN_SIDE = 8.0
"""Boxes with a shorter side, in pixels, show too little to learn from and are passed over."""
TRACKS_KEPT = 2048
"""Tracks of one dataset whose labels stay in memory; the longest datasets' take some 100 kB each."""
EVALUATION_SPLIT = re.compile(r"(dev|val|valid|validation|test|testing)(-dev)?(\d{4})?", re.IGNORECASE)

T = TypeVar("T")


class DatasetError(Exception):
    """A dataset that is missing, malformed, or not to be trained on."""

    def __str__(self) -> str:
        """What was said, without the traceback that torch puts before it on the way out of a loading process."""
        return super().__str__().rpartition(f"{type(self).__name__}: ")[-1].rstrip()


def refuse_evaluation_split(root: Path) -> None:
    """Raise DatasetError when `root` is called as splits are that are kept for measuring.

    What lies above says nothing: people keep their work in a folder ``dev`` or ``test``. The readers of known datasets
    look at what a folder holds besides.
    """
    name = root.resolve().name
    if EVALUATION_SPLIT.fullmatch(name):
        raise DatasetError(
            f"{root}: the folder's name, {name!r}, says that it is a split that is kept for measuring: never train on "
            "it; if it is not, rename the folder"
        )


def found_in(root: Path) -> str:
    """What `root` holds, in a few words, for a message that says what was expected."""
    if not root.exists():
        return "it does not exist"
    if not root.is_dir():
        return "it is a file"
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it holds {', '.join(names[:5])}{more}" if names else "it is empty"


def read_table(path: Path, columns: int | None = None) -> NDArray[np.float64]:
    """The numbers in a text file, (N, columns); separated by commas, tabs, semicolons or blanks.

    A line without any is a row of NaN, so that the rows after it stay with their frames; at the end of the file it is
    nothing.

    Raises:
        DatasetError: the file is missing, empty, or not what is expected; the message names the line.
    """
    expected = f"expected {columns or 'as many'} numbers on each line, separated by commas, tabs, semicolons or blanks"
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; {expected}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: {error}; {expected}") from error
    rows: list[list[float]] = []
    for line in text.replace(",", " ").replace(";", " ").rstrip().splitlines():
        try:
            rows.append([float(word) for word in line.split()])
        except ValueError as error:
            raise DatasetError(f"{path}: line {len(rows) + 1}: {error}; {expected}") from error
    if not rows:
        raise DatasetError(f"{path} holds no numbers; {expected}")
    width = columns or max(map(len, rows))
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) not in (0, width)]:
        raise DatasetError(f"{path}: line {wrong[0]} has {len(rows[wrong[0] - 1])} numbers; {expected}")
    return np.asarray([row or [np.nan] * width for row in rows])


def read_flags(path: Path) -> NDArray[np.float64]:
    """One number a frame, (N,), on lines or all on one; otherwise as `read_table`."""
    return read_table(path).ravel()


def outside(boxes: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) share nothing with the picture of `size` (width, height), where tools go on with them when the
    target has left."""
    return (boxes[:, :2] >= size).any(1) | (boxes[:, :2] + boxes[:, 2:] <= 0).any(1)


def shown(boxes: Box, size: tuple[int, int], absence: ArrayLike = 0, cover: ArrayLike = 8) -> NDArray[np.bool_]:
    """Which frames (N,) of a folder in GOT-10k's layout show the target, wherever it is read: those with a box (N, 4)
    that is finite, has an area and lies in the picture of `size` (width, height), at least in part, unless a flag says
    otherwise.

    Args:
        absence: (N,), not 0 where the target is absent.
        cover: (N,), how many eighths of the target are in sight; 0 where nothing is.
    """
    flagged = (np.asarray(absence) != 0) | (np.asarray(cover) <= 0)
    return np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & ~outside(boxes, size) & ~flagged


def read_names(path: Path) -> list[str]:
    """A list of names, one a line; they may hold spaces.

    Raises:
        DatasetError: the file is missing, or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors begin a file with a mark
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected a list of names, one a line") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: {error}; expected a list of names in UTF-8, one a line") from error
    return [line.strip() for line in lines if line.strip()]


def read_picture(path: Path, flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    """As `edgetrack.sources.read_image`.

    Raises:
        DatasetError: the file is missing, is not an image, or was cut off.
    """
    try:
        return read_image(path, flags)
    except SourceError as error:
        raise DatasetError(str(error)) from error


class Numbered(Sequence[Path]):
    """Paths of a video's frames, such as ``img/00000001.jpg``, made from their numbers when asked for.

    A video has thousands, a dataset millions: neither the paths nor a folder's listing are kept.
    """

    def __init__(self, folder: Path, pattern: str, numbers: NDArray[np.int64]) -> None:
        self._folder, self._pattern, self._numbers = folder, pattern, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Numbered: ...
    def __getitem__(self, index: int | slice) -> Path | Numbered:
        if isinstance(index, slice):
            return Numbered(self._folder, self._pattern, self._numbers[index])
        return self._folder / self._pattern.format(self._numbers[index])


@dataclass(frozen=True)
class Track:
    """One target's way through a video, as far as it can be seen.

    Attributes:
        name: its folder's name.
        group: tracks of one video share it; splits go by it.
        frames: (N,) image paths, in time order, of the frames where the target is visible.
        boxes: (N, 4), (x, y, w, h) in pixels of those frames.
        times: (N,) numbers of those frames in the video, from 0.
        length: frames of the video, with those where the target is hidden, out of view or absent.
    """

    name: str
    group: str
    frames: Sequence[Path]
    boxes: NDArray[np.float64]
    times: NDArray[np.int64]
    length: int

    @classmethod
    def visible_part(
        cls,
        name: str,
        group: str,
        frames: Callable[[NDArray[np.int64]], Sequence[Path]],
        boxes: Box,
        visible: ArrayLike,
    ) -> Track:
        """The track of the frames that are `visible` (N,) and whose box is finite and not tiny.

        Args:
            frames: from the numbers of frames, counted from 0, to their paths.
            boxes: (N, 4) of all frames.
        """
        keep = np.isfinite(boxes).all(1) & np.asarray(visible, bool)
        keep[keep] &= boxes[keep, 2:].min(1) >= MIN_SIDE
        times = np.flatnonzero(keep)
        return cls(name, group, frames(times), boxes[keep], times, len(boxes))


def check_lengths(folder: Path, boxes: int, frames: tuple[Path, Path], **labels: int) -> None:
    """Raise DatasetError unless every label file of a sequence has as many entries as there are boxes and frames.

    Args:
        frames: the path of the last frame that there should be, and of the one after it, which there should not be.
            Looking for two files is all that a folder of thousands on a network drive is asked.
    """
    for name, count in labels.items():
        if count != boxes:
            raise DatasetError(f"{folder}: {boxes} boxes but {count} entries of {name}; expected one of each per frame")
    last, next_ = frames
    if not boxes or not last.is_file():
        raise DatasetError(f"{folder}: {boxes} boxes but no frame {last}; expected one box per frame")
    if next_.is_file():
        raise DatasetError(f"{folder}: {boxes} boxes but there is a frame {next_}; expected one box per frame")


class Tracks(Sequence[Track]):
    """A dataset's tracks, each read when it is first asked for, the last `TRACKS_KEPT` remembered.

    Args:
        names: of the tracks, as `read` takes them.
        groups: of the tracks: what splits go by, known without reading.
        read: from a name to the track; raises DatasetError for a broken one.
    """

    def __init__(self, names: list[str], groups: list[str], read: Callable[[str], Track]) -> None:
        self.names, self.groups, self._read = names, groups, read
        self._kept: OrderedDict[int, Track] = OrderedDict()

    @classmethod
    def of(cls, tracks: list[Track]) -> Tracks:
        """Tracks that have been read already."""
        read = {track.name: track for track in tracks}
        return cls([track.name for track in tracks], [track.group for track in tracks], read.__getitem__)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> list[Track]: ...
    def __getitem__(self, index: int | slice) -> Track | list[Track]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        track = self._kept[index] = self._read(self.names[index])
        if len(self._kept) > TRACKS_KEPT:
            self._kept.popitem(last=False)
        return track


@dataclass(frozen=True)
class Still:
    """An image and its boxes (N, 4)."""

    path: Path
    boxes: NDArray[np.float64]


class Stills(Sequence[Still]):
    """Stills of one folder in a few arrays: lists of a million boxes would be copied into every loading process.

    Args:
        folder: of the images.
        names: (N,) bytes, file names below `folder`, UTF-8.
        counts: (N,) boxes of each.
        boxes: (sum of counts, 4).
    """

    def __init__(
        self, folder: Path, names: NDArray[np.bytes_], counts: NDArray[np.int64], boxes: NDArray[np.float64]
    ) -> None:
        self._folder, self._names, self._boxes = folder, names, boxes
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Still: ...
    @overload
    def __getitem__(self, index: slice) -> list[Still]: ...
    def __getitem__(self, index: int | slice) -> Still | list[Still]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        path = self._folder / self._names[index].decode()
        return Still(path, self._boxes[self._starts[index] : self._starts[index + 1]].astype(np.float64))


class Pick(Sequence[T]):
    """Some entries of several collections, in the order of `indices` into all of them together; none is read yet."""

    def __init__(self, parts: Sequence[Sequence[T]], indices: NDArray[np.int64] | None = None) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self._indices = np.arange(self._ends[-1] if len(parts) else 0) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Pick[T]: ...
    def __getitem__(self, index: int | slice) -> T | Pick[T]:
        if isinstance(index, slice):
            return Pick(self._parts, self._indices[index])
        number = self._indices[index]
        part = int(np.searchsorted(self._ends, number, side="right"))
        return self._parts[part][int(number - (self._ends[part - 1] if part else 0))]
