"""One HTML page from JSON records: what to choose, and what the figures rest on. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import Dataset
from benchmarks.datasets import Sequence as Video
from benchmarks.metrics import TITLES
from benchmarks.precisions import PRECISIONS
from benchmarks.protocols import PROTOCOLS
from benchmarks.records import machine, processors
from benchmarks.results import ResultsError, read_track, track_path
from benchmarks.svg import Axis, Line, Plot, Point, key_mark, pareto
from edgetrack.imaging import import_cv2
from edgetrack.sources import read_image

SERIES = 8
"""Colours that can be told apart; plots show as many trackers, the best ones."""
WIDE, NARROW = 860, 340
MARKS = {
    "ours": "edgetrack, floating point",
    "ours int8": "edgetrack, INT8",
    "peer": "OpenCV",
    "reference": "PyTorch reference",
}
"""What the marks of a plot stand for: a shape is a kind of tracker, hollow is INT8."""
TIMED = {
    "latency": "latency, which tracks a drawn film",
    "accuracy": "the accuracy run over the sequences",
    "peers": "the peers run over the sequences",
}
"""Which records times are taken from, and how those were measured."""
_RUNTIMES = {"onnxruntime": "ort", "openvino": "ov"}
_DRAWN = 4
_STRIP, _STRIP_WIDTH = 5, 240


@dataclass
class Entry:
    """A tracker with all that the records say of it.

    Attributes:
        accuracy: what `benchmarks.accuracy.evaluate` returned, with kind, hardware and load of the record it is of.
        latency: content of a latency record of the same tracker with as many threads on the same machine, if there is
            one.
    """

    label: str
    accuracy: dict[str, Any]
    latency: dict[str, Any] | None = None
    style: str = field(default="", compare=False)

    @property
    def kind(self) -> str:
        """ours, peer or reference."""
        identity = self.accuracy["contender"]
        if identity["kind"] == "opencv":
            return "peer"
        return "reference" if str(identity.get("backend", "")).startswith("pytorch") else "ours"

    @property
    def mark(self) -> str:
        """How it is marked in a plot: its kind, and whether it runs in INT8."""
        variant = str(self.accuracy["contender"].get("precision")).partition("+")[0]
        return f"{self.kind} int8" if variant == "int8" else self.kind

    @property
    def headline(self) -> float:
        """The figure that trackers are ranked by, in percent."""
        return 100 * float(self.accuracy["metrics"][self.accuracy["headline"]])

    @property
    def milliseconds(self) -> float | None:
        """Median time of an update; from a latency record where there is one, else from the accuracy run."""
        source = self.latency or self.accuracy
        return source["update_ms"].get("p50")

    @property
    def timed(self) -> str:
        """The kind of record that the time is from."""
        return _kind(self.latency or self.accuracy)


@dataclass
class Findings:
    """The records, sorted by what they are about."""

    entries: list[Entry]
    parity: list[dict[str, Any]]
    realtime: list[dict[str, Any]]
    conditions: list[dict[str, Any]]
    ratios: list[dict[str, Any]]
    precisions: list[dict[str, Any]]
    ablations: list[dict[str, Any]]
    records: list[dict[str, Any]]


def gather(records: Sequence[dict[str, Any]]) -> Findings:
    """Sort records; of two on the same tracker the later one counts.

    Raises:
        ResultsError: no record has accuracies, or they are of different data or protocols and cannot be compared.
    """
    ordered = sorted(records, key=lambda r: r["date"])
    found: dict[str, list[dict[str, Any]]] = {}
    for each in ordered:
        found.setdefault(_kind(each), []).append(each)
    accuracies: dict[str, dict[str, Any]] = {}
    for content in (content for each in ordered for content in _accuracies(each)):
        key = _key(content)
        accuracies[key] = {**accuracies.get(key, {}), **content}
    if not accuracies:
        raise ResultsError("no accuracy or peers record among these; a report compares trackers by accuracy")
    bases = {(a["dataset"]["digest"], a["dataset"]["name"], a["protocol"]) for a in accuracies.values()}
    if len(bases) > 1:
        listed = "; ".join(f"{name} ({digest}) by {protocol}" for digest, name, protocol in sorted(bases))
        raise ResultsError(f"the records are of different data and cannot be compared: {listed}")
    latencies = {_timed(each): each for each in found.get("latency", ())}
    entries = [
        Entry(content["contender"]["label"], content, latencies.get(_timed(content))) for content in accuracies.values()
    ]
    entries.sort(key=lambda entry: -entry.headline)
    for index, entry in enumerate(entries):
        entry.style = f"s{index}" if index < SERIES else ""
    others = (found.get(kind, []) for kind in ("parity", "realtime", "conditions", "ratios", "precisions", "ablations"))
    return Findings(entries, *others, ordered)


def _kind(record: dict[str, Any]) -> str:
    return str(record["schema"].rpartition(".")[2])


def _accuracies(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What a record says of the accuracy of trackers, each with the kind of record, the hardware and its load."""
    told = {name: record[name] for name in ("schema", "hardware", "load_average")}
    contents = record["contenders"] if _kind(record) == "peers" else [record]
    return [told | content for content in contents if "headline" in content and "contender" in content]


