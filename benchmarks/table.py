"""Markdown tables out of the records: trackers, targets that vanish, and what each choice of a recipe is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.metrics import TITLES
from benchmarks.records import processors
from benchmarks.report import Entry, Findings, count, daggers, machines, timing
from benchmarks.results import ResultsError

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
"""What stands around the table in a file that it is written into."""


def markdown(findings: Findings) -> str:
    """The trackers, best first, as a Markdown table with a line that says what was measured on what; behind it, where
    records have that, what they do when their target vanishes, best at far returns first."""
    first = findings.entries[0].accuracy
    headline = first["headline"]
    columns = [headline, *(name for name in ("sr_50", "precision_20") if name != headline and name in first["metrics"])]
    lines = [
        _row("tracker", *(TITLES[name] for name in columns), "ms (median)", "frames/s", "MB"),
        _row("---", *["---:"] * (len(columns) + 3)),
    ]
    marked = daggers(findings.entries)
    for entry in findings.entries:
        values = (f"{100 * entry.accuracy['metrics'][name]:.1f}" for name in columns)
        lines.append(_row(entry.label, *values, *_times(entry, marked)))
    data = first["dataset"]
    threads = {entry.accuracy["threads"] for entry in findings.entries}
    number = threads.pop() if len(threads) == 1 else None
    used = "threads as recorded" if number is None else f"{number} thread{'s' * (number != 1)}"
    lines += [
        "",
        f"{data['name']}: {data['sequences']} sequences, {data['frames']} frames, protocol `{first['protocol']}`; "
        f"{machines(findings.entries, processors)}, {used}. {timing(findings.entries)} MB: graphs and weights.",
        *_vanishing([entry for entry in findings.entries if "loss" in entry.accuracy]),
    ]
    return "\n".join(lines) + "\n"


def ablations_markdown(record: dict[str, Any]) -> str:
    """The rows of an ablations record, with a line that says how they were trained."""
    columns = ("auc", "sr_50")
    lines = [
        _row("", *(TITLES[name] for name in columns), "held-out pairs: IoU", "AUROC"),
        _row("---", *["---:"] * (len(columns) + 2)),
    ]
    for row in record["rows"]:
        values = [*(row["metrics"][name] for name in columns), row["held_out"]["iou"], row["held_out"]["auroc"]]
        lines.append(_row(row["title"], *(f"{100 * value:.1f}" for value in values)))
    data = record["dataset"]
    lines += [
        "",
        f"{record['recipe']} with {', '.join(record['settings']) or 'nothing changed'}: {record['pairs']:,} pairs for "
        f"each row, from random weights; tracked on {data['name']}, {data['sequences']} sequences.",
    ]
    return "\n".join(lines) + "\n"


def write_into(path: Path, table: str) -> None:
    """Replace what stands between the two marks in a file.

    Raises:
        ResultsError: the marks are not there, in this order.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise ResultsError(f"{path}: no {BEGIN} followed by {END}, between which the table goes")
    path.write_text(f"{text[: begin + len(BEGIN)]}\n{table}{text[end:]}", encoding="utf-8")


def _vanishing(entries: list[Entry]) -> list[str]:
    if not entries:
        return []
    films, returns, views = (entries[0].accuracy["behaviour"][place]["returns"] for place in ("near", "far", "wide"))
    places = returns // max(films, 1)
    lines = [
        "",
        f"In the {films} of these films that have room for it elsewhere the target is painted over for 60 frames, and "
        f"comes back in its place (near) or elsewhere (far, at {places} place{'s' * (places != 1)} each). Wide: each "
        f"film is one of nine pictures in a frame, and another of them once the target is back ({views} times):",
        "",
        _row("tracker", "ok though gone", "found near", "found far", "found wide", "AUC near", "AUC far", "ECE far"),
        _row("---", *["---:"] * 7),
    ]
    for entry in sorted(entries, key=lambda entry: -entry.accuracy["behaviour"]["far"]["auc"]):
        near, far, wide = (entry.accuracy["behaviour"][place] for place in ("near", "far", "wide"))
        lines.append(
            _row(
                entry.label,
                f"{100 * entry.accuracy['loss']['gone_ok']:.0f}%",
                *(count(each["found"], each["returns"]) for each in (near, far, wide)),
                *(f"{100 * each['auc']:.1f}" for each in (near, far)),
                "–" if far["ece"] is None else f"{far['ece']:.3f}",
            )
        )
    return lines


def _times(entry: Entry, marked: dict[str, str]) -> tuple[str, str, str]:
    time, disk = entry.milliseconds, (entry.latency or {}).get("disk_bytes")
    size = f"{disk / 1e6:.1f}" if disk else "–"
    return ("–", "–", size) if not time else (f"{time:.1f}{marked[entry.timed]}", f"{1000 / time:.0f}", size)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
