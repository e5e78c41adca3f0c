"""Training examples for global search: a template, and the whole frame or a part of it on a canvas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetrack.imaging import crop_square, enclosing_square, place
from train.data.images import Image
from train.data.labels import Box
from train.data.pairs import PairDataset, rescale
from train.data.sources import Rng, View
from train.models.vtt import VTTConfig

TRIES = 6
"""Parts of a frame drawn in search of one without the target, before it is covered instead."""
SMALLEST = 0.5
"""Least share of the canvas's sides that a shrunk picture fills."""


class Window(NamedTuple):
    """A part of a frame, in whole pixels."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, image: Image) -> Image:
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def to_units(self, box: Box) -> Box:
        """(x, y, w, h) in pixels of the frame -> cx, cy, w, h in units of the window, of what is inside it: no width or
        no height where nothing is."""
        origin, size = np.asarray([self.x, self.y]), np.asarray([self.width, self.height])
        low, high = np.maximum(box[:2] - origin, 0), np.minimum(box[:2] + box[2:] - origin, size)
        high = np.maximum(low, high)
        return np.concatenate([(low + high) / 2 / size, (high - low) / size])


class FrameDataset(PairDataset):
    """As `PairDataset`, with search images that need no guess of where the target is.

    The search image is the frame or a part of it that shows the target, scaled to fit the canvas or smaller. `box` and
    `extent` are in units of the canvas.
    """

    _config: VTTConfig

    def _template(self, rng: Rng, view: View) -> Image:
        config = self._config
        square = rescale(enclosing_square(view.box), float(np.exp(rng.normal(0, self._pairs.template_jitter))))
        return crop_square(view.image, square, config.template_factor, config.template_size).image

    def _search(self, rng: Rng, view: View) -> tuple[Image, Box]:
        window = self._window(rng, view) if rng.random() < self._pairs.window else whole(view.image)
        image, box = self._scaled(rng, window.cut(view.image)), window.to_units(view.box)
        if rng.random() < self._pairs.paint:
            self._paint(rng, image, box)
        if rng.random() < self._pairs.distract:
            self._distract(rng, image, box)
        if rng.random() < self._pairs.occlude:
            self._occlude(rng, image, box)
        return image, box

    def _absent(self, rng: Rng, view: View) -> Image:
        """A part of the scene without the target, the scene with the target painted over, or another scene."""
        kind = rng.integers(3)
        if kind == 0:
            for _ in range(TRIES):
                window = self._any_window(rng, view.image)
                _, _, w, h = window.to_units(view.box)
                if w <= 0 or h <= 0:
                    return self._scaled(rng, window.cut(view.image))
        other = self._views(rng)[-1]
        if kind == 2:
            window = self._window(rng, other) if rng.random() < self._pairs.window else whole(other.image)
            return self._scaled(rng, window.cut(other.image))
        window = whole(view.image)
        image = self._scaled(rng, window.cut(view.image))
        self._hide(rng, image, window.to_units(view.box), other.image)
        return image

    def _window(self, rng: Rng, view: View) -> Window:
        """A part of the frame with the target in it, up to a third of it cut off on either side."""
        height, width = view.image.shape[:2]
        drawn = self._any_window(rng, view.image)
        places = []
        for start, side, limit, length in zip(view.box[:2], view.box[2:], (width, height), drawn[2:], strict=True):
            length = min(limit, max(length, int(1.2 * side) + 2))
            low, high = sorted((start + side - length, start))
            spare = rng.uniform(0, side / 3) if rng.random() < 0.2 else 0.0
            at = int(np.clip(rng.uniform(low - spare, high + spare), 0, limit - length))
            places.append((at, length))
        (x, w), (y, h) = places
        return Window(x, y, w, h)

    def _any_window(self, rng: Rng, image: Image) -> Window:
        height, width = image.shape[:2]
        share, stretch = rng.uniform(self._pairs.least, 1), float(np.exp(rng.normal(0, 0.15)))
        w = int(np.clip(width * share * stretch, min(16, width), width))
        h = int(np.clip(height * share / stretch, min(16, height), height))
        return Window(int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h)

    def _scaled(self, rng: Rng, image: Image) -> Image:
        """The picture at the size that it will have on the canvas: as large as fits, or shrunk."""
        width, height = self._config.search_width, self._config.search_height
        scale = min(width / image.shape[1], height / image.shape[0])
        if rng.random() < self._pairs.shrink:
            scale *= rng.uniform(SMALLEST, 1)
        size = max(8, round(image.shape[1] * scale)), max(8, round(image.shape[0] * scale))
        return place(image, size, *size).image

    def _framed(self, image: Image) -> tuple[Image, NDArray[np.float64]]:
        canvas = place(image, image.shape[1::-1], self._config.search_width, self._config.search_height)
        return canvas.image, canvas.extent


def whole(image: Image) -> Window:
    """All of a frame."""
    return Window(0, 0, image.shape[1], image.shape[0])
