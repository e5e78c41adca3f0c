"""What a tracker says when its target is gone, and whether it finds it again.

Made of real sequences: a quarter of the frames as they are, half of them with the target painted over with what
surrounds it, and a last quarter with the target back, at its place or half a frame's width away (the whole picture is
shifted round). Success rates hide this: the official protocols leave absent frames out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from benchmarks.contenders import Contender, Frame
from benchmarks.datasets import Sequence
from benchmarks.metrics import Floats, overlaps
from edgetrack.imaging import import_cv2
from edgetrack.sources import read_image

SHORTEST = 12
"""Frames that a sequence needs for the three parts to mean anything."""
_MARGIN = 0.15
_WORKING_SIDE = 64


def erase(frame: Frame, box: Floats) -> Frame:
    """A copy of the frame with the target at `box`, and a margin around it, filled in from the surroundings."""
    cv2 = import_cv2()
    height, width = frame.shape[:2]
    x, y, w, h = box
    inner = _clipped(x - _MARGIN * w, y - _MARGIN * h, (1 + 2 * _MARGIN) * w, (1 + 2 * _MARGIN) * h, width, height)
    outer = _clipped(x - 0.5 * w, y - 0.5 * h, 2 * w, 2 * h, width, height)
    left, top, right, bottom = outer
    region = frame[top:bottom, left:right]
    mask = np.zeros(region.shape[:2], np.uint8)
    mask[inner[1] - top : inner[3] - top, inner[0] - left : inner[2] - left] = 255
    if region.size == 0 or not mask.any() or mask.all():
        return frame.copy()
    # Filled in small, where it is quick, and with nothing finer than the scale at which it can be guessed.
    scale = min(1.0, _WORKING_SIDE / max(region.shape[:2]))
    small = (max(1, round(region.shape[1] * scale)), max(1, round(region.shape[0] * scale)))
    filled = cv2.inpaint(
        cv2.resize(region, small, interpolation=cv2.INTER_AREA),
        cv2.resize(mask, small, interpolation=cv2.INTER_NEAREST),
        3,
        cv2.INPAINT_TELEA,
    )
    filled = cv2.resize(filled, (region.shape[1], region.shape[0]), interpolation=cv2.INTER_LINEAR)
    out = frame.copy()
    out[top:bottom, left:right][mask > 0] = filled[mask > 0]
    return out


def _clipped(x: float, y: float, w: float, h: float, width: int, height: int) -> tuple[int, int, int, int]:
    return max(0, round(x)), max(0, round(y)), min(width, round(x + w)), min(height, round(y + h))


def usable(sequence: Sequence) -> bool:
    """Whether the target is annotated in every frame and there are frames enough."""
    return len(sequence.frames) >= SHORTEST and not sequence.absent.any() and bool(np.isfinite(sequence.truth).all())


def parts(count: int) -> tuple[int, int]:
    """The frame at which the target goes, and the one at which it is back."""
    return count // 4, count // 4 + min(60, count // 2)


def play(sequence: Sequence, far: bool) -> Iterator[tuple[Frame, Floats, bool]]:
    """Frames with the target's box and whether it can be seen."""
    gone, back = parts(len(sequence.frames))
    for index, path in enumerate(sequence.frames):
        frame, box = read_image(path), sequence.truth[index]
        if index < gone:
            yield frame, box, True
        elif index < back:
            yield erase(frame, box), box, False
        elif far:
            yield shifted(frame, box)
        else:
            yield frame, box, True


def shifted(frame: Frame, box: Floats) -> tuple[Frame, Floats, bool]:
    """The picture shifted round by half its width, the box with it; not to be seen where the cut runs through it."""
    width = frame.shape[1]
    by = width // 2 if box[0] + box[2] / 2 < width / 2 else -(width // 2)
    moved = box + np.asarray([by, 0, 0, 0])
    whole = moved[0] >= 0 and moved[0] + moved[2] <= width
    return np.ascontiguousarray(np.roll(frame, by, axis=1)), moved, bool(whole)


def measure(contender: Contender, sequences: Iterable[Sequence]) -> dict[str, Any]:
    """Play every usable sequence both ways.

    Returns:
        gone_ok: share of the frames without the target that are answered ok.
        score_seen, score_gone: mean scores where the target is seen and held, and where it is gone; NaN without scores.
        separation: chance that a frame with the target, held, scores higher than one without it.
        found_near, found_far: share of sequences in which the box is on the target again (overlap above 0.5) in one of
            the last three frames, after it came back to its place, and half a frame's width away.
        sequences: how many were played.
    """
    seen: list[float] = []
    gone: list[float] = []
    answered: list[bool] = []
    found: dict[bool, list[bool]] = {False: [], True: []}
    count = 0
    for sequence in filter(usable, sequences):
        count += 1
        _, back = parts(len(sequence.frames))
        for far in (False, True):
            on_target: list[bool] = []
            for index, (frame, box, visible) in enumerate(play(sequence, far)):
                if index == 0:
                    contender.init(frame, box.tolist())
                    continue
                answer = contender.update(frame)
                held = bool(overlaps(np.asarray([answer.box]), box[None])[0] > 0.5)
                if index < back and not far:  # the other way begins the same
                    if visible and held:
                        seen.append(answer.score)
                    elif not visible:
                        gone.append(answer.score)
                        answered.append(answer.ok)
                elif index >= back and visible:
                    on_target.append(held and answer.ok)
            if on_target:
                found[far].append(any(on_target[-3:]))
    return {
        "gone_ok": _mean(answered),
        "score_seen": _mean(seen),
        "score_gone": _mean(gone),
        "separation": separation(np.asarray(seen), np.asarray(gone)),
        "found_near": _mean(found[False]),
        "found_far": _mean(found[True]),
        "sequences": count,
    }


def separation(higher: Floats, lower: Floats) -> float:
    """Chance that one of `higher` is above one of `lower`, ties counting half; NaN where either is empty or unknown."""
    if not len(higher) or not len(lower) or np.isnan(higher).any() or np.isnan(lower).any():
        return float("nan")
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")
    return float(below.mean() / 2 / len(lower))


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")
