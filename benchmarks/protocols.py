"""How a dataset's authors turn boxes into figures: which frames count, how, and over what the mean is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.metrics import (
    NORMALISED,
    PIXELS,
    Curves,
    Flags,
    Floats,
    centre_error,
    curves,
    normalised_centre_error,
    presence,
    summary,
)
from benchmarks.results import Result, ResultsError
from train.success import OVERLAPS, overlaps


@dataclass(frozen=True)
class Protocol:
    """A set of conventions.

    Attributes:
        headline: the figure that trackers are ranked by.
        first: whether the given frame is counted with what the tracker answered, counted as right, or left out.
        absent: frames without a target count as failures ("failed"), are left out ("left out"), or are judged by
            whether the tracker reports them ("judged").
        mean: over sequences, or over the frames of all of them.
        note: where the conventions come from.
    """

    headline: str
    first: Literal["answer", "right", "left out"]
    absent: Literal["failed", "left out", "judged"]
    mean: Literal["sequences", "frames"]
    note: str


PROTOCOLS: dict[str, Protocol] = {
    "ope": Protocol(
        "auc", "left out", "left out", "sequences", "One pass over any folder: frames with a target, but the given one."
    ),
    "otb": Protocol("auc", "answer", "left out", "sequences", "OTB's one-pass evaluation."),
    "lasot": Protocol(
        "auc", "right", "failed", "sequences", "LaSOT's toolkit: absent frames stay in the denominator alone."
    ),
    "lasot-ext": Protocol(
        "auc",
        "right",
        "failed",
        "sequences",
        "LaSOT's extension as pytracking and SeqTrack score it, but for normalised precision, where they take an "
        "absent frame for a hit.",
    ),
    "uav123": Protocol(
        "auc",
        "right",
        "failed",
        "sequences",
        "UAV123 as pytracking scores it, but for precision, where pytracking takes an absent frame for a hit.",
    ),
    "nfs": Protocol(
        "auc", "right", "failed", "sequences", "NFS as pytracking scores it, which takes a lost target's box as it is."
    ),
    "tnl2k": Protocol(
        "auc",
        "right",
        "failed",
        "sequences",
        "TNL2K as SeqTrack scores it, but for normalised precision, where it takes an absent frame for a hit.",
    ),
    "trackingnet": Protocol(
        "auc",
        "right",
        "left out",
        "sequences",
        "TrackingNet's frames and means, where the truth is at hand. Its devkit also rounds boxes to whole pixels, and "
        "gives the areas under all three curves, by trapezoids over 21 points.",
    ),
    "tlp": Protocol("sr_50", "answer", "left out", "sequences", "TLP: one-pass evaluation, success rate at 0.5."),
    "got10k": Protocol(
        "ao", "answer", "left out", "frames", "GOT-10k pooled over frames, the given one included: published figures."
    ),
    "got10k-toolkit": Protocol(
        "ao",
        "left out",
        "left out",
        "frames",
        "GOT-10k's frames as the got10k package counts them, the given one left out; the package also clips boxes to "
        "the picture before it compares them.",
    ),
    "oxuva": Protocol("max_gm", "left out", "judged", "frames", "OxUvA: TPR at overlap 0.5, TNR, and MaxGM."),
}


@dataclass(frozen=True)
class Scores:
    """What a protocol makes of results.

    Attributes:
        metrics: by name, fractions; see `benchmarks.metrics.summary`. Under "oxuva": tpr, tnr, max_gm.
        curves: success, precision and normalised precision with their thresholds; empty under "oxuva".
        sequences: name, frames, absent frames, attributes and metrics of each sequence.
        attributes: metrics over the sequences that have an attribute, and how many they are.
    """

    protocol: str
    headline: str
    metrics: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    sequences: list[dict[str, Any]]
    attributes: dict[str, dict[str, Any]]


def score(results: Sequence[Result], protocol: str) -> Scores:
    """Score results by a protocol's name.

    Raises:
        ResultsError: there are no results, the protocol is not known, or no frame of a sequence counts but the given
            one, as in a test split, whose truth is its server's.
    """
    if protocol not in PROTOCOLS:
        raise ResultsError(f"no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if not results:
        raise ResultsError("no sequences to score")
    rules = PROTOCOLS[protocol]
    judge: Any = _Judged if rules.absent == "judged" else _Located
    parts = [judge.of(result, rules) for result in results]
    groups: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        for attribute in result.attributes:
            groups.setdefault(attribute, []).append(index)
    overall = judge.together(parts, rules)
    return Scores(
        protocol,
        rules.headline,
        overall.metrics(),
        overall.as_json(),
        [
            {
                "name": result.name,
                "frames": len(result.truth),
                "absent": int(result.absent.sum()),
                "attributes": list(result.attributes),
                "metrics": part.metrics(),
            }
            for result, part in zip(results, parts, strict=True)
        ],
        {
            attribute: {
                "sequences": len(chosen),
                "metrics": judge.together([parts[index] for index in chosen], rules).metrics(),
            }
            for attribute, chosen in sorted(groups.items())
        },
    )


def require_auc(dataset: str, protocol: str) -> None:
    """Refuse a dataset whose protocol gives no AUC, before the hours that it takes to compare trackers by theirs.

    Raises:
        ResultsError: it gives none.
    """
    rules = PROTOCOLS[protocol]
    if rules.absent == "judged":
        raise ResultsError(
            f"{dataset} is scored by {protocol!r}, which judges whether a tracker reports the target, by "
            f"{rules.headline}, and gives no AUC, by which this compares; take another dataset"
        )


def frame_errors(result: Result, rules: Protocol) -> tuple[Floats, Floats, Floats]:
    """Overlap, centre error and normalised centre error of the frames that count, (M,) each."""
    truth, predicted = result.truth, result.predicted.copy()
    if rules.first == "right":
        predicted[0] = truth[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        known = ~result.absent & np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1)
        usable = known & np.isfinite(predicted).all(axis=1)
        areas = np.where(usable, overlaps(predicted, truth), 0.0)
        errors = np.where(usable, centre_error(predicted, truth), np.inf)
        normalised = np.where(usable, normalised_centre_error(predicted, truth), np.inf)
    _check_told(result.name, known | result.absent if rules.absent == "failed" else known)
    counted = np.ones(len(truth), bool) if rules.absent == "failed" else known
    if rules.first == "left out":
        counted[0] = False
    return areas[counted], errors[counted], normalised[counted]


def _check_told(name: str, told: Flags) -> None:
    """Refuse a sequence of which the truth tells nothing but the frame that the tracker was given."""
    if not told[1:].any():
        raise ResultsError(
            f"{name}: no frame counts but the given one, for no other has truth; results of a test split are scored by "
            "its server, see `submission`"
        )


@dataclass(frozen=True)
class _Located:
    """Frames judged by where the box is."""

    frames: tuple[Floats, Floats, Floats]
    found: Curves

    @classmethod
    def of(cls, result: Result, rules: Protocol) -> _Located:
        frames = frame_errors(result, rules)
        return cls(frames, curves(*frames))

    @classmethod
    def together(cls, parts: Sequence[_Located], rules: Protocol) -> _Located:
        areas, errors, normalised = (np.concatenate(each) for each in zip(*(p.frames for p in parts), strict=True))
        if rules.mean == "frames":
            found = curves(areas, errors, normalised)
        else:
            found = Curves(*(np.mean(each, axis=0) for each in zip(*(p.found for p in parts), strict=True)))
        return cls((areas, errors, normalised), found)

    def metrics(self) -> dict[str, float]:
        return summary(self.found)

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        axes = {"success": OVERLAPS, "precision": PIXELS, "normalised": NORMALISED}
        return {
            name: {
                "thresholds": np.round(axis, 4).tolist(),
                "values": np.round(getattr(self.found, name), 6).tolist(),
            }
            for name, axis in axes.items()
        }


@dataclass(frozen=True)
class _Judged:
    """Frames judged by whether the target is reported, too."""

    areas: Floats
    present: Flags
    reported: Flags

    @classmethod
    def of(cls, result: Result, rules: Protocol) -> _Judged:
        truth = result.truth
        with np.errstate(invalid="ignore"):
            present = ~result.absent & np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1)
        # OxUvA annotates one frame a second: a frame that is neither a box nor "absent" says nothing.
        counted = present | result.absent
        _check_told(result.name, counted)
        counted[0] &= rules.first != "left out"
        return cls(overlaps(result.predicted, truth)[counted], present[counted], result.reported[counted])

    @classmethod
    def together(cls, parts: Sequence[_Judged], rules: Protocol) -> _Judged:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("areas", "present", "reported")))

    def metrics(self) -> dict[str, float]:
        return presence(self.areas, self.present, self.reported)._asdict()

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        return {}
