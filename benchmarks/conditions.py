"""A camera whose picture changes in the middle of a film: white balance, exposure, shade, noise, focus, compression.

A first frame is taken under one light and followed under another. Each sequence is tracked once for each condition,
which holds from frame `ONSET` on; the boxes stay the truth. What is measured is whether the tracker holds on, and
whether it still knows that it does. The kinds of change are those of Hendrycks and Dietterich (ICLR 2019), of which a
camera does these; white balance along the colours of daylight and shade that does not cover all are added.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.accuracy import run_sequence
from benchmarks.contenders import Contender, Frame
from benchmarks.datasets import Dataset, Sequence
from benchmarks.results import ResultsError
from edgetrack.imaging import import_cv2
from train.success import overlaps, success_curve

ONSET = 30
"""Frames before the change."""


def _gains(blue: float, green: float, red: float) -> Callable[[Frame, int], Frame]:
    return lambda frame, seed: import_cv2().multiply(frame, (blue, green, red, 0.0))


def _noise(frame: Frame, seed: int) -> Frame:
    grain = np.random.default_rng(seed).standard_normal(frame.shape, np.float32) * 20
    return np.clip(np.rint(frame + grain), 0, 255).astype(np.uint8)


def _blur(frame: Frame, seed: int) -> Frame:
    return import_cv2().GaussianBlur(frame, (0, 0), 2)


def _compress(frame: Frame, seed: int) -> Frame:
    cv2 = import_cv2()
    encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


@lru_cache(maxsize=4)
def _stripes(height: int, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Share of the light that is left, (H, W, 1): stripes a quarter of the picture's width across, from the bottom left
    to the top right, each second one shaded, with edges a sixteenth of that wide."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    across = (x + y) / np.sqrt(2) / (width / 4)
    off = np.abs((across + 0.5) % 2 - 1)  # from the middle of the nearest stripe in the light, in stripes
    return (1 - 0.6 * np.clip((off - 0.5) * 16 + 0.5, 0, 1)[..., None]).astype(np.float32)


def _shade(frame: Frame, seed: int) -> Frame:
    return (frame * _stripes(*frame.shape[:2])).astype(np.uint8)


def _grey(frame: Frame, seed: int) -> Frame:
    cv2 = import_cv2()
    return cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


CONDITIONS: dict[str, Callable[[Frame, int], Frame]] = {
    "unchanged": lambda frame, seed: frame,
    "15% warmer": _gains(0.85, 1, 1.15),
    "15% colder": _gains(1.15, 1, 0.85),
    "30% warmer": _gains(0.7, 1, 1.3),
    "30% colder": _gains(1.3, 1, 0.7),
    "15% greener": _gains(1, 1.15, 1),
    "15% less green": _gains(1, 0.85, 1),
    "a quarter of the light": _gains(0.25, 0.25, 0.25),
    "twice the light": _gains(2, 2, 2),
    "shaded in stripes": _shade,
    "noise of 20 in 255": _noise,
    "blurred by 2 px": _blur,
    "JPEG at quality 10": _compress,
    "grey": _grey,
}
"""By name; they take a frame and a seed for what is random. Warmer is more red and as much less blue;
shade leaves two fifths of the light."""


@dataclass(frozen=True, kw_only=True)
class Changed(Sequence):
    """A sequence whose frames from `ONSET` on are under a condition of `CONDITIONS`."""

    condition: str

    def read(self, index: int) -> Frame:
        frame: Frame = super().read(index)
        if index < ONSET:
            return frame
        return CONDITIONS[self.condition](frame, zlib.crc32(f"{self.name} {index}".encode()))


def measure(
    contender: Contender, dataset: Dataset, advance: Callable[[str], object] = lambda name: None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Track every sequence under every condition. Fractions, of the frames from `ONSET` on.

    Returns:
        For each condition its name and "auc", the area under the success curve, absent frames left out, mean over
        sequences; "right_lost", the share of right boxes, which overlap the target by more than half, that are called
        lost; "wrong_ok", the share of the other frames, those without the target included, that are called ok. These
        are None where there was no such frame. And the names of the sequences left out: none of these frames shows
        their target.

    Raises:
        ResultsError: no sequence is left, or the tracker failed.
    """
    shown = {each.name: np.isfinite(each.truth[ONSET:]).all(1) & ~each.absent[ONSET:] for each in dataset.sequences}
    kept = [sequence for sequence in dataset.sequences if shown[sequence.name].any()]
    if not kept:
        raise ResultsError(
            f"{dataset.name}: the picture changes after {ONSET} frames, and no sequence shows its target then; "
            "expected longer ones"
        )
    entries = []
    for condition in CONDITIONS:
        areas, right, known, told = [], [], [], []
        for sequence in kept:
            values = {each.name: getattr(sequence, each.name) for each in fields(Sequence)}
            track = run_sequence(contender, Changed(**values, condition=condition))
            seen = shown[sequence.name]
            with np.errstate(invalid="ignore"):
                overlap = overlaps(track.boxes[ONSET:], sequence.truth[ONSET:])
            areas.append(success_curve(overlap[seen]).mean())
            right.append(seen & (overlap > 0.5))
            known.append(seen | sequence.absent[ONSET:])
            told.append(track.reported[ONSET:])
            advance(f"{sequence.name}, {condition}")
        is_right, is_known, is_told = (np.concatenate(each) for each in (right, known, told))
        entries.append(
            {
                "condition": condition,
                "auc": float(np.mean(areas)),
                "right_lost": _share(~is_told[is_right]),
                "wrong_ok": _share(is_told[is_known & ~is_right]),
            }
        )
    return entries, tuple(each.name for each in dataset.sequences if not shown[each.name].any())


def _share(flags: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    return float(flags.mean()) if len(flags) else None
