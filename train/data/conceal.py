"""Painting a target over, so that the scene is left without it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.images import Image
from train.data.labels import Box
from train.data.scenes import paste
from train.data.sources import Rng

PLACES = 16
"""Places drawn in search of one beside the target that a piece of the size needed can be taken from."""


def cover(rng: Rng, image: Image, box: Box, texture: Image) -> None:
    """Lay a piece of another picture over all of the target, in place.

    Args:
        image: BGR uint8 (H, W, 3).
        box: the target's cx, cy, w, h in units of the image's width and height.
        texture: the other picture, BGR uint8.
    """
    width, height, border = _size(rng, image, box, 0.05)
    x, y = (int(rng.integers(0, max(1, n - 16))) for n in (texture.shape[1], texture.shape[0]))
    piece = cv2.resize(texture[y : y + height, x : x + width], (width, height), interpolation=cv2.INTER_LINEAR)
    _lay(image, piece, box, border)


def erase(rng: Rng, image: Image, box: Box, spared: Box | None = None) -> None:
    """Carry on over all of the target what is beside it, in place: nothing in the picture is strange then but that the
    target is missing.

    Args:
        image: BGR uint8 (H, W, 3).
        box: the target's cx, cy, w, h in units of the image's width and height.
        spared: of another, which no part must be copied of.
    """
    width, height, border = _size(rng, image, box, 0.15)
    piece = _beside(rng, image, box, width, height, spared) if rng.random() < 0.7 else None
    _lay(image, _filled(image, box, width, height) if piece is None else piece, box, border)


def _size(rng: Rng, image: Image, box: Box, softest: float) -> tuple[int, int, int]:
    """Width and height in pixels of what hides the target, and of its soft edge on every side. All of the edge lies
    beyond the box, which is seldom tight; together they are at most about twice as wide and high as it."""
    sides = box[2:] * image.shape[1::-1]
    border = max(1, int(sides.min() * rng.uniform(0.02, softest)))
    width, height = (max(4, int(side * rng.uniform(1.05, 1.4))) + 4 * border for side in sides)
    return width, height, border


def _corner(image: Image, box: Box, width: int, height: int) -> tuple[int, int]:
    return int(box[0] * image.shape[1] - width / 2), int(box[1] * image.shape[0] - height / 2)


def _beside(rng: Rng, image: Image, box: Box, width: int, height: int, spared: Box | None) -> Image | None:
    """A piece of the picture that does not touch the target's, in the light of the place that it is for; None where
    there is no room for one."""
    x, y = _corner(image, box, width, height)
    free = np.subtract(image.shape[1::-1], (width, height))
    if (free < 0).any():
        return None
    for _ in range(PLACES):
        left, top = rng.integers(0, free + 1).tolist()
        if spared is not None:
            apart = np.abs(np.divide((left + width / 2, top + height / 2), image.shape[1::-1]) - spared[:2])
            if (apart < np.divide((width, height), image.shape[1::-1]) / 2 + spared[2:] / 2).all():
                continue
        if abs(left - x) >= width or abs(top - y) >= height:
            piece = image[top : top + height, left : left + width]
            piece = piece[:, ::-1] if rng.random() < 0.5 else piece
            return np.clip(piece + _light_around(image, x, y, width, height) - piece.mean((0, 1)), 0, 255).astype(
                np.uint8
            )
    return None


def _light_around(image: Image, x: int, y: int, width: int, height: int) -> NDArray[np.float64]:
    """Mean colour (3,) of a rim, a quarter as wide as the place, around it, or of the picture where there is none."""
    rim = np.zeros(image.shape[:2], np.uint8)
    across, down = width // 4 + 1, height // 4 + 1
    rim[max(0, y - down) : max(0, y + height + down), max(0, x - across) : max(0, x + width + across)] = 255
    rim[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = 0
    return np.asarray(cv2.mean(image, rim if rim.any() else None)[:3])


def _filled(image: Image, box: Box, width: int, height: int) -> Image:
    """The picture at the target's place, made of what surrounds it alone."""
    x, y = _corner(image, box, width, height)
    hole = np.zeros(image.shape[:2], np.uint8)
    hole[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = 255
    filled = cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA)
    padded = cv2.copyMakeBorder(filled, height, height, width, width, cv2.BORDER_REPLICATE)
    x, y = np.clip((x, y), (-width, -height), image.shape[1::-1]).tolist()
    return padded[y + height : y + 2 * height, x + width : x + 2 * width]


def _lay(image: Image, piece: Image, box: Box, border: int) -> None:
    """Blend the piece over the target; its edge begins after `border` pixels and is as wide."""
    height, width = piece.shape[:2]
    alpha = np.zeros((height, width), np.uint8)
    alpha[border : height - border, border : width - border] = 255
    alpha = cv2.GaussianBlur(alpha, (0, 0), border / 3)
    paste(image, np.dstack([piece, alpha]), *_corner(image, box, width, height))
