"""The illumination of a frame against derivatives taken pixel by pixel, and the factors against lights put on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgetrack.illumination import (
    BRIGHTNESS_UNSURE,
    COLOUR_UNSURE,
    FAINTEST,
    LARGEST_BRIGHTNESS,
    LARGEST_COLOUR,
    LONGER_SIDE,
    SATURATED,
    Illumination,
    gains,
    illumination,
    relit,
)


def picture(height: int, width: int, seed: int = 0, top: int = 120) -> np.ndarray:
    """Patches of 6 px in colours below `top`."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(10, top, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return patches.repeat(6, axis=0).repeat(6, axis=1)[:height, :width].copy()


def lit(frame: np.ndarray, factors: tuple[float, ...]) -> np.ndarray:
    return np.clip(np.rint(frame * np.asarray(factors)), 0, 255).astype(np.uint8)


def by_hand(frame: np.ndarray) -> np.ndarray:
    """Mean |derivative| down and across, where neither the pixel nor those after it in both directions saturate."""
    values, usable = frame.astype(int), (frame < SATURATED).all(axis=2)
    down, across = [], []
    height, width = usable.shape
    for y in range(height):
        for x in range(width):
            beyond_y, beyond_x = min(y + 1, height - 1), min(x + 1, width - 1)
            if not (usable[y, x] and usable[beyond_y, x] and usable[y, beyond_x] and usable[beyond_y, beyond_x]):
                continue
            if y + 1 < height:
                down.append(abs(values[y + 1, x] - values[y, x]))
            if x + 1 < width:
                across.append(abs(values[y, x + 1] - values[y, x]))
    return np.mean(down, axis=0) + np.mean(across, axis=0)


def test_a_small_frame_is_differentiated_pixel_by_pixel() -> None:
    frame = picture(71, 113)
    frame[20:31, 40:60] = (30, 255, 90)  # saturated in one channel alone
    assert illumination(frame).colour == pytest.approx(by_hand(frame))
    frame[20:31, 40:60] = (200, 255, 7)
    assert illumination(frame).colour == pytest.approx(by_hand(frame))


