"""Drawn clips: any frame by itself, labelled with where the target is and whether it can be seen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from train.data.clips import SEEN, Clip, ClipSource
from train.data.images import ImageCache
from train.data.scenes import Sprites

GREY = np.full((240, 320, 3), 90, np.uint8)


class Coloured(Sprites):
    """A red target; what else is drawn is blue."""

    def __init__(self) -> None:
        super().__init__([], 1.0)
        self._picked = 0

    def pick(self, rng: np.random.Generator) -> np.ndarray:
        self._picked += 1
        colour = (0, 0, 250, 255) if self._picked == 1 else (250, 0, 0, 255)
        return np.full((60, 80, 4), colour, np.uint8)


def alone(seed: int) -> Clip:
    """The clip of this seed with its look-alikes gone: they hide nothing, but one could not tell them apart."""
    clip = Clip(np.random.default_rng(seed), Coloured(), background=GREY)
    clip._others = clip._others[-1:]
    return clip


def red(image: np.ndarray) -> np.ndarray:
    return (image[..., 2].astype(int) - image[..., 0] > 40).astype(np.uint8)


def test_a_frame_is_a_function_of_its_number_alone() -> None:
    clips = [Clip(np.random.default_rng(4), Sprites([], 1.0)) for _ in range(2)]
    in_order = [clips[0][t] for t in range(30)]
    for t in (29, 3, 17):
        shot = clips[1][t]
        assert (shot.image == in_order[t].image).all()
        np.testing.assert_array_equal(shot.box, in_order[t].box)
    assert not (in_order[0].image == in_order[20].image).all()
    other = Clip(np.random.default_rng(5), Sprites([], 1.0))
    assert not (other[0].image == in_order[0].image).all()
    with pytest.raises(IndexError):
        clips[0][120]


def test_labels_are_what_the_pixels_show() -> None:
    boxes = hidden = 0
    for seed in range(10):
        clip = alone(seed)
        for t in range(0, len(clip), 6):
            shot = clip[t]
            mask = red(shot.image)
            uncovered = abs(t - clip._covering[0]) > 2 * clip._covering[1]
            if shot.visible and uncovered:
                np.testing.assert_allclose(shot.box, cv2.boundingRect(mask), atol=2)
                boxes += 1
            if shot.visible:
                x, y, w, h = shot.box.astype(int)
                assert min(x, y) >= 0
                assert x + w <= 320
                assert y + h <= 240
                assert mask.sum() == mask[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1].sum()
            else:
                assert np.isnan(shot.box).all()
                hidden += 1
            if shot.seen == 0:
                assert not mask.any()
    assert boxes > 80
    assert hidden > 5


def test_the_target_is_hidden_and_leaves_and_is_seen_again() -> None:
    covered = left = 0
    for seed in range(12):
        clip = alone(seed)
        visible = [clip[t].visible for t in range(0, len(clip), 4)]
        assert visible[0]
        returns = any(not a and any(visible[i:]) for i, a in enumerate(visible))
        away, cover = clip._absence[0] > 0, clip._covering[0] > 0
        left += away and returns
        covered += cover and not away and returns
    assert left >= 2
    assert covered >= 1


def test_it_moves_smoothly_and_changes_size_and_shape() -> None:
    for seed in range(4):
        clip = alone(seed)
        shots = [clip[t] for t in range(25)]
        centres = np.asarray([shot.box[:2] + shot.box[2:] / 2 for shot in shots])
        sides = np.asarray([shot.box[2:] for shot in shots])
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        assert np.nanmax(steps) < 0.5 * np.nanmean(sides)
        assert np.nansum(steps) > 5
        assert np.nanstd(sides[:, 0] / sides[:, 1]) > 0.005


def test_clips_are_a_source_of_views() -> None:
    source = ClipSource(Sprites([], 1.0), [], ImageCache())
    for seed in range(3):
        views = source.views(np.random.default_rng(seed), 2)
        assert len(views) == 3
        assert all(np.isfinite(view.box).all() and view.box[2:].min() >= 8 for view in views)
        assert all(view.image.shape == (240, 320, 3) for view in views)


def test_little_of_the_target_is_not_enough() -> None:
    shots = [clip[t] for clip in map(alone, range(10)) for t in range(0, 120, 8)]
    assert min(shot.seen for shot in shots) < SEEN
    assert max(shot.seen for shot in shots) <= 1
