"""Targets that vanish and come back: sequences made of real ones, with exact truth.

The film of a sequence runs for `Lengths.before` frames; then the target is painted over with texture from beside it
while the film goes on, and at last it is back. Near, it is back at its place. Far, the whole picture has been shifted,
as if the camera looked elsewhere after a cut, so that the target with what surrounds it lies outside of where a local
tracker looks; what the shift uncovers mirrors the picture without its target. A film that is too short runs back and
forth.

This is the re-detection experiment of Lukezic et al. (2018), "Now you see me", on real backgrounds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import Frame, digest
from benchmarks.datasets import Dataset, Sequence
from benchmarks.metrics import Floats
from benchmarks.results import ResultsError
from edgetrack.imaging import import_cv2
from edgetrack.sources import read_image

SHORTEST = 12
"""Frames with the target in sight, from the first on, that a sequence is made of at least."""
REGION = 5.0
"""Side of the largest region that a local tracker here searches, in units of the target's geometric mean side: that of
seqtrack-nano."""


class Lengths(NamedTuple):
    """Frames with the target, without it, and with it back."""

    before: int = 30
    gone: int = 60
    after: int = 30


LENGTHS = Lengths()


@dataclass(frozen=True, kw_only=True)
class Returning(Sequence):
    """A sequence whose target vanishes and returns; `frames` are the images that its pictures are made of.

    Attributes:
        origin: (N, 4), where the target is in those images.
        shift: pixels right and down by which the picture is shifted once the target is back.
    """

    origin: Floats
    shift: tuple[int, int]

    def read(self, index: int) -> Frame:
        """Make one picture."""
        frame = read_image(self.frames[index])
        if self.absent[index]:
            return erase(frame, self.origin[index])
        return shifted(frame, self.origin[index], self.shift) if index > self.absent.argmax() else frame

    @property
    def shown(self) -> str:
        return digest([super().shown, self.origin.tolist(), self.absent.tolist(), self.shift])


def returning(
    dataset: Dataset, far: bool, seed: int = 0, draws: int = 1, lengths: Lengths = LENGTHS
) -> tuple[Dataset, tuple[str, ...]]:
    """Make `draws` sequences of each one of a dataset that allows it; their names end in the draw.

    far: whether the target comes back outside of the `REGION` around both where it was seen last and where it would
        be by then. The place is drawn evenly from all such, by `seed`, the sequence's name and the draw; without `far`
        all draws are the same, and one is made.

    Returns:
        The sequences, and the names of those left out: the target is not in sight long enough, or so large that its
        frame has no place outside of the region around it. The same are left out near and far.
    """
    made, left_out = [], []
    for sequence in dataset.sequences:
        shot = film(sequence, lengths)
        places = np.empty((0, 2), np.int64) if shot is None else _far_shifts(shot, lengths)
        if shot is None or not len(places):
            left_out.append(sequence.name)
            continue
        for draw in range(draws if far else 1):
            generator = np.random.default_rng([seed, zlib.crc32(sequence.name.encode()), draw])
            dx, dy = places[generator.integers(len(places))].tolist() if far else (0, 0)
            made.append(_returning(shot, f"{sequence.name}-{draw}", (dx, dy), lengths))
    if not made:
        raise ResultsError(
            f"{dataset.name}: of its {len(left_out)} sequences none can be made into one whose target vanishes and "
            f"returns; expected at least {SHORTEST} frames with the target in sight and room for it elsewhere"
        )
    kind = f"far-{seed}" if far else "near"
    name = f"{dataset.name}-returns-{kind}-{'-'.join(map(str, lengths))}"
    return Dataset(name, "oxuva", tuple(made)), tuple(left_out)


def film(sequence: Sequence, lengths: Lengths) -> Sequence | None:
    """The frames before the target is first out of sight, back and forth until there are enough."""
    with np.errstate(invalid="ignore"):
        seen = ~sequence.absent & np.isfinite(sequence.truth).all(axis=1) & (sequence.truth[:, 2:] > 0).all(axis=1)
    count = len(seen) if seen.all() else int(seen.argmin())
    if count < SHORTEST:
        return None
    step = np.arange(sum(lengths)) % (2 * count - 2)
    order = np.where(step < count, step, 2 * count - 2 - step)
    frames = tuple(sequence.frames[i] for i in order)
    return Sequence(sequence.name, frames, sequence.truth[order], np.zeros(len(order), bool), sequence.attributes)


def _far_shifts(film: Sequence, lengths: Lengths) -> NDArray[np.int64]:
    """All shifts (M, 2) in whole pixels that keep the target in the frame and bring it back far away."""
    size = np.asarray(read_image(film.frames[0]).shape[1::-1])
    back = lengths.before + lengths.gone
    boxes = film.truth[back:]
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    x, y = (np.arange(a, b + 1) for a, b in zip(np.ceil(-low), np.floor(size - high), strict=True))
    shifts = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    here = film.truth[back]
    far = np.ones(len(shifts), bool)
    for box in (film.truth[lengths.before - 1], here):
        between = (here[:2] + here[2:] / 2) - (box[:2] + box[2:] / 2)
        apart = REGION / 2 * np.sqrt(box[2:].prod()) + here[2:] / 2
        far &= (np.abs(between + shifts) >= apart).any(axis=1)
    return shifts[far].astype(np.int64)


def _returning(film: Sequence, name: str, shift: tuple[int, int], lengths: Lengths) -> Returning:
    index = np.arange(len(film.frames))
    back = lengths.before + lengths.gone
    absent = (index >= lengths.before) & (index < back)
    truth = film.truth + np.where(index >= back, 1, 0)[:, None] * np.asarray([*shift, 0, 0])
    truth[absent] = np.nan
    return Returning(name, film.frames, truth, absent, film.attributes, origin=film.truth, shift=shift)


def shifted(frame: Frame, box: Floats, shift: tuple[int, int]) -> Frame:
    """The picture moved right and down by `shift` pixels; what that uncovers mirrors it without the target at `box`."""
    cv2 = import_cv2()
    height, width = frame.shape[:2]
    dx, dy = shift
    move = np.asarray([[1, 0, dx], [0, 1, dy]], np.float64)
    out: Frame = cv2.warpAffine(
        erase(frame, box), move, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
    )
    out[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = frame[
        max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)
    ]
    return out


_MARGIN = 0.15
"""Around the box, in which what is painted fades out: boxes are seldom tight."""
_CORRECTION_SIDE = 32


def erase(frame: Frame, box: Floats) -> Frame:
    """A copy of the frame with the target at `box` painted over.

    The paint is the patch beside the target that fits its surroundings best, with the smooth difference of the two
    surroundings added, as Poisson blending does; where no patch fits into the frame, the surroundings carried on.
    """
    height, width = frame.shape[:2]
    out = frame.copy()
    left, top, right, bottom = region = _rounded(box, 2 * _MARGIN)
    # What lies outside of the frame is cut off from region and paint alike.
    x, y = slice(max(0, left), min(width, right)), slice(max(0, top), min(height, bottom))
    if x.start >= x.stop or y.start >= y.stop:
        return out
    there = frame[y, x].astype(np.float32)
    columns, rows = np.arange(x.start, x.stop), np.arange(y.start, y.stop)
    alpha = np.minimum(*np.meshgrid(_ramp(columns, box[0], box[2]), _ramp(rows, box[1], box[3])))[..., None]
    known = (alpha == 0).astype(np.float32)
    if not known.any():
        return out
    around = _smooth(there, known)
    patches = _patches(frame, region, (x, y))
    if patches:
        # Besides fitting at its rim, a patch must be like the surroundings within: no object of its own. The light may
        # differ.
        wanted = np.where(known > 0, there, around)
        costs = [(wanted - patch).std(axis=(0, 1)).mean() for patch in patches]
        patch = patches[int(np.argmin(costs))]
        paint = patch + _smooth(there - patch, known)
    else:
        paint = around
    out[y, x] = np.clip(there + alpha * (paint - there), 0, 255).round().astype(np.uint8)
    return out


def _rounded(box: Floats, margin: float) -> tuple[int, int, int, int]:
    x, y, w, h = box
    low = np.floor([x - margin * w - 2, y - margin * h - 2]).astype(int)
    high = np.ceil([x + w + margin * w + 2, y + h + margin * h + 2]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _ramp(pixels: NDArray[np.int64], low: float, length: float) -> Floats:
    """1 in the box, falling to 0 over the margin."""
    outside = np.maximum(low - (pixels + 0.5), (pixels + 0.5) - (low + length)).clip(0)
    return (1 - outside / max(1.0, _MARGIN * length)).clip(0, 1)


def _patches(frame: Frame, region: tuple[int, int, int, int], place: tuple[slice, slice]) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Patches as large as the place, wholly in the frame and beside the region."""
    height, width = frame.shape[:2]
    x, y = place
    steps = np.asarray([region[2] - region[0], region[3] - region[1]])
    found = []
    for direction in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        for distance in (1.0, 1.5, 2.0, 3.0):
            dx, dy = np.round(distance * steps * direction).astype(int).tolist()
            if x.start + dx >= 0 and x.stop + dx <= width and y.start + dy >= 0 and y.stop + dy <= height:
                found.append(frame[y.start + dy : y.stop + dy, x.start + dx : x.stop + dx].astype(np.float32))
    return found


