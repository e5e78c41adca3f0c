"""What light and a camera do to a picture: brightness, colour, shade, blur, noise and compression, on a crop, without
moving its box."""

from __future__ import annotations

import cv2
import numpy as np

from train.data.images import Image
from train.data.sources import Rng


def light(rng: Rng, image: Image, strength: float) -> Image:
    """Random brightness, contrast and gamma, a little different in each channel, as one look-up table."""
    v = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    gamma = np.exp(rng.uniform(-0.6, 0.6) * strength)
    gain = np.exp(rng.uniform(-0.45, 0.45) * strength) * np.exp(rng.uniform(-0.12, 0.12, 3) * strength)
    shift = rng.uniform(-0.15, 0.15) * strength
    table = np.clip((v**gamma - 0.5) * gain + 0.5 + shift, 0, 1) * 255
    return cv2.LUT(image, table.astype(np.uint8)[None])


def grey(image: Image) -> Image:
    """The picture without its colour."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def blur(rng: Rng, image: Image) -> Image:
    """Out of focus, or moved in a random direction by up to a tenth of the picture."""
    if rng.random() < 0.4:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.8))
    length = int(rng.integers(3, max(4, image.shape[0] // 10)))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    centre, reach = (length - 1) / 2, (length - 1) / 2
    dx, dy = reach * np.cos(angle), reach * np.sin(angle)
    start, end = (round(centre - dx), round(centre - dy)), (round(centre + dx), round(centre + dy))
    cv2.line(kernel, start, end, 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def noise(rng: Rng, image: Image) -> Image:
    """Sensor noise with a standard deviation of up to 14 of 255."""
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(2, 14)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def compress(rng: Rng, image: Image) -> Image:
    """JPEG of low quality, or a smaller picture enlarged again."""
    if rng.random() < 0.5:
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))])[1]
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    share = rng.uniform(0.35, 0.8)
    small = max(1, int(width * share)), max(1, int(height * share))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height))


def degrade(rng: Rng, image: Image) -> Image:
    """A random selection of the above, as one frame's crop would show it."""
    if rng.random() < 0.8:
        image = light(rng, image, rng.choice((0.4, 1.0), p=(0.6, 0.4)))
    if rng.random() < 0.2:
        image = blur(rng, image)
    if rng.random() < 0.12:
        image = compress(rng, image)
    if rng.random() < 0.12:
        image = noise(rng, image)
    return image


def shade(rng: Rng, image: Image) -> Image:
    """Shadows: straight ones, as of walls and poles, or dappled ones, as of leaves, with soft edges.

    About half of the picture keeps a quarter to four fifths of its values, of blue a little more, as under a blue sky.
    """
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        angle, waves, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2), rng.uniform(0, 2 * np.pi)
        x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
        field = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    else:
        coarse = rng.standard_normal((int(rng.integers(3, 9)),) * 2, np.float32)
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(field / rng.uniform(0.05, 0.6) + 0.5, 0, 1)[..., None]
    kept = np.exp(rng.uniform(np.log(0.25), np.log(0.8))) * np.exp(rng.uniform(0, 0.12) * np.array([1, 0, -1]))
    return (image * (1 - cover * (1 - kept))).astype(np.uint8)


def brighten(image: Image, factor: float) -> Image:
    """All values times `factor`, as SeqTrack's official training does on the [0, 1] scale."""
    return cv2.convertScaleAbs(image, alpha=factor)
