"""Targets that are small in a wide view, vanish, and come back in another part of it, with exact truth.

The film of a sequence, made to vanish as in `benchmarks.returns`, is one of `GRID` x `GRID` pictures that are shown
together, as large as it; the others are the first ones of other sequences and stand still. Where the target comes back
the whole film is in another place. So the target is `GRID` times as small in the frame as it was, with all of its
pixels, and there is much that is not it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.contenders import Frame, digest
from benchmarks.datasets import Dataset, Sequence
from benchmarks.metrics import Floats
from benchmarks.results import ResultsError
from benchmarks.returns import LENGTHS, SHORTEST, Lengths, erase, film
from edgetrack.imaging import import_cv2
from edgetrack.sources import read_image

GRID = 3


@dataclass(frozen=True, kw_only=True)
class Wide(Sequence):
    """A sequence whose target vanishes and returns; `frames` are the images that the film is made of.

    Attributes:
        origin: (N, 4), where the target is in those images.
        places: the film's before and while the target is gone, and once it is back, as column and row.
        others: the pictures of all places, row by row, where the film is not.
    """

    origin: Floats
    places: tuple[tuple[int, int], tuple[int, int]]
    others: tuple[Path, ...]

    def read(self, index: int) -> Frame:
        """Make one picture."""
        picture = read_image(self.frames[index])
        if self.absent[index]:
            picture = erase(picture, self.origin[index])
        height, width = picture.shape[:2]
        before, after = self.places
        is_back = index > self.absent.argmax() and not self.absent[index]
        column, row = after if is_back else before
        out = _side_by_side(self.others, width, height).copy()
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
        return out

    @property
    def shown(self) -> str:
        others = [[path.name, path.stat().st_size] for path in self.others]
        return digest([super().shown, self.origin.tolist(), self.absent.tolist(), self.places, others])


@lru_cache(maxsize=1)
def _side_by_side(pictures: tuple[Path, ...], width: int, height: int) -> Frame:
    """The pictures, each scaled to `width` x `height` pixels, row by row; black where there are none."""
    if not pictures:
        return np.zeros((GRID * height, GRID * width, 3), np.uint8)
    cv2 = import_cv2()
    scaled = [cv2.resize(read_image(path), (width, height), interpolation=cv2.INTER_AREA) for path in pictures]
    return np.concatenate([np.concatenate(scaled[i : i + GRID], axis=1) for i in range(0, len(scaled), GRID)])


def wide(
    dataset: Dataset, seed: int = 0, draws: int = 1, lengths: Lengths = LENGTHS
) -> tuple[Dataset, tuple[str, ...]]:
    """Make `draws` sequences of each one of a dataset that allows it; their names end in the draw.

    The places and the other pictures are drawn by `seed`, the sequence's name and the draw. A sequence that begins with
    the same picture, of which another target is followed, is no other; where there is no other all places are black.

    Returns:
        The sequences, and the names of those left out: the target is not in sight long enough.
    """
    made, left_out = [], []
    first = [read_image(sequence.frames[0]) for sequence in dataset.sequences]
    for sequence, own in zip(dataset.sequences, first, strict=True):
        shot = film(sequence, lengths)
        if shot is None:
            left_out.append(sequence.name)
            continue
        height, width = own.shape[:2]
        others = [
            each.frames[0]
            for each, image in zip(dataset.sequences, first, strict=True)
            if not np.array_equal(image, own)
        ]
        for draw in range(draws):
            generator = np.random.default_rng([seed, zlib.crc32(sequence.name.encode()), draw])
            before, after = (divmod(int(place), GRID)[::-1] for place in generator.choice(GRID**2, 2, replace=False))
            beside = tuple(others[i] for i in np.resize(generator.permutation(len(others)), GRID**2 * bool(others)))
            made.append(_wide(shot, f"{sequence.name}-{draw}", (before, after), beside, (width, height), lengths))
    if not made:
        raise ResultsError(
            f"{dataset.name}: in none of its {len(left_out)} sequences the target is in sight in the first {SHORTEST} "
            "frames, which is what one is made of at least"
        )
    name = f"{dataset.name}-returns-wide-{seed}-{'-'.join(map(str, lengths))}"
    return Dataset(name, "oxuva", tuple(made)), tuple(left_out)


def _wide(
    shot: Sequence,
    name: str,
    places: tuple[tuple[int, int], tuple[int, int]],
    others: tuple[Path, ...],
    size: tuple[int, int],
    lengths: Lengths,
) -> Wide:
    index = np.arange(len(shot.frames))
    back = lengths.before + lengths.gone
    absent = (index >= lengths.before) & (index < back)
    corners = np.asarray(places, np.float64)[(index >= back).astype(int)] * size
    truth = shot.truth + np.concatenate([corners, np.zeros_like(corners)], axis=1)
    truth[absent] = np.nan
    return Wide(name, shot.frames, truth, absent, shot.attributes, origin=shot.truth, places=places, others=others)
