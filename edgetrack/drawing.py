"""What `edgetrack track --output` and the demo paint over a frame: the box, its score, and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgetrack.imaging import import_cv2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrack.tracker import Track

    Image: TypeAlias = NDArray[np.uint8]

FOUND = (84, 222, 118)  # BGR, as everywhere
LOST = (72, 116, 250)
INK, PAPER = (24, 22, 20), (255, 255, 255)
_FINE = 4  # panels are drawn larger by this, then averaged down: OpenCV's strokes are coarse at small sizes
_SHIFT = 4  # fractional bits of coordinates given to OpenCV


def annotate(
    frame: Image,
    box: Sequence[float],
    *,
    ok: bool = True,
    score: float | None = None,
    redetected: bool = False,
    caption: str = "",
) -> Image:
    """Return a copy of `frame` with `box` drawn: solid green where the target is held, dashed red where it is lost.

    Line widths and letters grow with the frame.

    Args:
        frame: BGR uint8 (H, W, 3).
        box: (x, y, w, h) in pixels; may reach over the border.
        ok: whether the tracker holds the target.
        score: shown at the box, if given.
        redetected: whether the target had been lost and was found in this frame, which is shown at the box.
        caption: shown in the lower left corner, if given. ASCII, which is all that OpenCV's font has.
    """
    image = np.ascontiguousarray(frame).copy()
    height, width = image.shape[:2]
    unit = max(min(height, width) / 360, 0.5)
    colour = FOUND if ok else LOST
    x, y, w, h = (float(v) for v in np.clip(box, -4 * width - 4 * height, 8 * width + 8 * height))
    stroke, outline = max(1, round(2 * unit)), max(1, round(unit))
    for ink, thickness in ((INK, stroke + 2 * outline), (colour, stroke)):
        for start, end in _sides(x, y, w, h, dash=None if ok else 7 * unit):
            _line(image, start, end, ink, thickness)
    size = max(7, round(11 * unit))
    words = ["found"] if redetected else [] if ok else ["lost"]
    words += [] if score is None else [f"{score:.2f}"]
    if words:
        panel = _panel(" ".join(words), size, INK, colour)
        above = y - stroke - panel.shape[0] - 1
        top = above if above >= 0 else y + h + stroke + 2
        _paste(image, panel, x - stroke / 2, top, opacity=1.0)
    if caption:
        panel = _panel(caption, size, PAPER, INK)
        _paste(image, panel, 8 * unit, height - 8 * unit - panel.shape[0], opacity=0.72)
    return image


def annotate_track(frame: Image, track: Track, caption: str = "") -> Image:
    """As `annotate`, what a tracker found in `frame`."""
    return annotate(frame, track.box, ok=track.ok, score=track.score, redetected=track.redetected, caption=caption)


def _sides(
    x: float, y: float, w: float, h: float, dash: float | None
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The outline of a box as segments: four, or dashes of about the length `dash` that are whole at the corners."""
    corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
    segments = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        length = abs(x1 - x0) + abs(y1 - y0)
        # Dashes and gaps alternate and a side ends as it begins, with a dash: an odd number of pieces.
        pieces = 1 if dash is None else 2 * round(length / (2 * dash)) + 1
        for i in range(0, pieces, 2):
            a, b = i / pieces, (i + 1) / pieces
            segments.append(((x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))))
    return segments


def _line(
    image: Image, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int], thickness: int
) -> None:
    cv2 = import_cv2()
    fixed = [(round(px * 2**_SHIFT), round(py * 2**_SHIFT)) for px, py in (start, end)]
    cv2.line(image, fixed[0], fixed[1], colour, thickness, cv2.LINE_AA, _SHIFT)


def _panel(text: str, size: int, ink: tuple[int, int, int], paper: tuple[int, int, int]) -> NDArray[np.float32]:
    """A rounded label with letters `size` pixels high: BGRA float32 (h, w, 4), alpha 0..1, not premultiplied."""
    cv2 = import_cv2()
    font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(size * _FINE / 8))
    scale = cv2.getFontScaleFromHeight(font, size * _FINE, thick)
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, thick)
    pad_x, pad_y = round(0.55 * size) * _FINE, round(0.5 * size) * _FINE
    h = -(-(text_height + 2 * pad_y) // _FINE) * _FINE
    w = -(-(text_width + 2 * pad_x) // _FINE) * _FINE
    shape, letters = np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8)
    r = round(0.35 * size * _FINE)
    cv2.rectangle(shape, (r, 0), (w - 1 - r, h - 1), 255, -1)
    cv2.rectangle(shape, (0, r), (w - 1, h - 1 - r), 255, -1)
    for centre in ((r, r), (w - 1 - r, r), (r, h - 1 - r), (w - 1 - r, h - 1 - r)):
        cv2.circle(shape, centre, r, 255, -1)
    cv2.putText(letters, text, (pad_x, pad_y + text_height), font, scale, 255, thick, cv2.LINE_AA)
    target = (w // _FINE, h // _FINE)
    alpha, cover = (cv2.resize(m, target, interpolation=cv2.INTER_AREA)[..., None] / 255 for m in (shape, letters))
    mixed = cover * np.asarray(ink) + (1 - cover) * np.asarray(paper)
    return np.concatenate([mixed, alpha], axis=2).astype(np.float32)


def _paste(image: Image, panel: NDArray[np.float32], x: float, y: float, opacity: float) -> None:
    """Blend a panel into the image at (x, y), moved so that as much as possible of it is in view."""
    height, width = image.shape[:2]
    h, w = min(panel.shape[0], height), min(panel.shape[1], width)
    left, top = round(min(max(x, 0), width - w)), round(min(max(y, 0), height - h))
    part: Any = image[top : top + h, left : left + w]
    alpha = panel[:h, :w, 3:] * opacity
    part[:] = (part * (1 - alpha) + panel[:h, :w, :3] * alpha + 0.5).astype(np.uint8)
