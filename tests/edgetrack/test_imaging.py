"""Crops against a slow per-pixel reference, box maths by their properties, and what bad frames and boxes get."""

from __future__ import annotations

import math
import platform
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrack import imaging
from edgetrack.errors import BoxError, FrameError, MissingDependencyError
from edgetrack.imaging import (
    box_to_crop,
    check_box,
    check_frame,
    clip_box,
    crop_square,
    crop_to_box,
    growth,
    normalise,
    overlap,
)

# OpenCV interpolates in fixed point: at most one grey level off, on Arm, with fewer bits, up to one and a half.
RESIZE_ERROR = 1.5 if platform.machine() in ("aarch64", "arm64") else 1.01
FRAME = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)

sides = st.floats(0.5, 120)
places = st.floats(-150, 150)
boxes = st.tuples(places, places, sides, sides).map(np.asarray)


def slow_square(frame: np.ndarray, box: np.ndarray, factor: float) -> np.ndarray:
    """The square before it is resized, one pixel at a time, by the rule of the official `sample_target`."""
    x, y, w, h = (float(v) for v in box)
    side = max(1, math.ceil(math.sqrt(w * h) * factor))
    left, top = round(x + 0.5 * w - 0.5 * side), round(y + 0.5 * h - 0.5 * side)
    height, width = frame.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    # One row and column are dropped where the square meets the right or bottom border.
    last_x = left + side if left + side < width else width - 1
    last_y = top + side if top + side < height else height - 1
    for row in range(max(top, 0), last_y):
        for column in range(max(left, 0), last_x):
            square[row - top, column - left] = frame[row, column]
    return square


