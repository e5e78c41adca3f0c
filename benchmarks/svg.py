"""Plots as plain SVG. Colours are the page's: series i has class ``s{i}``, text and lines follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple, TypeAlias

Segment: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
FONT = 12
"""Font size in user units; a plot is drawn for the width at which it is shown, so this is pixels."""
_CHARACTER = 6.4  # mean advance of a character of the page's font at this size
_PASSES = 4
_GAP = 3
"""Pixels of room at either end of a label."""


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
        choices = [_labels(mark, _CHARACTER * len(p.label)) for mark, p in zip(marks, points, strict=True)]
        # What is put first stands best, and which that should be is seen only at the end.
        orders = [
            sorted(range(len(points)), key=lambda i: sign * marks[i][axis]) for axis in (0, 1) for sign in (1, -1)
        ]
        labels = min(
            (self._placed(order, marks, choices) for order in orders), key=lambda each: self._total(each, marks)
        )
        for i, point in enumerate(points):
            (px, py), label = marks[i], labels[i]
            leader = ""
            if line := _leader(label, marks[i]):
                x, y = line[0]
                leader = f'<line class="leader" x1="{px:.1f}" y1="{py:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>'
            self._marks.append(
                f'<g class="{point.style}"><title>{escape(point.note)}</title>{leader}{_symbol(px, py, point.style)}'
                f'<text x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">{escape(point.label)}</text>'
                "</g>"
            )

    def _placed(
        self, order: Sequence[int], marks: Sequence[tuple[float, float]], choices: Sequence[list[_Label]]
    ) -> dict[int, _Label]:
        """A label for each mark, chosen in an order, and again since the first did not know where others need to be."""
        labels: dict[int, _Label] = {}
        for _ in range(_PASSES):
            for i in order:
                others = {j: label for j, label in labels.items() if j != i}
                labels[i] = min(choices[i], key=lambda label, i=i, others=others: self._cost(label, i, marks, others))
        return labels

    def _total(self, labels: Mapping[int, _Label], marks: Sequence[tuple[float, float]]) -> float:
        return sum(
            self._cost(label, i, marks, {j: each for j, each in labels.items() if j != i})
            for i, label in labels.items()
        )

    def _cost(
        self, label: _Label, index: int, marks: Sequence[tuple[float, float]], others: Mapping[int, _Label]
    ) -> float:
        """How badly a label stands for its mark, the one at `index`, among the labels of the others."""
        left, top, right, bottom = self._area
        box, own = label.box, marks[index]
        outside = max(0, left - box[0]) + max(0, box[2] - right) + max(0, top - box[1]) + max(0, box[3] - bottom)
        rest = [mark for i, mark in enumerate(marks) if i != index]
        # Nearer to another mark than to its own.
        mistaken = max(0.0, _distance(box, own) + 4 - min((_distance(box, mark) for mark in rest), default=math.inf))
        around = [(x - 7, y - 7, x + 7, y + 7) for x, y in marks]
        boxes = [each.box for each in others.values()]
        covered = sum(_shared(box, each) for each in [*around, *boxes])
        passed = [each for i, each in enumerate(around) if math.dist(marks[i], own) > FONT]
        crossed = sum(_within(_leader(label, own), each) for each in [*passed, *boxes])
        crossed += sum(_within(_leader(each, marks[j]), box) for j, each in others.items())
        return 50 * outside + covered + 20 * mistaken + 20 * crossed + 0.1 * abs(label.y - own[1] - 4)

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
        places += [(px, py + down, "middle")]
        places += [(px + aside, py + down, "start" if aside > 0 else "end") for aside in (8, -8, 30, -30)]
    begins = {"start": 0.0, "end": wide, "middle": wide / 2}
    return [
        _Label(x, y, anchor, (x - begins[anchor] - _GAP, y - FONT, x - begins[anchor] + wide + _GAP, y + 3))
        for x, y, anchor in places
    ]


def _leader(label: _Label, mark: tuple[float, float]) -> Segment | None:
    """The line from a label to its mark; None where it stands too near to need one."""
    left, top, right, bottom = label.box
    near = (min(max(mark[0], left), right), min(max(mark[1], top), bottom))
    return (near, mark) if math.dist(near, mark) > FONT else None


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


def _within(line: Segment | None, box: tuple[float, ...]) -> float:
    """The length of a line that lies in a rectangle (left, top, right, bottom): what Liang and Barsky clip it to."""
    if line is None:
        return 0.0
    begin, end = 0.0, 1.0
    for axis in (0, 1):
        start, along = line[0][axis], line[1][axis] - line[0][axis]
        low, high = box[axis] - start, box[axis + 2] - start
        if along == 0:
            if low > 0 or high < 0:
                return 0.0
            continue
        first, last = sorted((low / along, high / along))
        begin, end = max(begin, first), min(end, last)
    return max(0.0, end - begin) * math.dist(*line)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those for which no other is at once quicker (smaller x) and better (larger y), from the quickest on."""
    best, front = -math.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            front.append((x, y))
            best = y
    return front
