"""The demo's film: equal for equal seeds, true about its boxes, and with the events it promises."""

from __future__ import annotations

import numpy as np
import pytest

from edgetrack.imaging import overlap
from edgetrack.scene import CROSSING, LENGTH, OCCLUSION, Scene, SceneFrame

SMALL = (160, 90)


@pytest.fixture(scope="module")
def film() -> list[SceneFrame]:
    return list(Scene(0, SMALL).frames())


def boxes(film: list[SceneFrame]) -> np.ndarray:
    return np.asarray([f.box for f in film])


def test_equal_seeds_give_equal_frames_and_a_shorter_film_is_the_beginning(film: list[SceneFrame]) -> None:
    again = list(Scene(0, SMALL).frames(5))
    assert [f.box for f in again] == [f.box for f in film[:5]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again, film, strict=False))
    other = next(Scene(1, SMALL).frames(1))
    assert other.box != film[0].box
    assert np.abs(other.image.astype(int) - film[0].image).mean() > 10


def test_frames_are_bgr_uint8_of_the_size_asked_for(film: list[SceneFrame]) -> None:
    assert len(film) == LENGTH
    assert {f.image.shape for f in film} == {(90, 160, 3)}
    assert {f.image.dtype for f in film} == {np.dtype(np.uint8)}


def test_box_is_where_the_pixels_are() -> None:
    """Painting the aircraft another colour changes just the pixels inside its box, up to the border of the box."""
    scene, repainted = Scene(3, (320, 180)), Scene(3, (320, 180))
    repainted._target[..., :3] = repainted._target[..., 3:] * (255, 0, 255)
    for original, changed in zip(scene.frames(67), repainted.frames(67), strict=True):
        # High enough to leave out the propeller's faint disc, which is no part of the box.
        difference = np.abs(original.image.astype(int) - changed.image).max(axis=2) > 110
        y, x = np.nonzero(difference)
        seen = np.asarray([x.min(), y.min(), x.max() + 1, y.max() + 1])
        left, top, w, h = original.box
        # Motion blur and the soft edge of the paint reach out or stay back by a pixel or two.
        assert np.abs(seen - [left, top, left + w, top + h]).max() < 3, original.box


def test_target_starts_in_sight_and_stays_in_the_frame(film: list[SceneFrame]) -> None:
    assert film[0].visible > 0.99
    b = boxes(film)
    assert (b[:, :2] >= 0).all()
    assert (b[:, :2] + b[:, 2:] <= SMALL).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_target_is_wholly_hidden_once_and_comes_back(seed: int) -> None:
    hidden = [i for i, f in enumerate(Scene(seed, (80, 45)).frames()) if f.hidden]
    assert hidden == list(range(hidden[0], hidden[-1] + 1))
    assert hidden[0] < OCCLUSION < hidden[-1] < LENGTH - 40
    assert 8 <= len(hidden) <= 40


def test_target_moves_turns_and_changes_size(film: list[SceneFrame]) -> None:
    b = boxes(film)
    centre = b[:, :2] + b[:, 2:] / 2
    step = np.linalg.norm(np.diff(centre, axis=0), axis=1) / np.sqrt(b[1:, 2] * b[1:, 3])
    assert step.max() > 0.12  # a spurt, in sides of the box a frame
    assert step[30:50].max() < 0.08
    assert b[:, 2].max() > 1.4 * b[:, 2].min()
    assert overlap(b[0], b[60:]).max() < 0.5  # a box that stays where it was fails


def test_wingman_crosses_near_the_target() -> None:
    """Repainting the wingman shows where it is: nearest around the crossing, beside the target, not on it."""
    scene, repainted = Scene(0, SMALL), Scene(0, SMALL)
    repainted._wingman[..., :3] = repainted._wingman[..., 3:] * (255, 0, 255)
    distances = {}
    for index, (a, b) in enumerate(zip(scene.frames(CROSSING + 1), repainted.frames(CROSSING + 1), strict=True)):
        y, x = np.nonzero(np.abs(a.image.astype(int) - b.image).max(axis=2) > 40)
        if x.size and index in (0, CROSSING):
            left, top, w, h = a.box
            distances[index] = np.hypot(x.mean() - left - w / 2, y.mean() - top - h / 2) / np.sqrt(w * h)
    assert distances[CROSSING] < 1.2
    assert distances[CROSSING] < 0.8 * distances[0]


def test_a_long_film_goes_on_with_another_occlusion() -> None:
    hidden = [i for i, f in enumerate(Scene(0, (80, 45)).frames(LENGTH + OCCLUSION + 1)) if f.hidden]
    assert OCCLUSION in hidden
    assert LENGTH + OCCLUSION in hidden


def test_boxes_scale_with_the_frame(film: list[SceneFrame]) -> None:
    double = next(Scene(0, (320, 180)).frames(1)).box
    x, y, w, h = film[0].box
    assert double[2:] == pytest.approx((2 * w, 2 * h), abs=1.5)
    assert (double[0] + double[2] / 2, double[1] + double[3] / 2) == pytest.approx(
        (2 * x + w + 0.5, 2 * y + h + 0.5), abs=0.51
    )