def between(first: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The logarithms of the factors from `later` to `first`."""
    return np.log(gains(illumination(first), illumination(later)))


def believed(logarithm: np.ndarray, unsure: float) -> np.ndarray:
    return np.where(np.abs(logarithm) > unsure, logarithm - np.sign(logarithm) * unsure, 0)


@pytest.mark.parametrize("put_on", [(0.75, 1.1, 1.4), (0.3, 0.3, 0.3), (0.5, 0.25, 0.4), (1.5, 1.9, 2.1)])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (240, 320), (719, 1279), (1080, 1920)])
def test_a_light_that_is_put_on_is_taken_off(height: int, width: int, put_on: tuple[float, ...]) -> None:
    frame = picture(height, width)
    colour = np.log(put_on) - np.log(put_on).mean()
    brightness = np.log(lit(frame, put_on).mean() / frame.mean())
    expected = -believed(colour, COLOUR_UNSURE) - believed(brightness, BRIGHTNESS_UNSURE)
    assert between(frame, lit(frame, put_on)) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("put_on", [(1.02, 1.0, 0.98), (1.15, 1.15, 1.15), (0.85, 0.85, 0.85)])
def test_small_differences_stay_what_they_are(put_on: tuple[float, ...]) -> None:
    frame = picture(240, 320)
    assert between(frame, lit(frame, put_on)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("colour", [True, False])
def test_a_factor_follows_the_difference_without_a_jump_as_far_as_it_may(colour: bool) -> None:
    steps = np.linspace(-2.5, 2.5, 501)
    one = Illumination(np.ones(3), 1e2)
    other = [
        one._replace(colour=np.asarray((1.0, 1.0, np.exp(step))))
        if colour
        else one._replace(brightness=1e2 * np.exp(step))
        for step in steps
    ]
    told = np.asarray([np.log(gains(one, light)[2]) for light in other])
    share = 2 / 3 if colour else 1.0  # of geometric mean 1
    changes = np.diff(told)
    assert (changes <= 0).all()
    assert changes.min() == pytest.approx(-0.01 * share)
    largest = LARGEST_COLOUR if colour else LARGEST_BRIGHTNESS
    assert (told.max(), told.min()) == pytest.approx((np.log(largest), -np.log(largest)))


def test_a_sky_that_comes_into_view_has_no_say_in_colour() -> None:
    frame = picture(240, 320)
    turned = frame.copy()
    turned[:120] = (100, 60, 20)
    colour = between(frame, turned) - between(frame, turned).mean()
    assert np.abs(colour).max() < 0.03
    means = np.log(frame.mean(axis=(0, 1)) / turned.mean(axis=(0, 1)))
    assert np.abs(means - means.mean()).max() > 0.2  # the pixels' mean is taken in by it


def test_noise_and_blur_have_no_say_in_brightness() -> None:
    frame = picture(240, 320, top=200)
    noise = np.random.default_rng(5).normal(0, 20, frame.shape)
    for worse in (np.clip(frame + noise, 0, 255).astype(np.uint8), cv2.GaussianBlur(frame, (0, 0), 4)):
        assert np.abs(between(frame, worse)).max() < 0.03


def test_what_saturates_has_no_say_in_colour() -> None:
    frame = picture(150, 150)
    lamp = frame.copy()
    lamp[30:120, 30:120, :2] = picture(90, 90, seed=1, top=240)[:, :, :2]
    lamp[30:120, 30:120, 2] = 255  # of red there is more than the sensor can tell
    assert np.ptp(between(frame, lamp)) < 0.03
    lamp[30:120, 30:120, 2] = SATURATED - 1
    assert np.ptp(between(frame, lamp)) > 0.3


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (1, 2000), (90, 120)])
@pytest.mark.parametrize("value", [(30, 90, 150), (255, 255, 255), (0, 0, 0)])
def test_where_there_is_nothing_to_see_colours_stay_what_they_are(
    shape: tuple[int, int], value: tuple[int, int, int]
) -> None:
    frame = picture(240, 320)
    flat = np.full((*shape, 3), value, np.uint8)
    told = illumination(flat)
    assert told.colour.tolist() == [0, 0, 0]
    assert told.brightness == pytest.approx(np.mean(value))
    for factors in (between(frame, flat), between(flat, frame)):
        assert np.isfinite(factors).all()
        assert np.ptp(factors) == 0
        if not any(value):
            assert not factors.any()


def test_a_channel_without_edges_tells_nothing() -> None:
    frame = picture(90, 120)
    frame[:, :, 0] = 77
    frame[40, 40, 0] = 250  # far less than FAINTEST on average
    assert by_hand(frame)[0] < FAINTEST
    assert illumination(frame).colour.tolist() == [0, 0, 0]


@pytest.mark.parametrize("large", [False, True])
def test_any_strides_will_do(large: bool) -> None:
    frame = picture(2 * LONGER_SIDE, 3 * LONGER_SIDE) if large else picture(60, 90)
    told, mirrored = illumination(frame), illumination(frame[:, :, ::-1])
    assert mirrored.colour.tolist() == told.colour[::-1].tolist()
    assert mirrored.brightness == pytest.approx(told.brightness)
    wide = illumination(np.repeat(frame, 2, axis=1)[:, ::2])
    assert wide.colour.tolist() == told.colour.tolist()
    assert wide.brightness == told.brightness


def test_channels_are_multiplied_rounded_and_saturated() -> None:
    image = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    factors = np.asarray((0.61, 1.17, 1.9))
    assert np.abs(relit(image, factors).astype(int) - lit(image, tuple(factors))).max() <= 1
    assert (relit(image, factors) == lit(image, tuple(factors))).mean() > 0.99
    assert relit(image, np.ones(3)).tolist() == image.tolist()