def _key(content: dict[str, Any]) -> str:
    identity = {name: value for name, value in content["contender"].items() if name != "label"}
    return repr(sorted(identity.items()))


def _timed(content: dict[str, Any]) -> tuple[str, int | None, str]:
    """What times belong to: a tracker, with so many threads, on a machine."""
    return _key(content), content["threads"], machine(content["hardware"])


def machines(entries: Sequence[Entry], words: Callable[[dict[str, Any]], str]) -> str:
    """What the trackers ran on, in words: all of it where they did not run on the same."""
    return "; ".join(dict.fromkeys(words(entry.accuracy["hardware"]) for entry in entries))


def daggers(entries: Sequence[Entry]) -> dict[str, str]:
    """What marks a time, by the kind of record that it is from: those of one kind need no mark."""
    kinds = [kind for kind in TIMED if any(entry.milliseconds and entry.timed == kind for entry in entries)]
    return dict(zip(kinds, ("", "†", "‡"), strict=False))


def timing(entries: Sequence[Entry]) -> str:
    """Where the times are from: a sentence that goes with their marks. Empty if there are none."""
    marked = daggers(entries)
    told = "; ".join(f"{mark} {TIMED[kind]}".lstrip() for kind, mark in marked.items())
    return f"Times are from {told}." if marked else ""


def _taken_busy(findings: Findings) -> int:
    """How many trackers, ratios and precisions were timed while the machine had more to do than it has cores."""
    sources = [entry.latency or entry.accuracy for entry in findings.entries if entry.milliseconds]
    sources += findings.ratios + findings.precisions
    return sum((each.get("timed") or each)["load_average"] > each["hardware"]["cores"] for each in sources)


def render(findings: Findings, title: str = "Trackers on this device", dataset: Dataset | None = None) -> str:
    """The page. With a dataset, sequences are shown in frames of it: such a page holds its pictures."""
    entries = findings.entries
    base = entries[0].accuracy
    data = base["dataset"]
    style = (Path(__file__).parent / "report.css").read_text()
    warning = ""
    if busy := _taken_busy(findings):
        warning = (
            f'<p class="soft">The machine had other work (load above its cores) when times of {busy} of what is timed '
            "here were taken: these are not the device's alone.</p>"
        )
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(machines(entries, machine))}. {escape(data["name"])}: '
        f"{data['sequences']} sequences, {data['frames']} frames, protocol {escape(base['protocol'])}.</p>",
        warning,
        _overview(entries),
        _table(entries),
        _curves(entries),
        _losses(entries),
        _realtime(findings.realtime),
        _conditions(findings.conditions),
        _parity(findings.parity),
        _ratios(findings.ratios),
        _precisions(findings.precisions),
        _ablations(findings.ablations),
        _attributes(entries),
        _sequences(entries, dataset),
        _sources(findings.records),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _both(draw: Callable[[int, int], str], wide: int = WIDE, height: int = 420, below: str = "") -> str:
    """A plot drawn for a desktop and for a phone, there with something below; the page shows the one that fits."""
    narrow = draw(NARROW, min(height, 320))
    return f'<div class="wide">{draw(wide, height)}</div><div class="narrow">{narrow}{below}</div>'


