"""Clips drawn by a seed: a textured target that moves, turns, deforms, hides and leaves, among others of its texture.

They need no files. A clip's plan is drawn once; any frame is then rendered by itself, from its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.images import Image, ImageCache
from train.data.labels import Box, DatasetError
from train.data.scenes import Sprite, Sprites, noise_texture, paste, transform
from train.data.sources import Rng, View

SEEN = 0.35
"""Share of the target's pixels that must be in the frame and uncovered for it to count as visible."""


@dataclass(frozen=True)
class Shot:
    """One frame of a clip, labelled.

    Attributes:
        image: BGR uint8 (H, W, 3).
        box: (x, y, w, h), the target's extent inside the frame, covered parts included; nan when it is not visible.
        seen: share of the target's pixels that are in the frame and uncovered.
    """

    image: Image
    box: Box
    seen: float

    @property
    def visible(self) -> bool:
        return self.seen >= SEEN


@dataclass(frozen=True)
class Motion:
    """A smooth random course of one quantity: `start + drift * t`, and waves over it.

    Attributes:
        waves: (K, 3): amplitude, radians a frame, phase.
    """

    start: float
    drift: float
    waves: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: Rng, start: float, drift: float, reach: float, period: float) -> Motion:
        """Three waves of up to `reach` and of about `period` frames, which begin at `start`."""
        amplitude = rng.uniform(-1, 1, 3) * reach / (1, 2, 4)
        waves = np.stack([amplitude, 2 * np.pi / (period * rng.uniform((0.7, 0.3, 0.15), (1.5, 0.6, 0.3))), [0] * 3], 1)
        return cls(start, drift, waves)

    def at(self, t: float) -> float:
        amplitude, speed, phase = self.waves.T
        return float(self.start + self.drift * t + (amplitude * np.sin(speed * t + phase)).sum())


@dataclass(frozen=True)
class Actor:
    """A sprite and its course: centre in pixels, width, rotation in degrees, aspect, and how much it bends."""

    sprite: Sprite
    x: Motion
    y: Motion
    width: Motion
    degrees: Motion
    aspect: Motion
    bend: Motion

    @classmethod
    def draw(cls, rng: Rng, sprite: Sprite, centre: tuple[float, float], width: float, liveliness: float) -> Actor:
        reach = 1.2 * width * liveliness
        speed = rng.normal(0, 0.02 * width * liveliness, 2)
        return cls(
            sprite,
            Motion.draw(rng, centre[0], speed[0], reach, 60),
            Motion.draw(rng, centre[1], speed[1], reach, 60),
            Motion.draw(rng, 0.0, float(rng.normal(0, 0.002)), 0.25, 80),
            Motion.draw(rng, float(rng.uniform(-20, 20)), float(rng.normal(0, 0.2)), 15, 70),
            Motion.draw(rng, 0.0, 0.0, 0.12, 40),
            Motion.draw(rng, 0.0, 0.0, 0.08, 30),
        )._scaled(width)

    def _scaled(self, width: float) -> Actor:
        motion = Motion(float(np.log(width)), self.width.drift, self.width.waves)
        return Actor(self.sprite, self.x, self.y, motion, self.degrees, self.aspect, self.bend)

    def pose(self, t: int) -> tuple[Sprite, int, int]:
        """The sprite as it looks at time t, and its top-left corner."""
        bent = _bend(self.sprite, self.bend.at(t))
        width = float(np.clip(np.exp(self.width.at(t)), 8, 400))
        sprite = transform(bent, width, self.degrees.at(t), float(np.exp(self.aspect.at(t))))
        h, w = sprite.shape[:2]
        return sprite, round(self.x.at(t) - w / 2), round(self.y.at(t) - h / 2)


def _bend(sprite: Sprite, amount: float) -> Sprite:
    """Rows moved sideways along a sine, by up to `amount` of the width."""
    h, w = sprite.shape[:2]
    margin = int(np.ceil(abs(amount) * w)) + 1
    rows = np.arange(h, dtype=np.float32)[:, None]
    columns = np.arange(w + 2 * margin, dtype=np.float32)[None] - margin
    shift = np.float32(amount * w) * np.sin(rows * np.float32(2 * np.pi / h))
    return cv2.remap(
        sprite,
        (columns - shift).astype(np.float32),
        np.broadcast_to(rows, (h, w + 2 * margin)).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )


