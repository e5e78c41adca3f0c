"""The score: what the decoder expects of its box against a sum over all boxes, the filter against a sum over paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edgetrack.bundle import LikelihoodScore, OverlapScore
from edgetrack.decoding import Decoded
from edgetrack.scoring import calibrated_score, expected_overlap, score_features

BINS = 9


def decoded(probabilities: np.ndarray, presence: float = 0.9) -> Decoded:
    return Decoded(probabilities.argmax(1), probabilities.max(1), presence, probabilities.astype(np.float32))


def corners(tokens: tuple[int, ...], order: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    if order == "corner":
        a, b, c, d = tokens
        return min(a, c), min(b, d), max(a, c), max(b, d)
    x, y, w, h = tokens if order == "xywh" else (*tokens[2:], *tokens[:2])
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(across, 0) * max(down, 0)
    union = sum((q[2] - q[0]) * (q[3] - q[1]) for q in (a, b)) - inside
    return inside / union if union else 0.0


@pytest.mark.parametrize("order", ["xywh", "whxy", "corner"])
def test_the_expected_overlap_is_that_of_all_boxes_by_their_probability(order: str) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(12):
        best = rng.integers(2, BINS - 1, (4, 1))
        odds = np.exp(-0.5 * (np.arange(BINS) - best) ** 2 / rng.uniform(0.3, 1.5, (4, 1)) ** 2)
        odds /= odds.sum(1, keepdims=True) / rng.uniform(0.5, 1, (4, 1))  # END and START have the rest
        said = corners(tuple(odds.argmax(1).tolist()), order)
        share = odds / odds.sum(1, keepdims=True)
        exact = sum(
            math.prod(share[i, t] for i, t in enumerate(tokens)) * iou(corners(tokens, order), said)
            for tokens in itertools.product(range(BINS), repeat=4)
        )
        errors.append(expected_overlap(decoded(odds), order) - exact)
    assert np.abs(errors).max() < 0.06
    assert abs(np.mean(errors)) < 0.015


def test_a_decoder_without_doubt_expects_to_be_right() -> None:
    certain = np.eye(BINS)[[4, 5, 3, 2]]
    for order in ("xywh", "whxy", "corner"):
        assert expected_overlap(decoded(certain), order) == 1
    # Corners that were written the wrong way round span the same box.
    assert expected_overlap(decoded(np.eye(BINS)[[6, 7, 1, 2]]), "corner") == 1


def test_a_decoder_that_leaves_nothing_to_the_bins_is_answered_too() -> None:
    assert 0 <= expected_overlap(decoded(np.zeros((4, BINS))), "xywh") <= 1


def test_a_bin_more_or_less_is_much_for_a_small_box_and_little_for_a_large_one() -> None:
    expected = []
    for size in (4, 40):
        odds = np.zeros((4, 100))
        for row, token in zip(odds, (50, 50, size, size), strict=True):
            row[token - 2 : token + 3] = (0.15, 0.2, 0.3, 0.2, 0.15)
        expected.append(expected_overlap(decoded(odds), "xywh"))
    assert expected[0] < 0.6
    assert expected[1] > 0.85


def calibration(**values: float) -> OverlapScore:
    neutral = {"presence": 0.0, "overlap": 0.0, "intercept": 0.0, "memory": 0.0, "change": 0.0, "ok_threshold": 0.5}
    return OverlapScore(source="overlap", **{**neutral, **values})


def test_likelihood_is_the_score_as_it_is() -> None:
    rows = np.eye(BINS)[[1, 2, 3, 4]] * 0.25
    plain = LikelihoodScore(source="likelihood", ok_threshold=0.1)
    assert calibrated_score(plain, decoded(rows), "xywh", 0.3) == 0.25


@pytest.mark.parametrize(("presence", "previous"), [(0.9, 0.3), (0.2, 0.99), (0.5, 0.5)])
def test_calibration_formula(presence: float, previous: float) -> None:
    rng = np.random.default_rng(1)
    step = decoded(rng.dirichlet(np.full(BINS, 0.2), 4), presence)
    expected = expected_overlap(step, "xywh")
    prior = previous * 0.9 + (1 - previous) * 0.1
    odds = math.exp(2.1) * (presence / (1 - presence)) ** 0.7 * (expected / (1 - expected)) ** 1.9
    odds *= (prior / (1 - prior)) ** 0.4
    fitted = calibration(presence=0.7, overlap=1.9, intercept=2.1, memory=0.4, change=0.1)
    assert calibrated_score(fitted, step, "xywh", previous) == pytest.approx(odds / (1 + odds))
    odds *= math.exp(-0.8)
    assert calibrated_score(fitted, step, "xywh", previous, -0.8) == pytest.approx(odds / (1 + odds))


def test_with_a_full_memory_it_is_the_forward_algorithm() -> None:
    # The chance that the target is followed in the last frame, over all ways to be followed and lost from a sure start.
    rng, change = np.random.default_rng(2), 0.1
    witness = rng.uniform(0.05, 0.95, 6)  # P(frame | followed) : P(frame | lost) = p : 1 - p
    followed = {True: 0.0, False: 0.0}
    for path in itertools.product((True, False), repeat=len(witness)):
        weight = 1.0
        for before, now, p in zip((True, *path), path, witness, strict=False):
            weight *= (1 - change if now == before else change) * (p if now else 1 - p)
        followed[path[-1]] += weight
    fitted, score = calibration(presence=1.0, memory=1.0, change=change), 1.0
    for p in witness:
        score = calibrated_score(fitted, decoded(np.eye(BINS)[[4] * 4], p), "xywh", score)
    assert score == pytest.approx(followed[True] / sum(followed.values()), rel=1e-6)


@pytest.mark.parametrize("presence", [0.0, 1.0, -1e-7, 1 + 1e-7])
@pytest.mark.parametrize("previous", [0.0, 1.0])
@pytest.mark.parametrize("weight", [1.0, -50.0, 1e6])
def test_certainty_does_not_overflow(presence: float, previous: float, weight: float) -> None:
    for rows in (np.eye(BINS)[[4, 4, 3, 3]], np.zeros((4, BINS))):
        fitted = calibration(presence=weight, overlap=weight, memory=1.0)
        assert 0 <= calibrated_score(fitted, decoded(rows, presence), "xywh", previous) <= 1


@pytest.mark.parametrize("presence", [0.5, math.nan])
def test_what_is_not_a_number_is_no_sight_of_the_target_and_does_not_last(presence: float) -> None:
    plain = LikelihoodScore(source="likelihood", ok_threshold=0.1)
    fitted = calibration(presence=1.0, overlap=1.0, memory=1.0, change=0.1)
    nothing = decoded(np.full((4, BINS), math.nan), presence)
    assert calibrated_score(plain, nothing, "xywh", 1.0) == 0
    score = calibrated_score(fitted, decoded(np.eye(BINS)[[4, 4, 3, 3]], math.nan), "xywh", 1.0)
    assert score == 0
    assert calibrated_score(fitted, decoded(np.eye(BINS)[[4, 4, 3, 3]], 0.99), "xywh", score) > 0.9


def test_features_are_logits() -> None:
    assert score_features(0.5, 0.5) == (0, 0)
    assert score_features(0.9, 0.2) == pytest.approx((math.log(9), -math.log(4)))
    # Of 64 boxes that are drawn, no share is surer than half a box.
    assert score_features(0.5, 0.0)[1] == pytest.approx(-math.log(127))
    assert score_features(0.5, 1.0)[1] == pytest.approx(math.log(127))
