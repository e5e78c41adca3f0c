"""Sources of views: an image with a target box, several of the same target at a time.

A source answers `views(rng, templates)` with the target seen `templates + 1` times: the template views first, the
search view last. What differs between the views is the source's matter (time, in video; a random change, in stills);
cropping and augmentation are `train.data.pairs`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.images import Image, ImageCache, reduction
from train.data.labels import Box, DatasetError, Still, Track

Rng = np.random.Generator

EXTENSIONS = ("scenery", "reflect", "replicate", "none")
DRAWS = 200
"""Tracks drawn in search of one with enough visible frames, before a dataset is said to have none."""


@dataclass(frozen=True)
class View:
    """The target in one image.

    Attributes:
        image: BGR uint8 (H, W, 3).
        box: (x, y, w, h) in pixels of `image`.
        past: (F, 4), the boxes in the frames before, oldest first, where they are known and asked for.
        others: (K, 4), the boxes of other objects in the image, as far as they are known.
    """

    image: Image
    box: Box
    past: NDArray[np.float64] | None = None
    others: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))


class Source(Protocol):
    """See the module docstring."""

    def views(self, rng: Rng, templates: int) -> list[View]: ...


class VideoSource:
    """Views from one track at different times. Every track is as likely as any other, however long.

    Args:
        tracks: read as they are drawn.
        max_gap: frames of the video, seen or not, between the search view and a template.
        causal: SeqTrack's official order: the search view after the first template, further templates before it.
            Otherwise templates lie on either side of the search view.
        needed: pixels of the target's geometric mean side that crops can show; finer pictures are decoded coarser.
            None decodes all in full.
        past: how many earlier boxes the search view comes with.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        cache: ImageCache,
        max_gap: int = 400,
        *,
        causal: bool = False,
        needed: float | None = None,
        past: int = 0,
    ) -> None:
        self._tracks, self._cache, self._max_gap = tracks, cache, max_gap
        self._causal, self._needed, self._past = causal, needed, past

    def views(self, rng: Rng, templates: int) -> list[View]:
        for _ in range(DRAWS):
            track = self._tracks[int(rng.integers(len(self._tracks)))]
            if self._causal and len(track.frames) > 2 * (1 + templates) and track.length >= 20:
                return [self._view(track, i) for i in causal_frames(rng, track.times, self._max_gap, templates)]
            if not self._causal and len(track.frames) >= 2:
                return [self._view(track, i) for i in frames_around(rng, track.times, self._max_gap, templates)]
        raise DatasetError(f"{DRAWS} tracks in a row, {track.name} the last, show their target in too few frames")

    def _view(self, track: Track, index: int) -> View:
        box = track.boxes[index]
        reduce = 1 if self._needed is None else reduction(float(np.sqrt(box[2] * box[3])), self._needed)
        past = None
        if self._past:
            past = track.boxes[np.maximum(np.arange(index - self._past, index), 0)] / reduce
        return View(self._cache.read(track.frames[index], reduce), box / reduce, past)


def frames_around(rng: Rng, times: NDArray[np.int64], max_gap: int, templates: int) -> list[int]:
    """Indices into `times` (sorted): the templates', each within `max_gap` of the search frame's, which is last."""
    anchor = int(rng.integers(len(times)))
    low = np.searchsorted(times, times[anchor] - max_gap)
    high = np.searchsorted(times, times[anchor] + max_gap, side="right")
    return [*rng.integers(low, high, templates).tolist(), anchor]


def causal_frames(rng: Rng, times: NDArray[np.int64], max_gap: int, templates: int) -> list[int]:
    """The same as SeqTrack's official sampler draws them, in its "causal" mode.

    The first template anywhere, the others up to `max_gap` before it and the search frame less than `max_gap` after it;
    where there are none the gap grows by 5 and the first is drawn again.
    """
    widened = max_gap
    while True:
        base = int(rng.integers(len(times)))
        first = int(np.searchsorted(times, times[base] - widened))
        last = int(np.searchsorted(times, times[base] + widened))
        if base + 1 < last and (first < base or templates == 1):
            others = rng.integers(first, base, templates - 1).tolist() if templates > 1 else []
            return [base, *others, int(rng.integers(base + 1, last))]
        widened += 5


