"""Composed scenes: a cut-out target on a background, moved, turned and lit anew in every view, among others.

Without any files the cut-outs are textured shapes and the backgrounds noise, so that training can be tried, and tested,
on a machine that has no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.images import Image, ImageCache
from train.data.labels import Box
from train.data.sources import Rng, View

Sprite = NDArray[np.uint8]
"""BGRA (h, w, 4), cropped to what is not transparent."""
LONGER = 512
"""Pixels of a cut-out's longer side: nothing is pasted much above 400."""


def noise_texture(rng: Rng, height: int, width: int) -> Image:
    """Smooth colour noise of several octaves, BGR (height, width, 3)."""
    out = np.zeros((height, width, 3), np.float32)
    low, high = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
    roughness = rng.uniform(0.4, 0.9)
    octaves = [int(n) for n in 2 ** np.arange(1, 6) if n < min(height, width)]
    weights = np.asarray([roughness**i for i in range(len(octaves))])
    for n, weight in zip(octaves, weights / weights.sum(), strict=True):
        out += weight * cv2.resize(rng.random((n, n, 3), np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    contrast = np.clip((out - 0.5) * rng.uniform(1.5, 3.5) + 0.5, 0, 1)
    return (low + contrast * (high - low)).astype(np.uint8)


def shape_sprite(rng: Rng) -> Sprite:
    """A textured, shaded random polygon or ellipse, about 96 pixels across."""
    size = 96
    mask = np.zeros((size, size), np.uint8)
    aspect = rng.uniform(0.4, 1.0)
    if rng.random() < 0.4:
        cv2.ellipse(mask, (48, 48), (44, int(44 * aspect)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        corners = rng.integers(3, 9)
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(22, 46, corners)
        points = np.stack([48 + radius * np.cos(angle), 48 + aspect * radius * np.sin(angle)], 1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    texture = noise_texture(rng, size, size)
    for _ in range(rng.integers(0, 4)):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        a, b = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
        if rng.random() < 0.5:
            cv2.line(texture, a, b, colour, int(rng.integers(2, 10)), cv2.LINE_AA)
        else:
            cv2.circle(texture, a, int(rng.integers(4, 18)), colour, -1, cv2.LINE_AA)
    return trim(np.dstack([texture, mask]))


def trim(sprite: Sprite) -> Sprite:
    """Cut away the transparent margin."""
    rows, columns = np.flatnonzero(sprite[..., 3].max(1) > 127), np.flatnonzero(sprite[..., 3].max(0) > 127)
    if not len(rows) or not len(columns):
        return sprite
    return sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def transform(sprite: Sprite, width: float, degrees: float, aspect: float) -> Sprite:
    """The sprite `width` pixels wide before it is stretched by `aspect` and turned by `degrees`."""
    h, w = sprite.shape[:2]
    scale = width / w
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    corners = np.asarray([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]]) @ matrix.T * (scale * aspect, scale / aspect)
    low, high = corners.min(0), corners.max(0)
    size = np.maximum(np.ceil(high - low), 2).astype(int)
    matrix = np.diag([scale * aspect, scale / aspect]) @ matrix
    matrix[:, 2] -= low
    # A warp looks at four pixels, however many come to lie in one: what shrinks has to be averaged before.
    seen = _shrunk(_weighted(sprite), scale)
    matrix[:, :2] *= w / seen.shape[1], h / seen.shape[0]
    return _unweighted(trim(cv2.warpAffine(seen, matrix, (int(size[0]), int(size[1])), flags=cv2.INTER_LINEAR)))


def _weighted(sprite: Sprite) -> Sprite:
    """The sprite with its colours times their opacity, as pixels are averaged: the colours of transparent ones, which
    nobody sees, then add nothing."""
    return cv2.cvtColor(sprite, cv2.COLOR_RGBA2mRGBA)


def _unweighted(weighted: Sprite) -> Sprite:
    """The sprite of which `_weighted` gives this."""
    return cv2.cvtColor(weighted, cv2.COLOR_mRGBA2RGBA)


def _shrunk(weighted: Sprite, scale: float) -> Sprite:
    """The weighted sprite shrunk by area averaging; as it is where `scale` is not below 1."""
    while scale <= 0.5 and min(weighted.shape[:2]) > 1:  # by whole factors it is several times as fast
        weighted = cv2.resize(weighted, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        scale *= 2
    if scale >= 1:
        return weighted
    height, width = (max(1, round(side * scale)) for side in weighted.shape[:2])
    return cv2.resize(weighted, (width, height), interpolation=cv2.INTER_AREA)


def paste(image: Image, sprite: Sprite, x: int, y: int) -> None:
    """Blend `sprite` into `image`, in place, its top-left corner at (x, y); what lies outside is cut off."""
    h, w = sprite.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = part[..., 3:].astype(np.float32) * (1 / 255)
    region = image[y0:y1, x0:x1]
    region[:] = (region + alpha * (part[..., :3].astype(np.float32) - region)).astype(np.uint8)


def read_sprite(path: Path) -> Sprite | None:
    """A cut-out of 8 or 16 bits, shrunk to at most `LONGER` pixels; None where there is no picture with an alpha
    channel, or nothing in it is opaque."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        return None
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    if image[..., 3].max() <= 127:
        return None
    sprite = trim(image)
    scale = LONGER / max(sprite.shape[:2])
    # As a view it would hold on to all of the picture.
    return _unweighted(_shrunk(_weighted(sprite), scale)) if scale < 1 else sprite.copy()


class Sprites:
    """Cut-outs from files, and drawn ones.

    Args:
        paths: of the files.
        drawn: the share of drawn ones.
        cache: keeps what was read; by default one of its own.
    """

    def __init__(self, paths: Sequence[Path], drawn: float, cache: ImageCache | None = None) -> None:
        self._paths, self._drawn = paths, drawn if paths else 1.0
        self._cache = cache or ImageCache()

    def pick(self, rng: Rng) -> Sprite:
        if rng.random() < self._drawn:
            return shape_sprite(rng)
        path = self._paths[rng.integers(len(self._paths))]
        return self._cache.keep((path, "sprite"), lambda: _sprite(path))


def _sprite(path: Path) -> Sprite:
    """What `read_sprite` reads; a drawn one in place of None."""
    sprite = read_sprite(path)
    # Not from the example's own dice: it must not depend on which were drawn before it.
    return shape_sprite(np.random.default_rng(0)) if sprite is None else sprite


class SceneSource:
    """Views of one sprite on a background, with distractors from the same collection."""

    def __init__(self, sprites: Sprites, backgrounds: Sequence[Path], cache: ImageCache) -> None:
        self._sprites, self._backgrounds, self._cache = sprites, backgrounds, cache

    def _background(self, rng: Rng) -> Image:
        if self._backgrounds and rng.random() < 0.85:
            return self._cache.read(self._backgrounds[int(rng.integers(len(self._backgrounds)))])
        return noise_texture(rng, 220, 300)

    def views(self, rng: Rng, templates: int) -> list[View]:
        sprite = self._sprites.pick(rng)
        background = self._background(rng)
        width, degrees = rng.uniform(24, 110), rng.uniform(-20, 20)
        views = []
        for _ in range(templates + 1):
            if rng.random() < 0.3:
                background = self._background(rng)
            turned = transform(
                sprite,
                width * float(np.exp(rng.uniform(-0.25, 0.25))),
                degrees + rng.normal(0, 8),
                float(np.exp(rng.normal(0, 0.07))),
            )
            views.append(self._compose(rng, background, turned))
        return views

    def _compose(self, rng: Rng, background: Image, target: Sprite) -> View:
        image = background.copy()
        height, width = image.shape[:2]
        h, w = target.shape[:2]
        x = int(rng.uniform(-0.2 * w, width - 0.8 * w)) if width > w else (width - w) // 2
        y = int(rng.uniform(-0.2 * h, height - 0.8 * h)) if height > h else (height - h) // 2
        for _ in range(rng.integers(0, 4)):
            other = self._sprites.pick(rng)
            other = transform(
                other, rng.uniform(0.6, 1.4) * w, rng.uniform(-30, 30), float(np.exp(rng.normal(0, 0.15)))
            )
            paste(image, other, x + int(rng.uniform(-2.5, 2.5) * w), y + int(rng.uniform(-2.5, 2.5) * h))
        paste(image, target, x, y)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        box: Box = np.asarray([x0, y0, max(x1 - x0, 2), max(y1 - y0, 2)], np.float64)
        return View(image, box)
