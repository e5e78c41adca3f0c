"""The illumination of a frame, so that a target looks as it did in the first one when light or camera have changed.

A cloud, or a camera that balances its white anew, multiplies blue, green and red by a factor each. The Grey-Edge
hypothesis (van de Weijer, Gevers and Gijsenij, IEEE Transactions on Image Processing 2007; here of first order, with
Minkowski norm 1) says that the mean absolute derivative of a scene has no colour, so what it has is the light's. Here
it need only be the same colour in every frame. The mean of the pixels themselves, which is simpler, wanders twice as
far where the camera turns from grass to sky, and several times as far where what is bright saturates. For brightness
it is the other way round: derivatives tell noise and blur, and the mean does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgetrack.imaging import import_cv2, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGER_SIDE = 160
"""Pixels, at least, of the frame's longer side where derivatives are taken. A larger frame is sampled."""
SATURATED = 250
"""A pixel with a channel that reaches this is left out of derivatives, with its neighbours: it has lost the light's
colour."""
FAINTEST = 0.25
"""Grey levels. A mean derivative below it is noise and rounding."""
COLOUR_UNSURE, BRIGHTNESS_UNSURE = 0.05, 0.35
"""A factor's logarithm is believed as far as it exceeds this. Over sequences of public benchmarks, whose light stays,
that of colour is 0.01 on average and exceeds it in a frame of forty, that of brightness 0.06, and in a frame of a
hundred."""
LARGEST_COLOUR, LARGEST_BRIGHTNESS = 2.0, 4.0
"""What is multiplied by at most, and divided by: real lights differ by less in colour, and more brings up noise."""


class Illumination(NamedTuple):
    """What can be told of the light on a frame.

    Attributes:
        colour: float64 (3,), mean absolute derivatives of B, G and R in grey levels; zeros where a channel has too few
            edges to tell.
        brightness: mean of all pixels, in grey levels.
    """

    colour: NDArray[np.float64]
    brightness: float


def illumination(frame: NDArray[np.uint8]) -> Illumination:
    """The illumination of a BGR uint8 frame (H, W, 3)."""
    cv2 = import_cv2()
    height, width = frame.shape[:2]
    step = max(1, max(height, width) // LONGER_SIDE)
    # Each pixel of it is the mean of four: reading all of a large frame is what would take the time.
    small = resize(frame, (max(1, width // step), max(1, height // step)), cv2.INTER_LINEAR)
    usable = cv2.erode(cv2.inRange(small, (0, 0, 0), (SATURATED - 1,) * 3), np.ones((2, 2), np.uint8), anchor=(0, 0))
    colour = np.zeros(3)
    for ahead, here, mask in (
        (small[1:], small[:-1], usable[:-1]),
        (small[:, 1:], small[:, :-1], usable[:, :-1]),
    ):
        if here.size:
            colour += cv2.mean(cv2.absdiff(ahead, here), mask)[:3]
    brightness = cv2.mean(small.reshape(len(small), -1))[0]  # of one channel, which is ten times faster than of three
    return Illumination(colour if colour.min() >= FAINTEST else np.zeros(3), brightness)


def gains(wanted: Illumination, seen: Illumination) -> NDArray[np.float64]:
    """What B, G and R are multiplied by so that what was seen under one illumination looks as under the one wanted.

    float64 (3,). Colours are left as they are where that of either light could not be told, and brightness where either
    frame is black.
    """
    factors = np.zeros(3)
    if wanted.colour.all() and seen.colour.all():
        ratio = np.log(wanted.colour / seen.colour)
        factors += _believed(ratio - ratio.mean(), COLOUR_UNSURE, LARGEST_COLOUR)
    if min(wanted.brightness, seen.brightness) >= 1:
        factors += _believed(np.log(wanted.brightness / seen.brightness), BRIGHTNESS_UNSURE, LARGEST_BRIGHTNESS)
    return np.exp(factors)


def lighting_factors(wanted: Illumination | None, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What B, G and R of `frame` are multiplied by to look as under the one wanted, as `gains`; ones without one."""
    return np.ones(3) if wanted is None else gains(wanted, illumination(frame))


def _believed(logarithm: NDArray[np.float64], unsure: float, largest: float) -> NDArray[np.float64]:
    """What exceeds `unsure`, in either direction, and no more than `largest` of it, whose logarithm is meant."""
    beyond = np.maximum(np.abs(logarithm) - unsure, 0)
    return np.copysign(np.minimum(beyond, np.log(largest)), logarithm)


def relit(image: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`image`, BGR uint8 (H, W, 3), with its channels multiplied by `factors` (3,), rounded and saturated; itself where
    they are ones."""
    if (factors == 1).all():
        return image
    result: NDArray[np.uint8] = import_cv2().multiply(image, (*factors.tolist(), 0.0))
    return result