class StillSource:
    """Views from one picture: each is the picture under another scale and aspect, with more of a scene around it.

    In a still the object often fills the picture, and a crop of four times its side would be mostly the black that lies
    outside: an edge that gives the box away and that video seldom has. So the picture is extended, by its reflection or
    by another one.

    Args:
        side: the geometric mean side, in pixels, that a crop shows a target with; large objects are shrunk to two to
            three and a half times that.
    """

    def __init__(self, stills: Sequence[Still], cache: ImageCache, side: float = 32) -> None:
        self._stills, self._cache, self._side = stills, cache, side

    def views(self, rng: Rng, templates: int) -> list[View]:
        still = self._stills[int(rng.integers(len(self._stills)))]
        image = self._cache.read(still.path)
        # Smaller objects have more real surroundings: they are drawn more often.
        share = still.boxes[:, 2:].prod(1) / (image.shape[0] * image.shape[1])
        weight = 1 / (share + 0.05)
        chosen = rng.choice(len(still.boxes), p=weight / weight.sum())
        view = View(image, still.boxes[chosen], others=np.delete(still.boxes, chosen, axis=0))
        # Reflections are rare: they show the target's own mirror image, which is a fair distractor only now and then.
        extension = EXTENSIONS[rng.choice(4, p=(0.5, 0.15, 0.15, 0.2))]
        other = int(rng.integers(len(self._stills)))
        scenery = self._cache.read(self._stills[other].path) if extension == "scenery" else None
        return [self._extend(self._stretch(rng, view), extension, scenery) for _ in range(templates + 1)]

    def _stretch(self, rng: Rng, view: View) -> View:
        """Another aspect, by up to 20%; large objects shrunk. Scale itself is the crop's matter."""
        side = float(np.sqrt(view.box[2] * view.box[3]))
        scale = min(1.0, rng.uniform(2 * self._side, 3.5 * self._side) / side)
        aspect = float(np.exp(rng.uniform(-0.2, 0.2) / 2))
        image = cv2.resize(
            view.image,
            None,
            fx=scale * aspect,
            fy=scale / aspect,
            interpolation=int(rng.choice((cv2.INTER_LINEAR, cv2.INTER_AREA))),
        )
        fx, fy = image.shape[1] / view.image.shape[1], image.shape[0] / view.image.shape[0]
        return View(image, view.box * (fx, fy, fx, fy), others=view.others * (fx, fy, fx, fy))

    @staticmethod
    def _extend(view: View, extension: str, scenery: Image | None) -> View:
        """The view with a border of 2.5 object sides, filled as `extension` says."""
        if extension == "none":
            return view
        border = int(2.5 * np.sqrt(view.box[2] * view.box[3]))
        box, others = (np.add(boxes, (border, border, 0, 0)) for boxes in (view.box, view.others))
        if scenery is None:
            mode = cv2.BORDER_REFLECT_101 if extension == "reflect" else cv2.BORDER_REPLICATE
            return View(cv2.copyMakeBorder(view.image, *[border] * 4, mode), box, others=others)
        height, width = view.image.shape[:2]
        image = cv2.resize(scenery, (width + 2 * border, height + 2 * border), interpolation=cv2.INTER_LINEAR)
        image[border : border + height, border : border + width] = view.image
        return View(image, box, others=others)


class PlainStillSource:
    """Views from one picture, all the same, as SeqTrack's official code takes them; every box is as likely as any
    other, so pictures with many are drawn more often.

    Args:
        stills: all are looked at once, to count their boxes.
        needed: as `VideoSource`'s.
    """

    def __init__(self, stills: Sequence[Still], cache: ImageCache, *, needed: float | None = None) -> None:
        self._stills, self._cache, self._needed = stills, cache, needed
        self._ends = np.cumsum([len(still.boxes) for still in stills])

    def views(self, rng: Rng, templates: int) -> list[View]:
        number = int(rng.integers(self._ends[-1]))
        index = int(np.searchsorted(self._ends, number, side="right"))
        still = self._stills[index]
        box = still.boxes[number - self._ends[index]]
        reduce = 1 if self._needed is None else reduction(float(np.sqrt(box[2] * box[3])), self._needed)
        return [View(self._cache.read(still.path, reduce), box / reduce)] * (templates + 1)
