"""What is measured of targets that vanish and return, against trackers whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.loss import behaviour, frames_to_find, reliability, summary
from benchmarks.results import Result, Track

BOX, HALF, ELSEWHERE = (10.0, 10.0, 20.0, 20.0), (10.0, 10.0, 10.0, 20.0), (200.0, 10.0, 20.0, 20.0)


def tracked(there: str, said: str, scores: list[float] | None = None) -> tuple[Result, Track]:
    """`there`: T the target, - absent, ? not annotated. `said`: T on it, t on it but not ok, h on half of it, x
    elsewhere, . not ok."""
    absent = np.asarray([c == "-" for c in there])
    truth = np.asarray([BOX if c == "T" else [np.nan] * 4 for c in there])
    boxes = np.asarray([BOX if c in "Tt" else HALF if c == "h" else ELSEWHERE for c in said])
    reported = np.asarray([c in "Txh" for c in said])
    seconds = np.asarray([np.nan, *np.linspace(0.001, 0.002, len(said) - 1)])
    values = np.full(len(said), np.nan) if scores is None else np.asarray(scores)
    return Result("drawn", truth, absent, boxes, reported), Track(boxes, seconds, values, reported)


@pytest.mark.parametrize(
    ("there", "said", "found"),
    [
        ("TT---TTT", "TT...TTT", [1]),
        ("TT---TTT", "TTTTT.xT", [3]),
        ("TT---TTT", "TT...ttt", [None]),  # on it, without saying so
        ("TT---TTT", "TTTTTxxx", [None]),
        ("TT---TTT", "TT...hhT", [3]),
        ("TT--TT-TTT", "TTTTxxxxTT", [None, 2]),  # the second return's answer is not the first one's
        ("TT--?T?T", "TTTTTxTT", [4]),  # frames without annotation pass, but cannot be judged
        ("TTTT", "TTTT", []),
        ("TT--", "TT..", []),
    ],
)
def test_frames_to_find(there: str, said: str, found: list[int | None]) -> None:
    assert frames_to_find(tracked(there, said)[0]) == found


def test_behaviour_of_known_answers() -> None:
    one = tracked("TT--TT", "TT.xxT", [np.nan, 0.9, 0.1, 0.8, 0.3, 0.7])
    two = tracked("TT--TT", "TT..T.", [np.nan, 0.9, 0.1, 0.1, 0.7, 0.3])
    found = behaviour([one, two])
    assert found["auc"] == pytest.approx(4 / 6 * 20 / 21)  # nothing is strictly above the threshold 1
    assert (found["tpr"], found["tnr"]) == (4 / 6, 3 / 4)
    assert found["max_gm"] == pytest.approx(np.sqrt(4 / 6 * 3 / 4))
    # Right: 0.9, 0.7, 0.9, 0.7; wrong: 0.1, 0.8, 0.3, 0.1, 0.1, 0.3: of 24 pairs two are the wrong way.
    assert found["auroc"] == pytest.approx(22 / 24)
    assert (found["returns"], found["found"], found["frames_to_find"]) == (2, 1.0, 1.5)
    assert found["update_ms"]["max"] == pytest.approx(2.0)


def test_frames_to_find_are_those_of_the_middle_return() -> None:
    found = behaviour([tracked("TT-T-T-TTTT-T", "TT.T.T.xxxT.x")])
    assert (found["returns"], found["found"], found["frames_to_find"]) == (4, 3 / 4, 1)


def test_behaviour_where_nothing_vanishes() -> None:
    found = behaviour([tracked("TTTT", "TTTT")])
    assert (found["returns"], found["found"], found["frames_to_find"]) == (0, None, None)


def test_what_is_not_known_is_not_judged_and_an_absent_target_has_no_right_box() -> None:
    """Some datasets give a box for an absent target, too."""
    scores = [np.nan, 0.9, 0.4, 0.1, 0.8, 0.3]
    result, track = tracked("TT-?TT", "TTTxTx", scores)
    found = behaviour([(result, track)])
    assert found["auroc"] == 1  # 0.9 and 0.8 above 0.4 and 0.3; the 0.1 is of an unknown frame
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.2 + 0.3) / 4)
    boxed = replace(result, truth=np.where(result.absent[:, None], BOX, result.truth))
    again = behaviour([(boxed, track)])
    assert again.pop("update_ms") == found.pop("update_ms")
    assert again == pytest.approx(found)


def test_expected_calibration_error_of_scores_that_keep_their_promise() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    right = rng.random(20_000) < scores
    honest, boastful = reliability(right, scores), reliability(right, np.sqrt(scores))
    assert honest["ece"] < 0.02
    # The mean of sqrt(s) - s over [0, 1] is 1/6.
    assert boastful["ece"] == pytest.approx(1 / 6, abs=0.02)
    assert honest["auroc"] == pytest.approx(boastful["auroc"])


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    right = np.asarray([True, False, True])
    assert reliability(right, np.asarray([12.0, 3.0, 4.0])) == {"auroc": 1.0, "ece": None}
    assert reliability(right, np.asarray([0.5, -0.5, 0.0]))["ece"] is None
    assert reliability(right, np.asarray([1.0, 0.0, 1.0]))["ece"] == 0
    assert reliability(right, np.asarray([0.5, np.nan, 0.5])) == {"auroc": None, "ece": None}


def test_summary_of_a_tracker_that_sees_and_of_one_that_does_not() -> None:
    scores = [np.nan, 0.9, 0.9, 0.1, 0.2, 0.3, 0.8]
    near, far = tracked("TTT---T", "TTx...T", scores), tracked("TTT---T", "TTx...x", scores)
    assert summary([near], [far, near], [far]) == {
        "gone_ok": 0.0,
        "score_seen": 0.9,  # the second frame alone: in the third the box is elsewhere
        "score_gone": pytest.approx(0.2),
        "separation": 1.0,
        "found_near": 1.0,
        "found_far": 0.5,
        "found_wide": 0.0,
        "sequences": {"near": 1, "far": 2, "wide": 1},
    }
    blind = tracked("TTT---T", "xxxxxxx")
    said = summary([blind], [blind], [near])
    assert (said["gone_ok"], said["score_seen"], said["separation"]) == (1.0, None, None)
    assert (said["found_near"], said["found_far"], said["found_wide"]) == (0.0, 0.0, 1.0)
