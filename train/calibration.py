"""The map from what the decoder says to a probability, fitted on pairs that training never saw.

A tracker's score is of use when it is a probability: here that the box overlaps the target by more than half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from edgetrack.decoding import hanning_window
from edgetrack.seqtrack import score_features
from edgetrack.vtt import score_feature
from train.data.pairs import Pair
from train.evaluation import iou, predict
from train.models.registry import Model
from train.models.vtt import VTT
from train.reliability import auroc, expected_calibration_error

FIELDS = {"seqtrack": ("presence", "presence", "likelihood", "intercept"), "vtt": ("logistic", "slope", "intercept")}
"""By kind of model, what the map and then its coefficients are called in a bundle's manifest."""


class Calibration(NamedTuple):
    """A fitted map and how good it is on pairs that it was not fitted on.

    Attributes:
        score: the manifest's `score`.
        auroc: chance that a pair that was found scores higher than one that was not.
        error: expected calibration error, over ten bins of equal width.
        pairs: how many pairs it was measured on.
    """

    score: dict[str, str | float]
    auroc: float
    error: float
    pairs: int


def calibrate(model: Model, pairs: Dataset[Pair], *, window: float, batch: int = 64) -> Calibration:
    """Fit P(overlap > 0.5) on every second pair and measure it on the others; an absent target counts as not found.

    Args:
        model: in eval mode.
        pairs: held out from training.
        window: strength of the Hanning penalty that the tracker will use; it is part of SeqTrack's likelihoods.
    """
    features, found = _decode(model, pairs, window, batch)
    fit, rest = slice(0, None, 2), slice(1, None, 2)
    coefficients = logistic_regression(features[fit], found[fit])
    probability = _sigmoid(features[rest] @ coefficients[:-1] + coefficients[-1])
    source, *fields = FIELDS[model.config.kind]
    score: dict[str, str | float] = {"source": source, "ok_threshold": 0.5}
    score |= dict(zip(fields, (round(float(c), 6) for c in coefficients), strict=True))
    return Calibration(
        score,
        auroc(probability, found[rest]),
        expected_calibration_error(probability, found[rest]),
        int(found[rest].size),
    )


@torch.inference_mode()
def _decode(
    model: Model, pairs: Dataset[Pair], window: float, batch: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score features (N, F) of every pair, and whether the box overlaps the target by more than half (N,)."""
    penalty = None if isinstance(model, VTT) else torch.from_numpy(hanning_window(window, model.config.bins))
    features: list[tuple[float, ...]] = []
    found = []
    for pair in DataLoader(pairs, batch):
        boxes, likelihoods, presence = predict(model, pair, penalty)
        rows = zip(presence.tolist(), likelihoods.mean(1).tolist(), strict=True)
        features += [(score_feature(p),) if penalty is None else score_features(p, m) for p, m in rows]
        found.append((iou(boxes, pair.box) > 0.5) & pair.present)
    return np.asarray(features), torch.cat(found).numpy()


def logistic_regression(
    features: NDArray[np.float64], labels: NDArray[np.bool_], *, ridge: float = 1e-3, steps: int = 50
) -> NDArray[np.float64]:
    """Coefficients (F + 1,), the intercept last, that maximise the likelihood of `labels` (N,) given `features` (N, F).

    Newton's method; `ridge` keeps the coefficients finite where the classes are separable.
    """
    x = np.column_stack([features, np.ones(len(features))])
    coefficients = np.zeros(x.shape[1])
    for _ in range(steps):
        p = _sigmoid(x @ coefficients)
        gradient = x.T @ (p - labels) + ridge * coefficients
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        coefficients -= step
        if np.abs(step).max() < 1e-8:
            break
    return coefficients


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * x))
