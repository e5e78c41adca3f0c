"""The map from what the decoder says to a probability, fitted on pairs that training never saw.

A tracker's score is of use when it is a probability: here that the box overlaps the target by more than half. The pairs
tell what a step says of it; how much the frame before says, which a pair does not have, is set here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from edgetrack.decoding import SIZE_STEPS, Decoded, averaged, hanning_window, tokens_to_box
from edgetrack.scoring import expected_overlap, score_features
from edgetrack.vtt import score_feature
from train.data.pairs import Pair
from train.evaluation import iou, predict
from train.models.decoder import Decoding
from train.models.registry import Model
from train.models.vtt import VTT
from train.reliability import auroc, expected_calibration_error

FIELDS = {"seqtrack": ("overlap", "presence", "overlap", "intercept"), "vtt": ("logistic", "slope", "intercept")}
"""By kind of model, what the map and then its coefficients are called in a bundle's manifest."""
MEMORY = 0.7
"""How much the score of the frame before counts in a SeqTrack's. In the filter's equations it would be 1: but there
frames are independent witnesses, and a tracker that errs in one errs in the next for the same reason."""
CHANGE = 0.03
"""Chance that from one frame to the next a target that was followed is not any more, or the other way round: a few
times in a film of some seconds."""
EASE = 1.25
"""Evidence for a SeqTrack's box in a frame, beyond what the same features are in a pair: pairs are made to be hard, off
centre, hidden and among decoys. It, MEMORY and CHANGE are not fitted on held-out pairs but were chosen by the
calibration error on the development sequences, whose own figures flatter it for that; see the model's card."""

SIZE_CHANGE = 0.25
"""Standard deviation of the logarithm of the factor by which a target's width and height change from one frame to the
next, as a tracker sees it: more than the 0.06 to 0.10 by which its own right boxes change, for frames that are left out
and targets that turn."""
CLIP_MARGIN = 2.0
"""Pixels that a SeqTrack's boxes are wide and high at least. The official tracker's are 10: of a target of 6 it can
give no box that is right, which a score made of what the decoder says knows nothing of."""
SIZE_EVIDENCE = -0.25
"""What the sizes of a target that is followed are as evidence, on the average: never certain, always a little off. A
pair has no frame before, so that its fit knows nothing of it."""


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


def calibrate(
    model: Model, pairs: Dataset[Pair], *, window: float, within: float = 0.0, batch: int = 64
) -> Calibration:
    """Fit P(overlap > 0.5) on every second pair and measure it on the others; an absent target counts as not found.

    Args:
        model: in eval mode.
        pairs: held out from training.
        window: strength of the Hanning penalty that the tracker will use; it is part of SeqTrack's choice of a box.
        within: how far SeqTrack's tokens will be averaged over; see `edgetrack.decoding.averaged`.

    Raises:
        ValueError: `window` is not between 0 and 1, or in either half all pairs were found, or none.
    """
    if not 0 <= window <= 1:
        raise ValueError(f"window is {window}; expected a number from 0, no penalty, to 1")
    features, found = _decode(model, pairs, window, within, batch)
    fit, rest = slice(0, None, 2), slice(1, None, 2)
    _check_both(found[fit], "fitted")
    _check_both(found[rest], "measured")
    coefficients = logistic_regression(features[fit], found[fit])
    probability = _sigmoid(features[rest] @ coefficients[:-1] + coefficients[-1])
    source, *fields = FIELDS[model.config.kind]
    score: dict[str, str | float] = {"source": source, "ok_threshold": 0.5}
    if model.config.kind == "seqtrack":
        score |= {"memory": MEMORY, "change": CHANGE}
        # The fit holds how often its own examples were found. How often a frame's are, the frame before says.
        share = (found[fit].sum() + 0.5) / (found[fit].size + 1)
        coefficients[-1] -= MEMORY * np.log(share / (1 - share))
        if SIZE_STEPS[model.config.order]:
            coefficients[-1] -= SIZE_EVIDENCE
        coefficients[-1] += EASE
    score |= dict(zip(fields, (round(float(c), 6) for c in coefficients), strict=True))
    return Calibration(
        score,
        auroc(probability, found[rest]),
        expected_calibration_error(probability, found[rest]),
        int(found[rest].size),
    )


def _check_both(found: NDArray[np.bool_], use: str) -> None:
    """Raise ValueError where there is nothing to tell apart: the score would say the same of everything."""
    if found.all() or not found.any():
        raise ValueError(
            f"the model found {found.sum()} of the {found.size} pairs that the score is {use} on; expected some it "
            "found and some not: give more --pairs, another share of --absent, or weights trained longer"
        )


@torch.inference_mode()
def _decode(
    model: Model, pairs: Dataset[Pair], window: float, within: float, batch: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score features (N, F) of every pair, and whether the box overlaps the target by more than half (N,)."""
    penalty = None if isinstance(model, VTT) else torch.from_numpy(hanning_window(window, model.config.bins))
    features: list[tuple[float, ...]] = []
    found = []
    for pair in DataLoader(pairs, batch):
        boxes, presence, decoding = predict(model, pair, penalty)
        if decoding is None:
            features += [(score_feature(p),) for p in presence.tolist()]
        else:
            steps = _as_on_the_device(decoding, within)
            order, bins = model.config.order, model.config.bins
            features += [score_features(step.presence, expected_overlap(step, order)) for step in steps]
            boxes = torch.from_numpy(np.stack([tokens_to_box(step.tokens, bins, order) for step in steps])).float()
        found.append((iou(boxes, pair.box) > 0.5) & pair.present)
    return np.asarray(features), torch.cat(found).numpy()


def _as_on_the_device(decoding: Decoding, within: float) -> list[Decoded]:
    """Every answer of a batch as a step of the tracker has it."""
    tokens, likelihoods, presence, probabilities = (tensor.numpy() for tensor in decoding)
    steps = map(Decoded, tokens, likelihoods, presence.tolist(), probabilities)
    return [averaged(step, within) if within else step for step in steps]


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