def slow_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resize with pixel centres at half integers and clamped borders, in floating point."""
    side = len(image)
    at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, side - 1)
    part = at - low
    rows = image[low] * (1 - part)[:, None, None] + image[high] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, high] * part[None, :, None]


@settings(max_examples=60, deadline=None)
@given(boxes, st.floats(0.5, 4))
def test_crop_copies_the_right_pixels(box: np.ndarray, factor: float) -> None:
    square = slow_square(FRAME, box, factor)
    crop = crop_square(FRAME, box, factor, len(square))  # no resizing: exact
    assert crop.scale == 1
    assert np.array_equal(crop.image, square)


@settings(max_examples=60, deadline=None)
@given(boxes, st.floats(0.5, 4), st.integers(8, 64))
def test_crop_resizes_bilinearly(box: np.ndarray, factor: float, size: int) -> None:
    square = slow_square(FRAME, box, factor)
    crop = crop_square(FRAME, box, factor, size)
    assert crop.scale == size / len(square)
    assert crop.image.shape == (size, size, 3)
    assert np.abs(crop.image - slow_resize(square.astype(float), size)).max() <= RESIZE_ERROR


@settings(max_examples=60, deadline=None)
@given(boxes, st.floats(2, 6), st.integers(1, 16))
def test_crops_of_far_larger_squares_are_the_same(box: np.ndarray, factor: float, size: int) -> None:
    square = slow_square(FRAME, box, factor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imaging, "_LARGEST_PADDED", 0)
        crop = crop_square(FRAME, box, factor, size)
    assert crop.scale == size / len(square)
    assert np.abs(crop.image - slow_resize(square.astype(float), size)).max() <= RESIZE_ERROR


@pytest.mark.parametrize("side", [400, 401, 402])
def test_no_step_where_squares_are_no_longer_padded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imaging, "_LARGEST_PADDED", 400)
    frame = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    box = np.asarray([20, 10, side / 2, side / 2])
    padded = cv2.resize(slow_square(frame, box, 2), (100, 100), interpolation=cv2.INTER_LINEAR)
    assert np.abs(crop_square(frame, box, 2, 100).image.astype(int) - padded).max() <= (side > 400)


def test_a_box_without_area_is_looked_at_as_a_pixel() -> None:
    """As a model may answer where no margin of a box is kept."""
    crop = crop_square(FRAME, np.asarray([10.0, 20.0, 0.0, 5.0]), 4, 8)
    assert crop.scale == 8
    assert (crop.image == FRAME[22, 10]).all()


def test_a_huge_square_takes_little_memory() -> None:
    """Its padding alone would have 64 gigabytes."""
    frame = np.full((40, 73_000, 3), 200, np.uint8)
    crop = crop_square(frame, np.asarray([0, -36_480, 73_000, 73_000]), 2, 64)
    assert crop.scale == 64 / 146_000
    assert crop.image.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "view",
    [
        FRAME[:, ::-1],
        FRAME[::-1],
        FRAME[:, :, ::-1],
        FRAME[::2, ::2],
        FRAME[5:50, 7:60],
        np.asfortranarray(FRAME),
        np.broadcast_to(FRAME[:1, :1], FRAME.shape),
    ],
    ids=["mirrored", "upside down", "channels reversed", "every other", "window", "column-major", "broadcast"],
)
@pytest.mark.parametrize("box", [(10, 12, 14, 10), (-5, -3, 20, 20), (20, 20, 30, 30)])
def test_strides_do_not_matter(view: np.ndarray, box: tuple[int, ...]) -> None:
    assert check_frame(view) is view
    strided = crop_square(view, np.asarray(box, float), 2, 32)
    contiguous = crop_square(np.ascontiguousarray(view), np.asarray(box, float), 2, 32)
    assert np.array_equal(strided.image, contiguous.image)


@pytest.mark.parametrize(
    "turn", [np.s_[..., ::-1], np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1, ::-1]], ids=["rgb", "x", "y", "all"]
)
@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_AREA])
def test_opencv_need_not_copy_what_runs_backwards(turn, interpolation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    resize = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda image, *rest, **more: given.append(image) or resize(image, *rest, **more))
    view = np.ascontiguousarray(FRAME[turn])[turn]
    assert np.array_equal(view, FRAME)
    found = imaging.resize(view, (17, 11), interpolation)
    assert given[0].flags.c_contiguous
    assert np.shares_memory(given[0], view)
    assert found.flags.c_contiguous
    expected = resize(FRAME, (17, 11), interpolation=interpolation)
    assert np.abs(found.astype(int) - expected).max() <= (0 if turn == np.s_[..., ::-1] else 1)  # rounded otherwise


def test_normalise_gives_rgb() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    out = normalise(FRAME, mean, std)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    for channel in range(3):
        expected = (FRAME[:, :, 2 - channel] / 255 - mean[channel]) / std[channel]
        assert out[:, :, channel] == pytest.approx(expected, abs=1e-5)


@given(boxes, boxes, st.floats(0.05, 20), st.integers(16, 512))
def test_crop_to_box_inverts_box_to_crop(box: np.ndarray, around: np.ndarray, scale: float, size: int) -> None:
    there = box_to_crop(box, around, scale, size)
    assert crop_to_box(there, around, scale, size) == pytest.approx(box, abs=1e-6)


@given(boxes, st.floats(0.05, 20), st.integers(16, 512))
def test_the_box_cropped_around_is_in_the_middle(box: np.ndarray, scale: float, size: int) -> None:
    cx, cy, w, h = box_to_crop(box, box, scale, size)
    assert (cx, cy) == pytest.approx((0.5, 0.5))
    assert (w * size, h * size) == pytest.approx((box[2] * scale, box[3] * scale))


@given(boxes, st.integers(30, 300), st.integers(30, 300), st.floats(0, 15))
def test_a_clipped_box_stays_in_view(box: np.ndarray, width: int, height: int, margin: float) -> None:
    x, y, w, h = clip_box(box, (width, height), margin)
    assert 0 <= x <= width - margin
    assert 0 <= y <= height - margin
    assert w >= margin
    assert h >= margin
    assert x + w <= width + 1e-9
    assert y + h <= height + 1e-9


@given(st.floats(0, 60), st.floats(0, 60), st.floats(10, 40), st.floats(10, 40))
def test_a_box_in_view_is_not_clipped(x: float, y: float, w: float, h: float) -> None:
    box = np.asarray([x, y, w, h])
    assert clip_box(box, (100, 100)) == pytest.approx(box)


@given(*[st.integers(0, 12)] * 4, *[st.integers(1, 9)] * 4)
def test_overlap_counts_pixels(ax, ay, bx, by, aw, ah, bw, bh) -> None:
    a, b = np.zeros((24, 24), bool), np.zeros((24, 24), bool)
    a[ay : ay + ah, ax : ax + aw] = True
    b[by : by + bh, bx : bx + bw] = True
    expected = (a & b).sum() / (a | b).sum()
    assert overlap(np.asarray([ax, ay, aw, ah]), np.asarray([bx, by, bw, bh])) == pytest.approx(expected)


def test_overlap_of_nan_is_zero() -> None:
    assert overlap(np.full(4, np.nan), np.asarray([0, 0, 1, 1])) == 0


BAD_FRAMES = {
    "none": (None, "failed cv2 read"),
    "list": ([[1]], "got list"),
    "float": (np.zeros((8, 8, 3), np.float32), "dtype float32"),
    "uint16": (np.zeros((8, 8, 3), np.uint16), "dtype uint16"),
    "grey": (np.zeros((8, 8), np.uint8), "COLOR_GRAY2BGR"),
    "four channels": (np.zeros((8, 8, 4), np.uint8), "COLOR_BGRA2BGR"),
    "one channel": (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\)"),
    "batch": (np.zeros((1, 8, 8, 3), np.uint8), r"shape \(1, 8, 8, 3\)"),
    "no rows": (np.zeros((0, 8, 3), np.uint8), "empty frame"),
    "no columns": (np.zeros((8, 0, 3), np.uint8), "empty frame"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_named(name: str) -> None:
    frame, message = BAD_FRAMES[name]
    with pytest.raises(FrameError, match=message) as caught:
        check_frame(frame)
    assert "expected a BGR uint8 numpy array of shape (H, W, 3)" in str(caught.value)


class NoArray:
    """As a tensor of torch's that requires a gradient."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __repr__(self) -> str:
        return "tensor([1., 2., 3., 4.], requires_grad=True)"


