"""Smaller pictures of the same films, for what a tracker does where targets are a few pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from benchmarks.contenders import Frame, digest
from benchmarks.datasets import Dataset, Sequence
from benchmarks.results import ResultsError
from edgetrack.imaging import import_cv2

SMALLEST = 1.0
"""Pixels that a first box must be wide and high to be taken by a tracker."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Sequence):
    """A sequence whose pictures are `scale` times as wide and high as its images, and its truth with them."""

    scale: float

    def read(self, index: int) -> Frame:
        cv2 = import_cv2()
        frame: Frame = super().read(index)
        interpolation = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(frame, None, fx=self.scale, fy=self.scale, interpolation=interpolation)

    @property
    def shown(self) -> str:
        return digest([super().shown, self.scale])


def scaled(dataset: Dataset, scale: float) -> tuple[Dataset, tuple[str, ...]]:
    """The dataset with pictures `scale` times as wide and high, and the names of the sequences left out: their first
    box would be less than `SMALLEST` wide or high.

    Raises:
        ResultsError: none is left.
    """
    kept, left_out = [], []
    for sequence in dataset.sequences:
        if sequence.truth[0, 2:].min() * scale < SMALLEST:
            left_out.append(sequence.name)
            continue
        same = {field.name: getattr(sequence, field.name) for field in fields(Sequence)}
        kept.append(Scaled(**{**same, "truth": np.asarray(sequence.truth) * scale}, scale=scale))
    if not kept:
        raise ResultsError(
            f"{dataset.name}: at {scale:g} of their size no first box is {SMALLEST:g} pixel wide and high; expected a "
            "larger --scale"
        )
    return Dataset(f"{dataset.name}-x{scale:g}", dataset.protocol, tuple(kept)), tuple(left_out)