def _overview(entries: Sequence[Entry]) -> str:
    shown = [entry for entry in entries if entry.milliseconds]
    if not shown:
        return ""
    times = [float(entry.milliseconds or 0) for entry in shown]
    values = [entry.headline for entry in shown]
    x = Axis(min(times) / 1.6, max(times) * 4, "milliseconds a frame (median, fewer is better)", log=True)
    low = max(0.0, 10 * np.floor(min(values) / 10) - 5)
    y = Axis(low, min(100.0, 10 * np.ceil(max(values) / 10) + 5), f"{_name(entries)} in percent")
    front = pareto(list(zip(times, values, strict=True)))
    marked = daggers(entries)

    def draw(width: int, height: int) -> str:
        plot = Plot(x, y, width, height, f"{_name(entries)} against latency")
        if len(front) > 1:
            plot.line(Line(front, "no other is both quicker and better", ""), "front")
        plot.points(
            [
                Point(
                    time,
                    entry.headline,
                    f"{_short(entry.label) if width > 500 else number}{marked[entry.timed]}",
                    f"{entry.label}: {entry.headline:.1f} at {time:.2f} ms ({1000 / time:.0f} frames a second)",
                    entry.mark,
                )
                for number, (entry, time) in enumerate(zip(shown, times, strict=True), 1)
            ]
        )
        return plot.svg()

    # A phone has no room for names beside the marks: there they are numbered.
    numbered = "".join(
        f'<li class="{entry.mark}">{key_mark(entry.mark)} {escape(_short(entry.label))}: <b>{entry.headline:.1f}</b>, '
        f"{time:.2f}{marked[entry.timed]} ms</li>"
        for entry, time in zip(shown, times, strict=True)
    )
    marks = {entry.mark for entry in shown}
    key = "".join(
        f'<li class="{mark}">{key_mark(mark)} <span>{name}</span></li>' for mark, name in MARKS.items() if mark in marks
    )
    runtimes = {name: short for name, short in _RUNTIMES.items() if any(f" on {name}-" in e.label for e in shown)}
    key += "".join(f"<li><span>{short}: {name}</span></li>" for name, short in runtimes.items())
    line = " Nothing is both quicker and better than what is on the broad line." if len(front) > 1 else ""
    return (
        f"<h2>Accuracy against latency</h2><p>Up and to the left is better.{line} {escape(timing(entries))}</p>"
        f'<figure>{_both(draw, below=f"<ol>{numbered}</ol>")}<ul class="key">{key}</ul></figure>'
    )


def _name(entries: Sequence[Entry]) -> str:
    return TITLES[entries[0].accuracy["headline"]]


def _short(label: str) -> str:
    """A label for where there is little room: without the long names of runtimes and whose tracker it is."""
    for name, short in _RUNTIMES.items():
        label = label.replace(f" on {name}-", f" {short}-")
    return label.removeprefix("OpenCV ")


