"""edgetrack.compat.cv2 next to OpenCV's own tracker: the same calls give the same shapes."""

from __future__ import annotations

import inspect
from typing import Any

import cv2
import numpy as np
import pytest

import edgetrack
from edgetrack.compat.cv2 import Tracker
from edgetrack.errors import BoxError, FrameError, NotInitialisedError


def shape_of(value: Any) -> Any:
    """A value's type, and of a tuple the types inside."""
    return tuple(shape_of(v) for v in value) if isinstance(value, tuple) else type(value)


@pytest.fixture
def tracker(colour_model: edgetrack.Model) -> Tracker:
    return Tracker.create(colour_model)


@pytest.mark.parametrize("box", [(20, 50, 24, 24), [20, 50, 24, 24], np.asarray([20, 50, 24, 24])])
def test_same_calls_same_shapes(tracker: Tracker, scene: tuple[list[np.ndarray], np.ndarray], box: Any) -> None:
    frames, _ = scene
    theirs = cv2.TrackerMIL.create()
    assert shape_of(tracker.init(frames[0], box)) == shape_of(theirs.init(frames[0], box))
    assert shape_of(tracker.update(frames[1])) == shape_of(theirs.update(frames[1]))
    assert shape_of(tracker.init(image=frames[0], boundingBox=box)) == shape_of(theirs.init(frames[0], box))
    assert shape_of(tracker.update(image=frames[1])) == shape_of(theirs.update(image=frames[1]))


def test_every_public_method_of_opencv_s_trackers_is_there() -> None:
    for name in ("init", "update", "getTrackingScore"):
        assert callable(getattr(cv2.TrackerNano, name))
        assert callable(getattr(Tracker, name))
    assert list(inspect.signature(Tracker.init).parameters) == ["self", "image", "boundingBox"]
    assert list(inspect.signature(Tracker.update).parameters) == ["self", "image"]


def test_boxes_are_those_of_the_tracker_in_whole_pixels(
    colour_model: edgetrack.Model, tracker: Tracker, scene: tuple[list[np.ndarray], np.ndarray]
) -> None:
    frames, boxes = scene
    reference = edgetrack.Tracker(colour_model)
    reference.init(frames[0], boxes[0])
    tracker.init(frames[0], boxes[0])
    assert tracker.getTrackingScore() == 0.0
    for frame in frames[1:8]:
        expected = reference.update(frame)
        located, box = tracker.update(frame)
        assert located is expected.ok is True
        assert np.abs(np.subtract(box, expected.box)).max() <= 0.5
        assert tracker.getTrackingScore() == expected.score > 0


def test_unlocated_target_gives_false_and_an_empty_box(monkeypatch: pytest.MonkeyPatch, tracker: Tracker) -> None:
    track = edgetrack.Track((1.0, 2.0, 3.0, 4.0), 0.01, False, 1.0, {})
    monkeypatch.setattr(edgetrack.Tracker, "update", lambda self, frame: track)
    assert tracker.update(np.zeros((4, 4, 3), np.uint8)) == (False, (0, 0, 0, 0))
    assert tracker.getTrackingScore() == 0.01


def test_errors_are_edgetrack_s(tracker: Tracker, scene: tuple[list[np.ndarray], np.ndarray]) -> None:
    frames, _ = scene
    with pytest.raises(NotInitialisedError):
        tracker.update(frames[0])
    with pytest.raises(BoxError):
        tracker.init(frames[0], (0, 0, 0, 0))
    with pytest.raises(FrameError):
        tracker.init(frames[0][:, :, 0], (20, 50, 24, 24))


def test_options_are_those_of_the_tracker(colour_model: edgetrack.Model) -> None:
    with pytest.raises(edgetrack.OptionError, match="decode"):
        Tracker.create(colour_model, decode="guess")
