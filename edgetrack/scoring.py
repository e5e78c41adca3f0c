"""SeqTrack's score: the probability that the box overlaps the target by more than half.

A step's evidence is what the decoder says of it: whether there is a target at all, and how sure it is of the box. How
sure is not what the chosen tokens' likelihoods tell, since a bin more or less is much for a small target and nothing
for a large one; it is the overlap that the decoder's own distributions expect of the box. That its size is not what the
target's was a frame ago speaks against it, too. Then the score is filtered over time as in a hidden Markov model of two
states (Rabiner, Proc. IEEE 1989, Eq. 19-20): a target that was followed a frame ago likely still is, and one that was
lost takes more evidence to be believed found.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.decoding import tokens_to_box
from edgetrack.imaging import overlap

if TYPE_CHECKING:
    from edgetrack.bundle import LikelihoodScore, OverlapScore
    from edgetrack.decoding import Decoded

_DRAWS = 64
# Evenly spread points of the unit cube in four dimensions, the same every time: the additive recurrence whose steps are
# powers of the root of x^5 = x + 1 (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences").
_POINTS = (0.5 + np.arange(_DRAWS)[:, None] * 1.1673039782614187 ** -np.arange(1.0, 5.0)) % 1
# Probabilities and overlaps are kept this far from 0 and 1 before a logarithm is taken of them; overlaps by what half a
# draw makes.
_LEAST_PROBABILITY = 1e-6
_LEAST_OVERLAP = 0.5 / _DRAWS


def expected_overlap(decoded: Decoded, order: str) -> float:
    """The mean overlap of the decoded box with boxes that are drawn from the distributions of its four tokens.

    Args:
        decoded: what a step decoded.
        order: in which the model writes a box, see `edgetrack.decoding.CENTRE_STEPS`.
    """
    cumulative = decoded.probabilities.cumsum(axis=1, dtype=np.float64)  # (4, bins)
    bins = cumulative.shape[1]
    drawn = [np.searchsorted(row, row[-1] * points) for row, points in zip(cumulative, _POINTS.T, strict=True)]
    tokens = np.vstack([np.transpose(drawn), decoded.tokens])  # (draws + 1, 4)
    boxes = tokens_to_box(tokens, bins, order)
    boxes[:, :2] -= 0.5 * boxes[:, 2:]
    return float(overlap(boxes[:-1], boxes[-1]).mean())


def score_features(presence: float, expected: float) -> tuple[float, float]:
    """What a calibration weighs: the logits of presence and of the expected overlap, both finite."""
    return logit(presence, _LEAST_PROBABILITY), logit(expected, _LEAST_OVERLAP)


def calibrated_score(
    calibration: LikelihoodScore | OverlapScore, decoded: Decoded, order: str, previous: float, size: float = 0.0
) -> float:
    """The score that a bundle's calibration makes of a step.

    Args:
        calibration: the manifest's `score`.
        decoded: the step's.
        order: in which the model writes a box.
        previous: the score of the frame before; 1 after `init`, where the target is given.
        size: the evidence of how the target's size has changed, see `edgetrack.decoding.resized`.
    """
    if calibration.source == "likelihood":
        return _finite(float(decoded.likelihoods.mean()))
    of_presence, of_overlap = score_features(decoded.presence, expected_overlap(decoded, order))
    evidence = calibration.intercept + calibration.presence * of_presence + calibration.overlap * of_overlap + size
    prior = previous + calibration.change * (1 - 2 * previous)
    return _finite(logistic(evidence + calibration.memory * logit(prior, _LEAST_PROBABILITY)))


def _finite(score: float) -> float:
    """The score, or 0 for what is not a number, which a device may answer once: the next frame goes on from it."""
    return 0.0 if math.isnan(score) else score


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    return 0.5 * (1 + math.tanh(0.5 * x))


def logit(share: float, least: float) -> float:
    """The inverse of `logistic`, of a share that is kept `least` away from 0 and 1."""
    share = min(max(share, least), 1 - least)
    return math.log(share / (1 - share))
