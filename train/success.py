"""Overlap with the truth and the success curve, the field's measure of whole sequences (Wu et al., OTB)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetrack.imaging import overlap

Floats = NDArray[np.float64]

OVERLAPS = np.linspace(0, 1, 21)
"""Thresholds of the success curve: 0, 0.05, ..., 1. The area under it is the mean over them."""


def overlaps(predicted: Floats, truth: Floats) -> Floats:
    """Intersection over union (N,) of boxes (N, 4), x, y, w, h in pixels; 0 for NaN boxes.

    At most 1: rounding must not carry equal boxes over the threshold 1, which nothing passes.
    """
    return np.minimum(overlap(predicted, truth), 1.0)


def success_curve(areas: Floats, thresholds: Floats = OVERLAPS) -> Floats:
    """Share of frames whose overlap (N,) is strictly above each threshold."""
    return (areas[:, None] > thresholds).mean(axis=0)