def _table(entries: Sequence[Entry]) -> str:
    metrics = [name for name in entries[0].accuracy["metrics"] if name in TITLES]
    head = [
        "tracker",
        *(TITLES[name] for name in metrics),
        "ms",
        "frames/s",
        "threads",
        "MB",
        "MiB at most",
        "mJ/frame",
    ]
    rows, marked = [], daggers(entries)
    best = {name: max((_number(e.accuracy["metrics"][name]) for e in entries), default=0) for name in metrics}
    for entry in entries:
        cells = [escape(entry.label)]
        for name in metrics:
            value = entry.accuracy["metrics"][name]
            cells.append((_percent(value), "best" if _number(value) == best[name] else ""))  # type: ignore[arg-type]
        time, latency = entry.milliseconds, entry.latency or {}
        joules = (latency.get("energy") or {}).get("joules_per_frame")
        cells += [
            "–" if not time else f"{time:.2f}{marked[entry.timed]}",
            "–" if not time else f"{1000 / time:.0f}",
            str(entry.accuracy.get("threads") or "auto"),
            f"{latency['disk_bytes'] / 1e6:.1f}" if "disk_bytes" in latency else "–",
            f"{latency['memory_mib']['peak'] - latency['memory_mib']['before']:.0f}" if latency else "–",
            f"{1e3 * joules:.1f}" if joules else "–",
        ]
        rows.append(cells)
    # A column of dashes takes the room of one that says something.
    told = [column for column in range(len(head)) if any(row[column] != "–" for row in rows)]
    return _tabulate(
        [head[column] for column in told],
        [[row[column] for column in told] for row in rows],
        f"Accuracy in percent, best in bold. {timing(entries)} MiB: added to the process by loading and running.",
    )


def _number(value: Any) -> float:
    return -1.0 if value is None else float(value)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _tabulate(head: Iterable[str], rows: Iterable[Iterable[Any]], caption: str = "") -> str:
    """A table; a cell is HTML, or HTML and a class. Above a column of words its head begins where they do."""
    marked = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
    kinds = [kind if kind == "words" else "" for _, kind in marked[0]] if marked else []
    top = "".join(_tagged("th", escape(text), kind) for text, kind in zip_longest(head, kinds, fillvalue=""))
    body = "".join(f"<tr>{''.join(_tagged('td', *cell) for cell in row)}</tr>" for row in marked)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>' + (f'<p class="soft">{escape(caption)}</p>' if caption else "")


def _tagged(tag: str, text: str, kind: str) -> str:
    return f'<{tag} class="{kind}">{text}</{tag}>' if kind else f"<{tag}>{text}</{tag}>"


def _legend(entries: Sequence[Entry], figure: Callable[[Entry], str]) -> str:
    items = "".join(
        f'<li class="{entry.style}"><i></i><span>{escape(entry.label)} <b>{figure(entry)}</b></span></li>'
        for entry in entries
    )
    return f'<ul class="key">{items}</ul>'


def _curves(entries: Sequence[Entry]) -> str:
    shown = [entry for entry in entries if entry.style and entry.accuracy.get("curves")]
    if not shown:
        return ""
    figures = []
    for name, title, axis, figure in (
        ("success", "Success", "overlap above", "auc"),
        ("precision", "Precision", "centre within (pixels)", "precision_20"),
    ):
        end = shown[0].accuracy["curves"][name]["thresholds"][-1]
        x, y = Axis(0, end, axis), Axis(0, 100, "percent of frames")

        def draw(width: int, height: int, name: str = name, title: str = title, x: Axis = x, y: Axis = y) -> str:
            plot = Plot(x, y, width, height, f"{title} plot")
            drawn: list[list[float]] = []
            for entry in reversed(shown):  # the best on top
                curve = entry.accuracy["curves"][name]
                values = [100 * v for v in curve["values"]]
                # Dashed where it would hide one that is the same.
                twin = any(max(abs(a - b) for a, b in zip(values, other, strict=True)) < 0.5 for other in drawn)
                line = Line(list(zip(curve["thresholds"], values, strict=True)), entry.label, entry.style)
                plot.line(line, "line twin" if twin else "line")
                drawn.append(values)
            return plot.svg()

        legend = _legend(shown, lambda entry, figure=figure: _percent(entry.accuracy["metrics"][figure]))
        figures.append(f"<figure><figcaption>{title}</figcaption>{_both(draw, 420, 320)}{legend}</figure>")
    more = f" The best {SERIES} are shown." if len(entries) > SERIES else ""
    return f'<h2>Success and precision</h2><p class="soft">{more}</p><div class="pair">{"".join(figures)}</div>'


