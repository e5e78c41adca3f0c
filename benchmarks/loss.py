"""What a tracker says when its target is gone, and whether it finds it again: measured on any sequences that say where
the target is absent, real ones or those of `benchmarks.returns` and `benchmarks.wide`.

Success rates hide this: the official protocols leave absent frames out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import percentiles
from benchmarks.metrics import Flags, Floats
from benchmarks.protocols import score
from benchmarks.results import Result, Track
from train.reliability import auroc, expected_calibration_error
from train.success import overlaps

Tracked = Sequence[tuple[Result, Track]]
"""What a tracker said of each of some sequences, with the truth."""


def behaviour(tracked: Tracked) -> dict[str, Any]:
    """How far a tracker can be trusted. Fractions; None or NaN, null in a record, where nothing was there to measure.

    Returns:
        auc: as protocol "ope" has it: absent frames left out.
        tpr, tnr, max_gm: as protocol "oxuva" has them.
        auroc: chance that a frame in which the box is right, overlapping the target by more than half, scores higher
            than one in which it is not, because it is elsewhere or the target is absent.
        ece: expected calibration error of the score as the probability of that; None for scores that are no
            probabilities.
        returns: how often the target came back after it had been absent.
        found: share of these in which it was found again; see `frames_to_find`.
        frames_to_find: median over those that were; 1 is the first frame with the target.
        update_ms: times of an update, with the longest.
    """
    results = [result for result, _ in tracked]
    right, scores = (np.concatenate(each) for each in zip(*(_judged(*each) for each in tracked), strict=True))
    took = [frames for result in results for frames in frames_to_find(result)]
    found = [frames for frames in took if frames is not None]
    seconds = np.concatenate([track.seconds for _, track in tracked])
    return {
        "auc": score(results, "ope").metrics["auc"],
        **score(results, "oxuva").metrics,
        **reliability(right, scores),
        "returns": len(took),
        "found": len(found) / len(took) if took else None,
        "frames_to_find": float(np.median(found)) if found else None,
        "update_ms": percentiles(seconds),
    }


def summary(near: Tracked, far: Tracked, wide: Tracked) -> dict[str, Any]:
    """The few figures for which one looks first, of sequences made by `benchmarks.returns` and `benchmarks.wide`.

    Returns:
        gone_ok: share of the frames without the target that are answered ok.
        score_seen, score_gone: mean scores where the target is seen and held before it vanishes, and where it is gone.
        separation: chance that a frame of the first kind scores higher than one of the second.
        found_near, found_far, found_wide: share of the sequences in which the target was found again.
        sequences: how many the target came back in, by kind.
    """
    seen, gone, answered = [], [], []
    for result, track in near:
        vanishes = int(result.absent.argmax())
        held = overlaps(track.boxes[1:vanishes], result.truth[1:vanishes]) > 0.5
        seen.append(track.scores[1:vanishes][held])
        gone.append(track.scores[result.absent])
        answered.append(track.reported[result.absent])
    higher, lower = np.concatenate(seen), np.concatenate(gone)
    labels = np.concatenate([np.ones(len(higher), bool), np.zeros(len(lower), bool)])
    return {
        "gone_ok": float(np.concatenate(answered).mean()),
        "score_seen": float(higher.mean()) if len(higher) else None,
        "score_gone": float(lower.mean()),
        "separation": reliability(labels, np.concatenate([higher, lower]))["auroc"],
        "found_near": behaviour(near)["found"],
        "found_far": behaviour(far)["found"],
        "found_wide": behaviour(wide)["found"],
        "sequences": {"near": len(near), "far": len(far), "wide": len(wide)},
    }


def reliability(right: Flags, scores: Floats) -> dict[str, float | None]:
    """AUROC and expected calibration error of scores (N,) for what was right (N,); see `behaviour`."""
    if not len(scores) or np.isnan(scores).any():
        return {"auroc": None, "ece": None}
    probabilities = bool((scores >= 0).all() and (scores <= 1).all())
    return {
        "auroc": auroc(scores, right),
        "ece": expected_calibration_error(scores, right) if probabilities else None,
    }


def frames_to_find(result: Result) -> list[int | None]:
    """For each return of the target the number of frames, the first with it included, until it is reported with a box
    that overlaps it by more than half; None if that does not happen before it vanishes again or the sequence ends."""
    hit = _right(result) & result.reported
    starts = np.flatnonzero(result.absent[:-1] & ~result.absent[1:]) + 1
    found: list[int | None] = []
    for start in starts.tolist():
        later = np.flatnonzero(result.absent[start:])
        hits = np.flatnonzero(hit[start : start + later[0] if len(later) else None])
        found.append(int(hits[0]) + 1 if len(hits) else None)
    return found


def _right(result: Result) -> Flags:
    with np.errstate(invalid="ignore"):
        return ~result.absent & (overlaps(result.predicted, result.truth) > 0.5)


def _judged(result: Result, track: Track) -> tuple[Flags, Floats]:
    """Whether the box is right, and the score, of the frames after the first of which the truth is known."""
    known = result.absent | np.isfinite(result.truth).all(axis=1)
    known[0] = False
    return _right(result)[known], track.scores[known]
