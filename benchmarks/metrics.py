"""The field's measures, as functions of boxes or of overlaps. Everything that needs a number takes it from here;
overlap and the success curve, which also a bundle's manifest states, are in `train.success`.

Boxes are (x, y, w, h) in pixels, arrays (N, 4). Rates and areas are fractions, 0 to 1. A frame that counts as a failure
has overlap 0 and centre error infinity: the callers decide which frames those are (`benchmarks.protocols`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.success import Floats, success_curve

Flags = NDArray[np.bool_]

PIXELS = np.arange(51, dtype=np.float64)
"""Thresholds of the precision curve, in pixels."""
NORMALISED = np.linspace(0, 0.5, 51)
"""Thresholds of the normalised precision curve (Mueller et al., TrackingNet), in units of the target's size."""

TITLES = {
    "auc": "AUC",
    "precision_20": "P@20",
    "normalised_precision_020": "NP@.20",
    "normalised_precision_mean": "NP mean",
    "ao": "AO",
    "sr_50": "SR.50",
    "sr_75": "SR.75",
    "tpr": "TPR",
    "tnr": "TNR",
    "max_gm": "MaxGM",
    "auroc": "AUROC",
    "ece": "ECE",
}
"""What the figures of `summary`, `presence` and `benchmarks.loss` are called in tables."""


def centre_error(predicted: Floats, truth: Floats) -> Floats:
    """Distance of the boxes' centres in pixels, (N,)."""
    return np.linalg.norm(_centres(predicted) - _centres(truth), axis=1)


def normalised_centre_error(predicted: Floats, truth: Floats) -> Floats:
    """The same with x in units of the true width and y of the true height."""
    return np.linalg.norm((_centres(predicted) - _centres(truth)) / truth[:, 2:], axis=1)


def _centres(boxes: Floats) -> Floats:
    return boxes[:, :2] + boxes[:, 2:] / 2


def precision_curve(errors: Floats, thresholds: Floats = PIXELS) -> Floats:
    """Share of frames whose centre error is at most each threshold."""
    return (errors[:, None] <= thresholds).mean(axis=0)


class Curves(NamedTuple):
    """Success over `train.success.OVERLAPS`, precision over `PIXELS`, normalised precision over `NORMALISED`.

    overlap: the mean overlap and the shares of frames above 0.5 and 0.75, for which no curve is needed.
    """

    success: Floats
    precision: Floats
    normalised: Floats
    overlap: Floats


def curves(areas: Floats, errors: Floats, normalised: Floats) -> Curves:
    """The curves of a set of frames, each given by its overlap and its two centre errors, (N,)."""
    return Curves(
        success_curve(areas),
        precision_curve(errors),
        precision_curve(normalised, NORMALISED),
        np.asarray([areas.mean(), (areas > 0.5).mean(), (areas > 0.75).mean()]),
    )


def summary(found: Curves) -> dict[str, float]:
    """The figures that papers give.

    auc: area under the success curve, the mean over its 21 thresholds.
    precision_20: centre within 20 pixels.
    normalised_precision_020: at 0.20, as LaSOT's toolkit and pytracking give it.
    normalised_precision_mean: mean over 0 to 0.5, as the got10k toolkit gives it.
    ao, sr_50, sr_75: average overlap and success rates, as GOT-10k gives them.
    """
    ao, sr_50, sr_75 = found.overlap.tolist()
    return {
        "auc": float(found.success.mean()),
        "precision_20": float(found.precision[20]),
        "normalised_precision_020": float(found.normalised[20]),
        "normalised_precision_mean": float(found.normalised.mean()),
        "ao": ao,
        "sr_50": sr_50,
        "sr_75": sr_75,
    }


class Presence(NamedTuple):
    """Long-term tracking (Valmadre et al., OxUvA).

    tpr: share of the present frames with the target reported, and at the right place.
    tnr: share of the absent frames reported as absent; NaN without absent frames.
    max_gm: see `max_gm`.
    """

    tpr: float
    tnr: float
    max_gm: float


def presence(areas: Floats, present: Flags, reported: Flags, threshold: float = 0.5) -> Presence:
    """OxUvA's rates over frames: overlap (N,), whether the target is there, whether the tracker says that it is."""
    hits = present & reported & (areas >= threshold)
    tpr = float(hits.sum() / present.sum()) if present.any() else float("nan")
    tnr = float((~present & ~reported).sum() / (~present).sum()) if not present.all() else float("nan")
    return Presence(tpr, tnr, max_gm(tpr, tnr))


def max_gm(tpr: float, tnr: float) -> float:
    """max over p in [0, 1] of sqrt((1-p) TPR ((1-p) TNR + p)): the best geometric mean of the two rates that a tracker
    reaches when it also says "absent" at random, with probability p.

    In closed form: without that help where TNR >= 0.5, else at p = (1 - 2 TNR) / (2 (1 - TNR)).
    """
    return float(np.sqrt(tpr * tnr) if tnr >= 0.5 else 0.5 * np.sqrt(tpr / (1 - tnr)))
