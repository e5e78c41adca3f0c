"""Plots as plain SVG. Colours are the page's: series i has class ``s{i}``, text and lines follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

FONT = 12
"""Font size in user units; a plot is drawn for the width at which it is shown, so this is pixels."""
_CHARACTER = 6.4  # mean advance of a character of the page's font at this size
_PASSES = 4


@dataclass(frozen=True)
class Axis:
    """A range of values along one side; `log` spaces it by powers."""

    low: float
    high: float
    title: str
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the range, about as many as `most`."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
            return found if len(found) <= most + 2 else [v for v in found if f"{v:e}"[0] == "1"]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(step * m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= most)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Point:
    """One mark: its label stands beside it, its note appears when it is pointed at."""

    x: float
    y: float
    label: str
    note: str
    style: str


@dataclass(frozen=True)
class Line:
    """A series of values in the style of its class."""

    points: Sequence[tuple[float, float]]
    label: str
    style: str


@dataclass
class Plot:
    """Axes with room for their titles; marks are added, then `svg` is asked for."""

    x: Axis
    y: Axis
    width: int
    height: int
    title: str
    _marks: list[str] = field(default_factory=list)

    @property
    def _area(self) -> tuple[float, float, float, float]:
        return 46, 10, self.width - 12, self.height - 42

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where values lie in the picture."""
        left, top, right, bottom = self._area
        return left + self.x.place(x) * (right - left), bottom - self.y.place(y) * (bottom - top)

    def line(self, line: Line, kind: str = "line") -> None:
        """A series, joined."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in line.points)
        self._marks.append(
            f'<polyline class="{kind} {line.style}" points="{path}"><title>{escape(line.label)}</title></polyline>'
        )

    def points(self, points: Sequence[Point]) -> None:
        """Marks with labels, each put where it covers no other as far as there is room."""
        marks = [self.at(p.x, p.y) for p in points]
        labels: dict[int, _Label] = {}
        order = sorted(range(len(points)), key=lambda i: -points[i].y)
        # Again and again, since the first ones were put before it was known where the others need to be.
        for _ in range(_PASSES):
            for i in order:
                others = [label.box for j, label in labels.items() if j != i]
                choices = _labels(marks[i], _CHARACTER * len(points[i].label))
                labels[i] = min(choices, key=lambda label, i=i, others=others: self._cost(label, i, marks, others))
        for i, point in enumerate(points):
            (px, py), label = marks[i], labels[i]
            near = (min(max(px, label.box[0]), label.box[2]), min(max(py, label.box[1]), label.box[3]))
            leader = ""
            if math.dist(near, marks[i]) > FONT:  # too far away to be taken for this mark's without a line
                leader = f'<line class="leader" x1="{px:.1f}" y1="{py:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}"/>'
            self._marks.append(
                f'<g class="{point.style}"><title>{escape(point.note)}</title>{leader}{_symbol(px, py, point.style)}'
                f'<text x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">{escape(point.label)}</text>'
                "</g>"
            )

    def _cost(
        self, label: _Label, index: int, marks: Sequence[tuple[float, float]], others: Sequence[tuple[float, ...]]
    ) -> float:
        """How badly a label stands for its mark, the one at `index`, among the other labels' boxes."""
        left, top, right, bottom = self._area
        box, own = label.box, marks[index]
        outside = max(0, left - box[0]) + max(0, box[2] - right) + max(0, top - box[1]) + max(0, box[3] - bottom)
        rest = [mark for i, mark in enumerate(marks) if i != index]
        # Nearer to another mark than to its own.
        mistaken = max(0.0, _distance(box, own) + 4 - min((_distance(box, mark) for mark in rest), default=math.inf))
        covered = [(x - 7, y - 7, x + 7, y + 7) for x, y in marks] + list(others)
        crossed = sum(_shared(box, each) for each in covered)
        return 50 * outside + crossed + 20 * mistaken + 0.1 * abs(label.y - own[1] - 4)

    def svg(self) -> str:
        """The picture."""
        left, top, right, bottom = self._area
        out = [
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title, quote=True)}">'
        ]
        for tick in self.y.ticks():
            _, y = self.at(self.x.low, tick)
            out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in self.x.ticks(6 if self.width > 500 else 4):
            x, _ = self.at(tick, self.y.low)
            out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
            out.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
        middle = (left + right) / 2
        out.append(
            f'<text class="name" x="{middle}" y="{self.height - 6}" text-anchor="middle">{escape(self.x.title)}</text>'
        )
        centre = (top + bottom) / 2
        out.append(
            f'<text class="name" transform="translate(12 {centre}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.title)}</text>"
        )
        return "".join([*out, *self._marks, "</svg>"])


class _Label(NamedTuple):
    """Where a label may stand; `box` is the room that it takes: left, top, right, bottom."""

    x: float
    y: float
    anchor: str
    box: tuple[float, float, float, float]


def _labels(mark: tuple[float, float], wide: float) -> list[_Label]:
    """The places for a label of that width around a mark."""
    px, py = mark
    places = [(px + 10, py + 4, "start"), (px - 10, py + 4, "end")]
    for down in (-11, 20, -26, 35, -41, 50, -56, 65, -71, 80):
        places += [(px, py + down, "middle"), (px + 8, py + down, "start"), (px - 8, py + down, "end")]
    begins = {"start": 0.0, "end": wide, "middle": wide / 2}
    return [
        _Label(x, y, anchor, (x - begins[anchor], y - FONT, x - begins[anchor] + wide, y + 3))
        for x, y, anchor in places
    ]


def key_mark(style: str) -> str:
    """The mark of a style by itself, for a key."""
    return f'<svg class="mark" viewBox="-8 -8 16 16" aria-hidden="true">{_symbol(0, 0, style)}</svg>'


def _symbol(x: float, y: float, style: str) -> str:
    """A circle, or a square for peers and a diamond for the reference: colour is not all that tells them apart."""
    if "peer" in style:
        return f'<rect x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11"/>'
    if "reference" in style:
        return f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>'


def _distance(a: tuple[float, ...], mark: tuple[float, float]) -> float:
    """From a rectangle (left, top, right, bottom) to a point."""
    return math.hypot(max(a[0] - mark[0], 0, mark[0] - a[2]), max(a[1] - mark[1], 0, mark[1] - a[3]))


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area that two rectangles (left, top, right, bottom) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those for which no other is at once quicker (smaller x) and better (larger y), from the quickest on."""
    best, front = -math.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            front.append((x, y))
            best = y
    return front