def _smooth(values: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """`values` (H, W, 3) carried on smoothly from where they are `known` (H, W, 1) to where they are not."""
    cv2 = import_cv2()
    size = (_CORRECTION_SIDE, _CORRECTION_SIDE)
    total, weight = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (values * known, known))
    total, weight = (cv2.GaussianBlur(each, (0, 0), _CORRECTION_SIDE / 6) for each in (total, weight))
    carried = total / np.maximum(weight, 1e-6)[..., None]
    return cv2.resize(carried, values.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def write(dataset: Dataset, out: Path, advance: Callable[[str], object] = lambda name: None) -> None:
    """Write sequences in GOT-10k's layout, for other tools and to be looked at; JPEG at quality 95.

    Raises:
        ResultsError: `out` is there already.
    """
    cv2 = import_cv2()
    if out.exists():
        raise ResultsError(f"{out} exists; choose another --out")
    for sequence in dataset.sequences:
        folder = out / sequence.name
        folder.mkdir(parents=True)
        for index in range(len(sequence.frames)):
            cv2.imwrite(str(folder / f"{index + 1:08d}.jpg"), sequence.read(index), [cv2.IMWRITE_JPEG_QUALITY, 95])
        np.savetxt(folder / "groundtruth.txt", sequence.truth, fmt="%.3f", delimiter=",")
        np.savetxt(folder / "absence.label", sequence.absent, fmt="%d")
        (folder / "meta.json").write_text(json.dumps({"attributes": " ".join(sequence.attributes)}) + "\n")
        advance(sequence.name)
    (out / "list.txt").write_text("".join(f"{sequence.name}\n" for sequence in dataset.sequences))
