"""The views of a frame that a search takes one after the other, so that a small target is shown large enough.

A search sees the whole frame on a small canvas, on which a target that is small in the frame is less than the model
can tell apart. In view of a part of the frame it sees the target as much larger as the part is smaller. The parts cover
the frame, and overlap by the target, so that some part shows it whole wherever it is. The whole frame is a view, too,
because the target may come back larger than it was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 0.08
"""Geometric mean side at which a target is to be shown, in units of the canvas's shorter side."""


def views(
    target: NDArray[np.float64], frame_size: tuple[int, int], canvas_size: tuple[int, int], smallest: float
) -> list[tuple[int, int, int, int]]:
    """(x, y, w, h) in whole pixels: the whole frame, and then parts of it, the nearest to the target first.

    Where the whole frame shows the target large enough it is the only view. The parts have the canvas's aspect, as far
    as the frame reaches, and are a little larger than that takes, to overlap.

    Args:
        target: (x, y, w, h) in pixels of the frame, as it was seen last.
        frame_size: width and height of the frame.
        canvas_size: width and height of what the search sees.
        smallest: of the parts, in units of what the canvas shows of the frame where it shows all of it.
    """
    canvas, frame = np.asarray(canvas_size, np.float64), np.asarray(frame_size)
    scale = (canvas / frame).min()  # pixels of the canvas for one of the frame
    shown = math.sqrt(target[2:].prod()) * scale
    share = float(np.clip(shown / (SHOWN * canvas.min()), smallest, 1))
    counts = np.ceil(frame * scale / canvas / share - 1e-9).astype(int)
    if counts.max() == 1:
        return [(0, 0, *frame_size)]
    size = np.minimum(np.ceil((frame + (counts - 1) * target[2:]) / counts), frame).astype(int)
    xs, ys = (np.unique(np.rint(np.linspace(0, *each)).astype(int)) for each in zip(frame - size, counts, strict=True))
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    away = np.hypot(*(corners + 0.5 * size - (target[:2] + 0.5 * target[2:])).T)
    width, height = size.tolist()
    parts = corners[np.argsort(away, kind="stable")].tolist()
    return [(0, 0, *frame_size), *((x, y, width, height) for x, y in parts)]
