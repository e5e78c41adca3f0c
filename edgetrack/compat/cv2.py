"""A tracker with exactly the shape of OpenCV's ``cv2.Tracker``.

    tracker = edgetrack.compat.cv2.Tracker.create("seqtrack-nano")  # was: cv2.TrackerNano.create(params)
    tracker.init(image, (x, y, w, h))
    located, (x, y, w, h) = tracker.update(image)
    score = tracker.getTrackingScore()

Boxes are whole pixels, as in OpenCV. `edgetrack.Tracker` gives them unrounded, and tells where a lost target may be.
A target that is not located may be found again: go on calling `update`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import edgetrack

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Tracker:
    """An `edgetrack.Tracker` that is called as a ``cv2.Tracker``."""

    def __init__(self, tracker: edgetrack.Tracker) -> None:
        self._tracker = tracker
        self._score = 0.0

    @classmethod
    def create(cls, model: str | os.PathLike[str] | edgetrack.Model = "seqtrack-nano", **options: Any) -> Tracker:
        """Make a tracker of `model`; `options` are those of `edgetrack.Tracker`, and so are the errors."""
        return cls(edgetrack.Tracker(model, **options))

    def init(self, image: NDArray[Any], boundingBox: Sequence[float] | NDArray[Any]) -> None:
        """Take the target at `boundingBox`, (x, y, w, h) in pixels, of the BGR uint8 `image`. May be called again.

        Raises:
            FrameError, BoxError: an unusable image or box (both are ValueErrors).
        """
        self._tracker.init(image, boundingBox)
        self._score = 0.0

    def update(self, image: NDArray[Any]) -> tuple[bool, tuple[int, int, int, int]]:
        """Find the target: (True, (x, y, w, h)), or (False, (0, 0, 0, 0)) when it cannot be located in this image.

        Raises:
            NotInitialisedError: `init` has not been called.
            FrameError: an unusable image.
        """
        track = self._tracker.update(image)
        self._score = track.score
        if not track.ok:
            return False, (0, 0, 0, 0)  # what OpenCV's binding returns for a box that update() did not touch
        x, y, w, h = (round(v) for v in track.box)
        return True, (x, y, w, h)

    def getTrackingScore(self) -> float:
        """The score of the last update, 0 before the first."""
        return self._score
