"""The overlay: drawn on a copy, seen on any background, told apart when lost, safe at any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrack import Track
from edgetrack.drawing import FOUND, INK, LOST, annotate, annotate_track

BOX = (60.0, 50.0, 80.0, 60.0)


def near(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image.astype(int) - colour).max(axis=2) < 40


@pytest.mark.parametrize("level", [0, 128, 255])
def test_box_has_colour_and_outline_on_any_background_and_the_frame_is_untouched(level: int) -> None:
    frame = np.full((180, 320, 3), level, np.uint8)
    image = annotate(frame, BOX)
    assert (frame == level).all()
    x, y, w, h = (int(v) for v in BOX)
    for row, column in ((y, x + w // 2), (y + h, x + w // 2), (y + h // 2, x), (y + h // 2, x + w)):
        across = image[row - 4 : row + 5, column - 4 : column + 5]
        assert near(across, FOUND).any()
        assert near(across, INK).any()
    assert (image[y + 8 : y + h - 8, x + 8 : x + w - 8] == level).all()  # what is tracked stays in view


def test_lost_is_dashed_and_of_another_colour() -> None:
    frame = np.full((180, 320, 3), 128, np.uint8)
    top_found = near(annotate(frame, BOX, ok=True), FOUND)[50, 66:134]
    lost = annotate(frame, BOX, ok=False)
    top_lost = near(lost, LOST)[50, 66:134]
    assert top_found.all()
    assert 0.2 < top_lost.mean() < 0.8
    assert not near(lost, FOUND).any()


def test_the_frame_in_which_it_was_found_again_is_told_apart() -> None:
    frame = np.full((180, 320, 3), 128, np.uint8)
    track = Track(BOX, 0.5, True, 1.0, {})
    held, found = annotate_track(frame, track), annotate_track(frame, replace(track, redetected=True))
    assert np.array_equal(held, annotate(frame, BOX, score=0.5))
    changed = np.nonzero((held != found).any(axis=2))
    assert changed[0].max() < BOX[1]  # a word at the box, which is drawn as one that is held
    assert near(found, FOUND).sum() > near(held, FOUND).sum()
    assert not np.array_equal(found, annotate(frame, BOX, ok=False, score=0.5))


def test_score_and_caption_add_panels_and_no_text_adds_none() -> None:
    frame = np.full((180, 320, 3), 128, np.uint8)
    plain = annotate(frame, BOX)
    scored, captioned = annotate(frame, BOX, score=0.5), annotate(frame, BOX, caption="model | backend")
    changed = np.nonzero((scored != plain).any(axis=2))
    assert changed[0].max() < BOX[1]  # above the box
    changed = np.nonzero((captioned != plain).any(axis=2))
    assert changed[0].min() > 140
    assert changed[1].max() < 160
    assert not np.array_equal(scored, annotate(frame, BOX, score=0.9))


def test_score_goes_below_a_box_at_the_top() -> None:
    frame = np.full((180, 320, 3), 128, np.uint8)
    box = (60, 2, 80, 60)
    changed = np.nonzero((annotate(frame, box, score=0.5) != annotate(frame, box)).any(axis=2))
    assert changed[0].min() > 62


def test_lines_grow_with_the_frame() -> None:
    def stroke(scale: int) -> int:
        frame = np.full((360 * scale, 640 * scale, 3), 128, np.uint8)
        column = annotate(frame, [v * scale for v in (100, 100, 200, 200)])[:, 200 * scale]
        return int((column[: 150 * scale] != 128).any(axis=1).sum())

    assert stroke(3) >= 2 * stroke(1)


def test_read_only_and_strided_frames_are_accepted() -> None:
    frame = np.full((180, 640, 3), 90, np.uint8)[:, ::2]
    frame.setflags(write=False)
    assert annotate(frame, BOX, score=0.1, caption="x").shape == (180, 320, 3)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    box=st.tuples(*[st.floats(-1e12, 1e12)] * 2, *[st.floats(0, 1e12)] * 2),
    ok=st.booleans(),
)
def test_any_size_and_any_finite_box(size: tuple[int, int], box: tuple[float, ...], ok: bool) -> None:
    image = annotate(np.zeros((*size, 3), np.uint8), box, ok=ok, score=1.0, caption="model | backend | 60 fps")
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
