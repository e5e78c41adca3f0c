"""The views of a frame: they cover it, show the target large enough, and the nearest come first."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgetrack.imaging import letterbox
from edgetrack.views import SHOWN, views

CANVAS, SMALLEST = (448, 256), 0.25
FRAMES = [(1920, 1080), (1280, 720), (640, 480), (480, 640), (448, 256), (3840, 1080), (121, 400)]


def at(x: float, y: float, side: float, aspect: float = 1.0) -> np.ndarray:
    return np.asarray([x, y, side * math.sqrt(aspect), side / math.sqrt(aspect)])


def test_a_target_that_the_whole_frame_shows_large_enough_is_searched_for_in_it_alone() -> None:
    # Of 1792 x 1024 pixels the canvas has a quarter: 82 are 20.5 of it, and 0.08 of its 256 are 20.48.
    assert views(at(0, 0, 82), (1792, 1024), CANVAS, SMALLEST) == [(0, 0, 1792, 1024)]
    assert len(views(at(0, 0, 81), (1792, 1024), CANVAS, SMALLEST)) == 1 + 4


def test_parts_in_figures() -> None:
    # 41 px are half of what is wanted: two parts along each side, as large as half of the frame and of the target.
    whole, *parts = views(at(1500, 900, 41), (1792, 1024), CANVAS, SMALLEST)
    width, height = math.ceil((1792 + 41) / 2), math.ceil((1024 + 41) / 2)
    assert whole == (0, 0, 1792, 1024)
    right, low = 1792 - width, 1024 - height
    assert parts == [
        (right, low, width, height),
        (right, 0, width, height),
        (0, low, width, height),
        (0, 0, width, height),
    ]


@pytest.mark.parametrize("frame_size", FRAMES)
@pytest.mark.parametrize("side", [0.0, 2.0, 9.3, 20.0, 45.0, 70.0])
@pytest.mark.parametrize("aspect", [0.2, 1.0, 6.0])
def test_some_part_shows_the_whole_target_wherever_it_is(
    frame_size: tuple[int, int], side: float, aspect: float
) -> None:
    target = at(3, 5, side, aspect)
    found = np.asarray(views(target, frame_size, CANVAS, SMALLEST))
    assert len({tuple(view) for view in found.tolist()}) == len(found)
    assert found[0].tolist() == [0, 0, *frame_size]
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= frame_size).all()
    parts = found[1:] if len(found) > 1 else found
    assert len(np.unique(parts[:, 2:], axis=0)) == 1
    for axis in (0, 1):
        # The parts are a grid, so that each axis can be asked for itself. They begin at whole pixels.
        starts, length, size = np.unique(parts[:, axis]), parts[0, 2 + axis], frame_size[axis]
        needed = min(target[2 + axis], size) - 1
        for place in range(max(1, math.floor(size - target[2 + axis]) + 1)):
            assert ((starts <= place) & (starts + length >= place + needed)).any()
        assert len(parts) % len(starts) == 0
    assert len(parts) == len(np.unique(parts[:, 0])) * len(np.unique(parts[:, 1]))


@pytest.mark.parametrize("frame_size", FRAMES)
@pytest.mark.parametrize("side", [4.0, 9.0, 16.0, 30.0, 60.0])
def test_parts_show_the_target_large_enough_or_are_the_smallest(frame_size: tuple[int, int], side: float) -> None:
    def scale(size: tuple[int, int]) -> float:
        extent = letterbox(np.zeros((size[1], size[0], 3), np.uint8), *CANVAS).extent * CANVAS
        return float((extent / size).min())

    _, *parts = [*views(at(3, 5, side), frame_size, CANVAS, SMALLEST), (0, 0, *frame_size)]
    shown, wanted = side * scale(parts[0][2:]), SHOWN * min(CANVAS)
    largest = side * scale(frame_size) / SMALLEST
    # Overlapping by the target takes a share of it.
    overlap = 1 + max(side / length for length in parts[0][2:]) * 2
    assert shown * overlap >= min(wanted, largest)
    assert len(parts) - 1 <= math.ceil(1 / SMALLEST) ** 2


def test_the_nearest_to_the_target_come_first() -> None:
    target = at(700, 300, 8)
    _, *parts = views(target, (1280, 720), CANVAS, SMALLEST)
    assert len(parts) == 16
    away = [math.dist((x + w / 2, y + h / 2), (704, 304)) for x, y, w, h in parts]
    assert away == sorted(away)


def test_a_high_frame_is_not_cut_across() -> None:
    """The canvas, which is wide, shows all of a high frame's width already where half of the height is in view."""
    _, *parts = views(at(0, 0, 30), (480, 640), CANVAS, SMALLEST)
    assert {(x, w) for x, _, w, _ in parts} == {(0, 480)}
    assert len(parts) == 2