def _losses(entries: Sequence[Entry]) -> str:
    with_loss = [entry for entry in entries if entry.accuracy.get("loss")]
    if not with_loss:
        return ""
    rows, trust = [], []
    for entry in with_loss:
        loss, behaviour = entry.accuracy["loss"], entry.accuracy["behaviour"]
        near, far, wide = (behaviour[place] for place in ("near", "far", "wide"))
        rows.append(
            [
                escape(entry.label),
                _percent(loss["gone_ok"]),
                " / ".join(_decimal(loss[name]) for name in ("score_seen", "score_gone")),
                *(count(each["found"], each["returns"]) for each in (near, far, wide)),
                " / ".join(_decimal(each["frames_to_find"], 0) for each in (near, far, wide)),
                " / ".join(_decimal(far["update_ms"].get(name), 0) for name in ("p99", "max")),
            ]
        )
        cells = [escape(entry.label)]
        for each in behaviour.values():
            cells += [_percent(each["max_gm"]), _percent(each["auroc"]), _percent(each["ece"])]
        trust.append(cells)
    head = [
        "tracker",
        "ok though gone",
        "score seen / gone",
        "found near",
        "found far",
        "found wide",
        "frames to find",
        "ms p99 / max",
    ]
    places = {"given": "as it is", "near": "near", "far": "far", "wide": "wide"}
    measures = [
        f"{name}, {places[place]}" for place in with_loss[0].accuracy["behaviour"] for name in ("GM", "AUROC", "ECE")
    ]
    return (
        "<h2>When the target is gone</h2>"
        + _tabulate(
            head,
            rows,
            "Real sequences in which the target is painted over for 60 frames and is then back, in its place (near) or "
            "elsewhere in the frame, beyond a local tracker's reach (far), or the film, one of nine pictures in a "
            "frame, is in another place (wide). Ok though gone: percent of the frames without it, near. Frames to "
            "find: the median, near / far / wide. Times are of far.",
        )
        + _tabulate(
            ["tracker", *measures],
            trust,
            "What the score is worth, in percent, on the dataset as it is and on those sequences. GM: best geometric "
            "mean of seen targets found and absent ones denied (OxUvA). AUROC: chance that a right box scores higher "
            "than a wrong one; 50 is a coin. ECE: expected calibration error; less is better.",
        )
    )


def count(share: float | None, of: int) -> str:
    """A share of so many as a number of them; a dash for one that there is not."""
    return "–" if share is None else f"{round(share * of)} of {of}"