BAD_BOXES = {
    "none": (None, "None"),
    "three": ((1, 2, 3), "shape \\(3,\\)"),
    "nested": ([[1, 2, 3, 4]], "shape \\(1, 4\\)"),
    "words": ("a box", "a box"),
    "ragged": ([1, [2], 3, 4], "expected"),
    "nan": ((1, 2, math.nan, 4), "not finite"),
    "infinite": ((1, -math.inf, 3, 4), "not finite"),
    "negative width": ((1, 2, -3, 4), "-3"),
    "zero height": ((1, 2, 3, 0), "3.0, 0.0"),
    "vanishing": ((1, 2, 1e-162, 1e-162), "less than a pixel; .* at least 1$"),
    "shares of the frame": ((0.2, 0.4, 0.1, 0.3), "less than a pixel; .*, not in shares of the frame"),
    "narrow": ((1, 2, 0.5, 4), "less than a pixel"),
    "flat": ((1, 2, 3, 0.5), "less than a pixel"),
    "too wide": ((-50, 0, 161, 10), "twice the size of the 80x60 frame"),
    "too high": ((0, -50, 10, 121), "twice the size of the 80x60 frame"),
    "right of the frame": ((80, 2, 3, 4), "outside the 80x60 frame"),
    "above the frame": ((1, -9, 3, 9), "outside the 80x60 frame"),
    "enormous": ((-1e6, -1e6, 2e6, 2e6), "twice the size of the 80x60 frame"),
    "an integer beyond floats": ((10**400, 2, 3, 4), "got "),
    "texts": (["1", "2", "3", "4"], r"got \['1', '2', '3', '4'\]"),
    "bytes": ([b"1", b"2", b"3", b"4"], "got "),
    "complex": (np.asarray([1, 2, 3, 4 + 1j]), "got array"),
    "times": (np.asarray([1, 2, 3, 4], "datetime64[s]"), "got array"),
    "no array": (NoArray(), "got tensor"),
    "beyond floats": ((0, 0, 1e200, 1e200), "twice the size of the 80x60 frame"),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_bad_box_is_named(name: str) -> None:
    box, message = BAD_BOXES[name]
    with pytest.raises(BoxError, match=message) as caught:
        check_box(box, (80, 60))
    assert "expected (x, y, w, h) in pixels with w and h of at least 1" in str(caught.value)


def test_a_box_of_other_numbers_is_fine() -> None:
    for box in ((Fraction(1, 2), 2, 3, 4), (0.5, np.int8(2), np.float32(3), 4), np.asarray([0.5, 2, 3, 4], np.float16)):
        assert check_box(box, (80, 60)).tolist() == [0.5, 2, 3, 4]


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 80, 60),
        (0, 0, 1, 1),
        (-5, -5, 10, 10),
        (79.5, 59.5, 9, 9),
        (-9, -9, 160, 120),
        [1, 2, 3, 4],
        np.arange(1, 5),
    ],
)
def test_a_box_over_the_border_is_fine(box: object) -> None:
    values = check_box(box, (80, 60))
    assert values.dtype == np.float64
    assert values.tolist() == pytest.approx(list(box))


def test_an_opencv_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({cause!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    with pytest.raises(MissingDependencyError, match=rf"cannot be imported \({cause}\)\. Install it with: pip install"):
        imaging.import_cv2()


def test_the_folder_that_opencv_left_behind_is_no_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "cv2")
    with pytest.raises(MissingDependencyError, match=r"cannot be imported \(.*__version__"):
        imaging.import_cv2()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((640, 360), (1280, 720), (2, 2)),
        ((1280, 720), (640, 360), (0.5, 0.5)),
        ((640, 360), (854, 480), (854 / 640, 4 / 3)),  # 853.3 made even
        ((1920, 1080), (1920, 1088), (1, 1088 / 1080)),  # rows added up to a whole block
        ((1920, 1080), (416, 240), (416 / 1920, 240 / 1080)),
        ((1280, 720), (320, 176), (1 / 4, 176 / 720)),
        ((720, 576), (352, 288), (352 / 720, 1 / 2)),  # PAL and CIF
        ((640, 480), (640, 480), (1, 1)),
        ((1920, 1080), (1920, 1038), None),  # 16:9 and 1.85:1
        ((640, 480), (640, 512), None),  # 4:3 and 5:4
        ((640, 480), (640, 360), None),
        ((640, 480), (480, 640), None),
        ((640, 480), (1, 1), None),
    ],
)
def test_frames_of_one_aspect_are_one_view_in_two_resolutions(before, after, expected) -> None:
    found = growth(before, after)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected)