class Clip:
    """A clip of `length` frames of `size` (width, height) pixels.

    The target may be hidden for a while by something that crosses, and may leave and come back; up to three others of
    its own texture and one of another move about it. The camera pans. Frames are a function of what the clip was drawn
    from and of their number.

    Args:
        rng: draws the plan; what is drawn from it afterwards does not change the clip.
        sprites: target, distractors and occluders.
        background: behind them; noise when None.
    """

    def __init__(
        self,
        rng: Rng,
        sprites: Sprites,
        *,
        length: int = 120,
        size: tuple[int, int] = (320, 240),
        background: Image | None = None,
    ) -> None:
        self.length, self.size = length, size
        width, height = size
        wide, high = int(1.5 * width), int(1.5 * height)
        if background is None:
            background = noise_texture(rng, high, wide)
        self._background = cv2.resize(background, (wide, high), interpolation=cv2.INTER_LINEAR)
        self._pan = tuple(Motion.draw(rng, extent / 4, 0.0, extent / 5, 90) for extent in (width, height))
        sprite = sprites.pick(rng)
        side = float(rng.uniform(0.1, 0.25) * width)
        centre = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
        self._target = Actor.draw(rng, sprite, centre, side, rng.uniform(0.3, 1.2))
        self._others = [
            Actor.draw(
                rng,
                sprite if look_alike else sprites.pick(rng),
                (rng.uniform(0, 1) * width, rng.uniform(0, 1) * height),
                side * rng.uniform(0.7, 1.3),
                1.0,
            )
            for look_alike in [True] * int(rng.integers(0, 4)) + [False]
        ]
        self._absence = self._interval(rng, 0.4)
        cover = transform(sprites.pick(rng), side * rng.uniform(1.2, 2.2), rng.uniform(-180, 180), 1.0)
        self._cover, self._covering = cover, self._interval(rng, 0.5)
        self._cover_side = 1 if rng.random() < 0.5 else -1
        self._noise = int(rng.integers(1 << 32))

    def _interval(self, rng: Rng, chance: float) -> tuple[float, float]:
        """Middle and half-length of an event that happens with this chance, not in the first fifth."""
        middle, half = rng.uniform(0.35, 1.0) * self.length, rng.uniform(0.04, 0.1) * self.length + 3
        return (float(middle), float(half)) if rng.random() < chance else (-1e9, 1.0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, t: int) -> Shot:
        t = range(self.length)[t]
        width, height = self.size
        x, y = (
            int(np.clip(motion.at(t), 0, extent // 2))
            for motion, extent in zip(self._pan, (width, height), strict=True)
        )
        image = self._background[y : y + height, x : x + width].copy()
        for other in self._others:
            paste(image, *other.pose(t))
        sprite, left, top = self._target.pose(t)
        left, top = self._kept_in(sprite, left, top)
        # Away, it drops out of the frame below and comes back the same way.
        middle, half = self._absence
        top += round(max(0.0, 1 - max(0.0, abs(t - middle) / half - 1)) * 1.5 * height)
        paste(image, sprite, left, top)
        shown = np.zeros((height, width), np.uint8)
        _stamp(shown, sprite, left, top, 255)
        box = _extent(shown)
        if abs(t - self._covering[0]) <= 2 * self._covering[1]:
            self._pass_by(t, image, shown, left + sprite.shape[1] / 2, top + sprite.shape[0] / 2)
        seen = np.count_nonzero(shown) / max(1, np.count_nonzero(sprite[..., 3] > 127))
        grain = np.random.default_rng((self._noise, t)).normal(0, 3, image.shape[:2]).astype(np.float32)
        image = np.clip(image + grain[..., None], 0, 255).astype(np.uint8)
        return Shot(image, box if seen >= SEEN else np.full(4, np.nan), seen)

    def _kept_in(self, sprite: Sprite, left: int, top: int) -> tuple[int, int]:
        """A course that would lose the target for good is reflected at the frame's border."""
        out = []
        for corner, side, extent in zip((left, top), sprite.shape[1::-1], self.size, strict=True):
            low, high = -side // 4, extent - 3 * side // 4
            span = max(1, high - low)
            folded = (corner - low) % (2 * span)
            out.append(low + min(folded, 2 * span - folded))
        return out[0], out[1]

    def _pass_by(self, t: int, image: Image, shown: NDArray[np.uint8], x: float, y: float) -> None:
        """Move the cover over the target, from one side to the other."""
        middle, half = self._covering
        h, w = self._cover.shape[:2]
        away = self._cover_side * (t - middle) / half * w
        left, top = round(x + away - w / 2), round(y - h / 2)
        paste(image, self._cover, left, top)
        _stamp(shown, self._cover, left, top, 0)


def _stamp(mask: NDArray[np.uint8], sprite: Sprite, x: int, y: int, value: int) -> None:
    """Set `mask` to `value` where the sprite, its corner at (x, y), is opaque."""
    h, w = sprite.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, mask.shape[1]), min(y + h, mask.shape[0])
    if x0 < x1 and y0 < y1:
        mask[y0:y1, x0:x1][sprite[y0 - y : y1 - y, x0 - x : x1 - x, 3] > 127] = value


def _extent(mask: NDArray[np.uint8]) -> Box:
    """The bounding box of what is set; nan for nothing."""
    x, y, w, h = cv2.boundingRect(mask)
    return np.asarray([x, y, w, h], np.float64) if w else np.full(4, np.nan)


class ClipSource:
    """Views from clips, a new one for every example."""

    def __init__(self, sprites: Sprites, backgrounds: Sequence[Path], cache: ImageCache) -> None:
        self._sprites, self._backgrounds, self._cache = sprites, backgrounds, cache

    def views(self, rng: Rng, templates: int) -> list[View]:
        background = None
        if len(self._backgrounds) and rng.random() < 0.85:
            background = self._cache.read(self._backgrounds[int(rng.integers(len(self._backgrounds)))])
        clip = Clip(rng, self._sprites, background=background)
        views: list[View] = []
        for _ in range(200):
            shot = clip[int(rng.integers(len(clip)))]
            if shot.visible and min(shot.box[2:]) >= 8:
                views.append(View(shot.image, shot.box))
            if len(views) == templates + 1:
                return views
        raise DatasetError("a clip's target is nowhere visible")