def _decimal(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _realtime(records: Sequence[dict[str, Any]]) -> str:
    figures = []
    for record in records:
        headline = PROTOCOLS[record["protocol"]].headline
        rates = sorted({entry["fps"] for entry in record["entries"]})
        lines = []
        for index, fps in enumerate(rates):
            points = sorted(
                (entry["latency_ms"] or entry["update_ms"]["p50"], 100 * entry["metrics"][headline])
                for entry in record["entries"]
                if entry["fps"] == fps
            )
            lines.append(Line(points, f"{fps:g} frames a second", f"s{index}"))
        longest = max(x for line in lines for x, _ in line.points)
        if longest <= 0 or all(len(line.points) < 2 for line in lines):
            continue
        x = Axis(0, 1.05 * longest, "latency in milliseconds")
        y = Axis(0, 100, f"{TITLES[headline]} in percent")

        shown = [(line, "line") for line in lines]
        shown += [
            (
                Line([(time, 0), (time, 100)], f"{time:.2f} ms, measured at {entry['fps']:g} frames a second", ""),
                "measured",
            )
            for entry in record["entries"]
            if entry["latency_ms"] is None and (time := entry["update_ms"]["p50"])
        ]

        def draw(width: int, height: int, shown: list[tuple[Line, str]] = shown, x: Axis = x, y: Axis = y) -> str:
            plot = Plot(x, y, width, height, "Real-time accuracy against latency")
            for line, kind in shown:
                plot.line(line, kind)
            return plot.svg()

        key = "".join(f'<li class="{line.style}"><i></i><span>{line.label}</span></li>' for line in lines)
        title = f"{record['contender']['label']}, tracking {_data(record)}; {machine(record['hardware'])}"
        figures.append(
            f"<figure><figcaption>{escape(title)}</figcaption>"
            f'{_both(draw, WIDE, 280)}<ul class="key">{key}</ul></figure>'
        )
    if not figures:
        return ""
    return (
        "<h2>When the camera does not wait</h2><p>A frame must be answered before the next arrives; a slow tracker "
        f"misses frames. The dashed lines stand at the latency that was measured.</p>{''.join(figures)}"
    )


def _conditions(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return ""
    head = ["", f"{TITLES['auc']} (%)", "right, called lost (%)", "wrong, called ok (%)"]
    parts = []
    for record in records:
        rows = [
            [escape(entry["condition"]), *(_percent(entry[name]) for name in ("auc", "right_lost", "wrong_ok"))]
            for entry in record["entries"]
        ]
        parts.append(_tabulate(head, rows, f"{record['contender']['label']}, tracking {_data(record)}."))
    return (
        "<h2>When the picture changes</h2><p>From frame 31 on the camera balances white otherwise, there is other "
        "light or shade, noise or another focus, or it compresses more. Boxes that overlap the target by more than "
        "half are right.</p>"
        f"{''.join(parts)}"
    )


def _data(record: dict[str, Any]) -> str:
    """The name of a record's dataset, which is all that older ones hold of it."""
    data = record["dataset"]
    return str(data if isinstance(data, str) else data["name"])


def _parity(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return ""
    parts = []
    for record in records:
        rows = []
        for entry in record["entries"]:
            name = f"{entry['precision']} on {entry['backend']}"
            if "refused" in entry:
                rows.append([escape(name), "–", "–", "–", "–", (escape(entry["refused"]), "words")])
                continue
            differences = [value for values in entry["tensors"].values() for value in values.values()]
            broken = "; ".join(entry["broken"]) or "passed"
            rows.append(
                [
                    escape(name),
                    "not finite" if None in differences else f"{max(differences):.1e}",
                    _percent(entry["equal_boxes"]),
                    _percent(entry["box_error"]["p95"], 3),
                    "–" if entry.get("auc_drop") is None else f"{100 * entry['auc_drop']:+.2f}",
                    (escape(broken), "words"),
                ]
            )
        head = ["", "worst tensor", "same box (%)", "box error p95 (% of crop)", "AUC drop", "limits"]
        reference = record["reference"]
        parts.append(
            _tabulate(
                head,
                rows,
                f"{record['model']} against the trained model on {reference['backend']} in float32, TF32 off, on "
                f"{record['dataset']['crops']} crops of {_data(record)}; {machine(record['hardware'])}.",
            )
        )
    return f"<h2>Is it the trained model?</h2>{''.join(parts)}"


def decoding(entry: dict[str, Any]) -> list[str]:
    """The three ways to decode as shares of encoding. Fused decoding is a difference, which noise may hide."""
    shares = entry["of_encoding"]
    lowest = entry["fused_quartiles"][0] if "fused_quartiles" in entry else shares["fused"]  # older records have none
    fused = f"{shares['fused']:.2f}" if lowest > 0 else "below noise"
    return [f"{shares['naive']:.2f}", f"{shares['cached']:.2f}", fused]


def _ratios(records: Sequence[dict[str, Any]]) -> str:
    head = ["", "naive", "cached", "fused", "isolated / joint templates"]
    parts = []
    for record in records:
        rows = [
            [
                escape(f"{entry['preset']} on {entry['backend']}"),
                *decoding(entry),
                f"{entry['isolated_of_joint']:.2f}",
            ]
            for entry in record["entries"]
        ]
        caption = (
            "Time to decode four tokens as a share of encoding; encoding with isolated as a share of joint templates. "
            "Fused decoding is the frame's graph less encoding; below noise: not to be told from nothing. "
            f"{processors(record['hardware'])}, {record['date'][:10]}."
        )
        parts.append(_tabulate(head, rows, caption))
    return f"<h2>What caching saves</h2>{''.join(parts)}" if parts else ""


def _precisions(records: Sequence[dict[str, Any]]) -> str:
    parts = []
    for record in sorted(records, key=lambda record: str(record["date"]), reverse=True):
        entries = record["entries"]
        names = [name for name in PRECISIONS[1:] if any(name in entry["of_fp32"] for entry in entries)]
        rows = [
            [
                escape(f"{entry['model']} on {entry['backend']}"),
                f"{entry['milliseconds']['fp32']:.1f}",
                *(f"{entry['of_fp32'][name]:.2f}" if name in entry["of_fp32"] else "" for name in names),
                _percent(entry["bytes"]["int8"] / entry["bytes"]["fp32"]) if "int8" in entry["bytes"] else "",
            ]
            for entry in entries
        ]
        head = ["", "fp32, ms", *(f"{name} / fp32" for name in names), "bytes, int8 / fp32, %"]
        parts.append(
            _tabulate(
                head,
                rows,
                "Time of the graph that answers a frame, run in turns, and the bytes of the files. "
                f"{processors(record['hardware'])}, {record['date'][:10]}.",
            )
        )
    return f"<h2>What a precision saves</h2>{''.join(parts)}" if parts else ""


def _ablations(records: Sequence[dict[str, Any]]) -> str:
    parts = []
    for record in records:
        rows = [
            [
                escape(row["title"]),
                _percent(row["metrics"]["auc"]),
                _percent(row["metrics"]["sr_50"]),
                _percent(row["held_out"]["iou"]),
            ]
            for row in record["rows"]
        ]
        caption = (
            f"{record['recipe']}, {record['pairs']:,} pairs for each row, from random weights; tracked on "
            f"{_data(record)}, {record['dataset']['sequences']} sequences; {machine(record['hardware'])}. In percent."
        )
        parts.append(_tabulate(["", "AUC", "SR.50", "IoU on held-out pairs"], rows, caption))
    return f"<h2>What each choice is worth</h2>{''.join(parts)}" if parts else ""


def _attributes(entries: Sequence[Entry]) -> str:
    groups = entries[0].accuracy.get("attributes") or {}
    if not groups:
        return ""
    headline = entries[0].accuracy["headline"]
    rows = []
    for entry in entries:
        values = [entry.accuracy["attributes"][name]["metrics"][headline] for name in groups]
        rows.append([escape(entry.label), *(_cell(value) for value in values)])
    head = ["tracker", *(f"{name} ({group['sequences']})" for name, group in groups.items())]
    return (
        f"<h2>By what makes it hard</h2>{_tabulate(head, rows, f'{_name(entries)} in percent; sequences in brackets.')}"
    )


def _cell(value: float | None) -> tuple[str, str]:
    """A figure on a ground as strong as the figure is high."""
    if value is None:
        return "–", ""
    return f"{100 * value:.1f}", f'cell" style="--v:{value:.3f}'


def _sequences(entries: Sequence[Entry], dataset: Dataset | None) -> str:
    headline = entries[0].accuracy["headline"]
    names = [sequence["name"] for sequence in entries[0].accuracy["sequences"]]
    by_entry = [{s["name"]: s for s in entry.accuracy["sequences"]} for entry in entries]
    rows = []
    for name in names:
        values = [each[name]["metrics"][headline] if name in each else None for each in by_entry]
        rows.append([escape(name), *(_cell(value) for value in values)])
    head = ["sequence", *(_short(entry.label) for entry in entries)]
    table = _tabulate(head, rows, f"{_name(entries)} in percent.")
    strips = ""
    if dataset is not None:
        shown, missing = drawn(entries, dataset)
        strips = "".join(_strip(video, shown, headline) for video in dataset.sequences if video.name in names)
        note = "Frames with the truth dashed and the boxes of the best trackers." if shown else "Frames with the truth."
        if missing:
            note += f" Raw results are not here of: {', '.join(entry.label for entry in missing)}."
        strips = f'<p class="soft">{escape(note)}</p>{_legend(shown, lambda entry: "")}{strips}'
    return f"<h2>Sequence by sequence</h2>{table}{strips}"


def drawn(entries: Sequence[Entry], dataset: Dataset) -> tuple[list[Entry], list[Entry]]:
    """The best trackers, whose boxes are drawn, and those of them that cannot be: their raw results are elsewhere."""
    shown: list[Entry] = []
    missing: list[Entry] = []
    for entry in entries[:_DRAWN]:
        folder = Path(entry.accuracy["results"])
        found = any(track_path(folder, video.name) for video in dataset.sequences)
        (shown if found else missing).append(entry)
    return shown, missing


def _strip(video: Video, entries: Sequence[Entry], headline: str) -> str:
    """Frames of a sequence with boxes, to be unfolded."""
    cv2 = import_cv2()
    tracks = {
        entry.style: read_track(folder, video.name).boxes
        for entry in entries
        if track_path(folder := Path(entry.accuracy["results"]), video.name)
    }
    pictures = []
    for index in np.linspace(0, len(video.frames) - 1, _STRIP).round().astype(int):
        frame = read_image(video.frames[index])
        height, width = frame.shape[:2]
        small = cv2.resize(
            frame, (_STRIP_WIDTH, max(1, round(_STRIP_WIDTH * height / width))), interpolation=cv2.INTER_AREA
        )
        data = base64.b64encode(cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 75))[1].tobytes()).decode()
        boxes = [("truth", video.truth[index]), *((style, boxes[index]) for style, boxes in tracks.items())]
        rectangles = "".join(
            f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
            for style, (x, y, w, h) in boxes
            if np.isfinite((x, y, w, h)).all() and w > 0 and h > 0
        )
        pictures.append(
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="frame {index}">'
            f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>{rectangles}</svg>'
        )
    values = []
    for entry in entries:
        found = next((s for s in entry.accuracy["sequences"] if s["name"] == video.name), None)
        value = _percent(found["metrics"][headline]) if found else "–"
        values.append(f'<b class="{entry.style}" title="{escape(entry.label, quote=True)}">{value}</b>')
    summary = f'{escape(video.name)}<span class="values">{"".join(values)}</span>'
    return f'<details><summary>{summary}</summary><div class="strip">{"".join(pictures)}</div></details>'


def _sources(records: Sequence[dict[str, Any]]) -> str:
    items = []
    for record in records:
        hardware = record["hardware"]
        facts = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        items.append(
            f"<details><summary>{escape(_kind(record))}, {escape(record['date'])}</summary>"
            f"<p><code>{escape(record['command'])}</code></p>"
            f'<p class="soft">{escape(machine(hardware))}, {hardware["memory_gib"]} GiB, '
            f"{escape(hardware['system'])}, load {record['load_average']}; {escape(facts)}</p></details>"
        )
    return f"<h2>What this rests on</h2><p>Each record with the command that made it.</p>{''.join(items)}"
