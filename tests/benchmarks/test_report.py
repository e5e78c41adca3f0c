"""The page: what is gathered, the plots' arithmetic, and the page itself in a real browser, if there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import report
from benchmarks.cli import app
from benchmarks.records import read, record, write
from benchmarks.report import gather, render
from benchmarks.results import ResultsError
from benchmarks.svg import Axis, Plot, Point, pareto
from benchmarks.table import BEGIN, END, ablations_markdown, markdown, write_into


def of(processor: str, content: dict) -> dict:
    """A record as of another machine."""
    return {**content, "hardware": {**content["hardware"], "processor": processor}}


def accuracy(label: str, auc: float, milliseconds: float, date: str = "2026-01-01", **identity: object) -> dict:
    """A record as `accuracy` writes it, of two sequences."""
    metrics = {"auc": auc, "precision_20": auc, "sr_50": auc}
    thresholds = {"success": [0.0, 0.5, 1.0], "precision": [0.0, 25.0, 50.0]}
    sequence = {"frames": 10, "absent": 0, "attributes": [], "metrics": metrics, "update_ms": {"p50": milliseconds}}
    return {
        **record("accuracy"),
        "date": date,
        "contender": {"label": label, "kind": "edgetrack", "name": label, **identity},
        "threads": 1,
        "dataset": {"name": "drawn", "sequences": 2, "frames": 20, "digest": "abc"},
        "protocol": "ope",
        "headline": "auc",
        "metrics": metrics,
        "curves": {name: {"thresholds": t, "values": [1.0, auc, 0.0]} for name, t in thresholds.items()},
        "sequences": [{"name": name, **sequence} for name in ("one", "two")],
        "attributes": {"OCC": {"sequences": 1, "metrics": metrics}},
        "update_ms": {"p50": milliseconds},
        "results": "nowhere",
    }


def test_pareto_keeps_what_nothing_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.5, 0.7), (3.0, 0.8), (9.0, 0.9)]
    assert pareto(points) == [(1.0, 0.5), (2.5, 0.7), (3.0, 0.9)]


def test_axes_have_round_ticks_in_range() -> None:
    assert Axis(0, 1, "").ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Axis(25, 75, "").ticks() == [30, 40, 50, 60, 70]
    assert Axis(3, 60, "", log=True).ticks() == [5, 10, 20, 50]
    assert Axis(0.1, 1000, "", log=True).place(10) == pytest.approx(0.5)


def test_labels_of_close_marks_do_not_cover_each_other() -> None:
    plot = Plot(Axis(0, 10, "x"), Axis(0, 10, "y"), 600, 300, "t")
    plot.points([Point(5 + i / 50, 5, f"tracker number {i}", "", "ours") for i in range(4)])
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">tracker', plot.svg())
    assert len(set(places)) == 4
    rows = sorted(float(y) for _, y, anchor in places if anchor == "start")
    assert all(later - earlier >= 12 for earlier, later in pairwise(rows))


def boxes_of_labels(svg: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of the text beside each mark, by a generous guess of its width."""
    found = []
    for x, y, anchor, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)</text></g>', svg
    ):
        left = float(x) - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * 6.4 * len(text)
        found.append((left, float(y) - 10, left + 6.4 * len(text), float(y) + 3))
    return found


SIXTEEN = {
    "seqtrack-nano int8 ov-cpu": (3.28, 72.6),
    "seqtrack-nano + vtt-nano int8 ort-cpu": (4.36, 72.4),
    "seqtrack-nano bf16 ov-cpu": (3.43, 72.3),
    "seqtrack-nano int8 ort-cpu": (3.6, 72.3),
    "seqtrack-nano fp32 ort-cpu": (6.92, 72.3),
    "seqtrack-nano fp32 ov-cpu": (6.13, 72.3),
    "TrackerNano (nanotrackv2)": (6.0, 69.5),
    "CSRT": (17.75, 60.3),
    "TrackerNano (nanotrackv1)": (6.47, 57.6),
    "vtt-nano fp32 ort-cpu": (25.7, 56.8),
    "vtt-nano fp32 ov-cpu": (23.76, 56.8),
    "vtt-nano int8 ov-cpu": (13.14, 56.7),
    "vtt-nano int8 ort-cpu": (17.07, 56.3),
    "MIL": (16.63, 41.8),
    "KCF": (2.37, 39.8),
    "MOSSE": (0.07, 33.7),
}
TWELVE = {
    "TrackerNano (nanotrackv2)": (6.3, 69.5),
    "seqtrack-nano + vtt-nano fp32 ort-cpu": (4.0, 64.1),
    "seqtrack-nano fp32 ort-cpu": (3.8, 63.4),
    "seqtrack-nano fp32 ov-cpu": (3.4, 63.4),
    "seqtrack-nano int8 ov-cpu": (1.9, 61.6),
    "seqtrack-nano int8 ort-cpu": (2.6, 61.2),
    "CSRT": (19.0, 60.3),
    "TrackerNano (nanotrackv1)": (7.2, 57.6),
    "MIL": (20.0, 43.4),
    "vtt-nano fp32 ort-cpu": (15.0, 41.0),
    "KCF": (3.1, 39.8),
    "MOSSE": (0.25, 33.7),
}


@pytest.mark.parametrize(("width", "numbers"), [(860, False), (340, True)])
@pytest.mark.parametrize(
    ("crowd", "x", "y"),
    [
        (TWELVE, Axis(0.15, 44, "x", log=True), Axis(25, 75, "y")),
        (SIXTEEN, Axis(0.042, 103, "x", log=True), Axis(25, 85, "y")),
        (SIXTEEN, Axis(0.042, 57, "x", log=True), Axis(25, 85, "y")),
    ],
)
def test_a_crowd_can_be_read(crowd: dict, x: Axis, y: Axis, width: int, numbers: bool) -> None:
    """A model in some precisions on two runtimes, a second one, both together, and peers; numbered on a phone."""
    plot = Plot(x, y, width, 320 if numbers else 420, "t")
    points = [Point(*at, str(i) if numbers else name, "", "ours") for i, (name, at) in enumerate(crowd.items(), 1)]
    plot.points(points)
    labels = boxes_of_labels(plot.svg())
    assert len(labels) == len(crowd)
    marks = [plot.at(*at) for at in crowd.values()]
    for i, (left, top, right, bottom) in enumerate(labels):
        assert left > 40
        assert right < width
        for other in labels[:i]:  # side by side with a gap between them
            assert right + 4 <= other[0] or other[2] + 4 <= left or bottom <= other[1] or other[3] <= top
        assert not any(left < x < right and top < y < bottom for x, y in marks)
    for line in re.findall(r'class="leader" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', plot.svg()):
        ends = np.asarray(line, float).reshape(2, 2)
        along = ends[:1] + np.linspace(0, 0.97, 200)[:, None] * (ends[1:] - ends[:1])  # up to its own label
        for left, top, right, bottom in labels:
            assert not ((along > (left, top)) & (along < (right, bottom))).all(axis=1).any()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_colours_of_trackers_can_be_told_apart(theme: str) -> None:
    light, dark = (Path(report.__file__).parent / "report.css").read_text().split("@media", 2)[:2]
    found = re.findall(r"--s\d: #(\w\w)(\w\w)(\w\w)", light if theme == "light" else dark)
    assert len(found) == report.SERIES
    colours = np.asarray([[int(part, 16) / 255 for part in reversed(colour)] for colour in found], np.float32)
    lab = cv2.cvtColor(colours[None], cv2.COLOR_BGR2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=2)
    assert apart[np.triu_indices(len(lab), 1)].min() > 32


def test_int8_is_marked_as_such() -> None:
    names = ("fp32", "int8", "int8+bf16")
    fp32, *int8 = (accuracy(f"a {name} on openvino-cpu", 0.5, 5.0, precision=name) for name in names)
    assert [entry.mark for entry in gather([fp32, *int8]).entries] == ["ours", "ours int8", "ours int8"]
    assert "edgetrack, INT8" in render(gather([fp32, *int8]))
    assert "edgetrack, INT8" not in render(gather([fp32]))


def test_the_latest_record_of_a_tracker_counts_and_its_latency_is_found() -> None:
    latency = {**record("latency"), "threads": 1, "contender": accuracy("a", 0, 0)["contender"]}
    latency |= {"update_ms": {"p50": 4.0}}
    found = gather([accuracy("a", 0.6, 9.0, "2026-01-02"), accuracy("a", 0.2, 9.0, "2026-01-01"), latency])
    (entry,) = found.entries
    assert entry.headline == pytest.approx(60)
    assert entry.milliseconds == 4.0


def test_a_latency_of_other_threads_or_another_machine_is_not_the_trackers() -> None:
    latency = {**record("latency"), "contender": accuracy("a", 0, 0)["contender"], "update_ms": {"p50": 4.0}}
    for other in (of("A board", {**latency, "threads": 1}), {**latency, "threads": 8}):
        (entry,) = gather([accuracy("a", 0.6, 9.0), other]).entries
        assert entry.latency is None
        assert entry.milliseconds == 9.0


def test_the_machines_named_are_those_that_ran_the_trackers() -> None:
    """Not that of whichever record came last."""
    ran, other = of("A board", accuracy("a", 0.6, 9.0)), of("A server", accuracy("b", 0.5, 9.0, "2026-01-02", number=2))
    last = of("A desktop", {**record("ratios"), "entries": []})
    cores = last["hardware"]["cores"]
    assert f"A board, {cores} cores. drawn: 2 sequences" in render(gather([ran, last]))
    assert "`ope`; A board, 1 thread." in markdown(gather([ran, last]))
    assert f"A board, {cores} cores; A server, {cores} cores. drawn" in render(gather([ran, other, last]))
    assert "`ope`; A board; A server, 1 thread." in markdown(gather([ran, other, last]))


def test_where_times_are_from_is_said_and_marked() -> None:
    """Those of `peers` are of other frames and another load than those of `latency`."""
    own, rival = accuracy("a", 0.5, 5.0), accuracy("b", 0.25, 8.0, number=2)
    rivals = {**record("peers"), "contenders": [{k: v for k, v in rival.items() if k not in ("schema", "hardware")}]}
    latency = {**record("latency"), "threads": 1, "contender": own["contender"], "update_ms": {"p50": 4.0}}
    latency |= {"disk_bytes": 12.34e6, "memory_mib": {"peak": 2, "before": 1}}
    (mixed, alone) = gather([own, rivals, latency]), gather([own])
    told = "Times are from latency, which tracks a drawn film; † the peers run over the sequences."
    assert "| b | 25.0 | 25.0 | 25.0 | 8.0† | 125 | – |" in markdown(mixed)
    assert "| a | 50.0 | 50.0 | 50.0 | 4.0 | 250 | 12.3 |" in markdown(mixed)
    assert markdown(mixed).endswith(f"1 thread. {told} MB: graphs and weights.\n")
    assert render(mixed).count(told) == 2  # with the plot and with the table
    assert "<td>8.00†</td>" in render(mixed)
    assert "†" not in render(alone)
    assert "Times are from the accuracy run over the sequences." in render(alone)


def realtime(data: object) -> dict:
    entries = [
        {"fps": fps, "latency_ms": ms, "update_ms": {"p50": 5.0}, "metrics": {"auc": 0.5 - (ms or 5) / 1000}}
        for fps in (30.0, 60.0)
        for ms in (None, 40.0)
    ]
    return {
        **record("realtime"),
        "contender": {"label": "a"},
        "dataset": data,
        "protocol": "ope",
        "entries": entries,
    }


def test_what_is_shown_beside_the_trackers_names_its_data_and_machine() -> None:
    shares = {"naive": 0.5, "cached": 0.2, "fused": 0.1}
    entry = {"preset": "p", "backend": "b", "of_encoding": shares, "isolated_of_joint": 0.5}
    shown = [realtime("far away"), parity([]), ablated(), {**record("ratios"), "entries": [entry]}]
    page = render(gather([accuracy("a", 0.5, 5.0), *(of("A board", each) for each in shown)]))
    cores = shown[0]["hardware"]["cores"]
    assert f"a, tracking far away; A board, {cores} cores" in page
    assert f"on 3 crops of e; A board, {cores} cores" in page
    assert f"tracked on d, 3 sequences; A board, {cores} cores" in page
    assert f"not to be told from nothing. A board, {shown[-1]['date'][:10]}." in page
    named = render(gather([accuracy("a", 0.5, 5.0), realtime({"name": "as others name it"})]))
    assert "a, tracking as others name it;" in named


def test_the_real_time_plot_is_of_what_the_protocol_ranks_by() -> None:
    judged = {**realtime("d"), "protocol": "oxuva"}
    for entry in judged["entries"]:
        entry["metrics"] = {"max_gm": 0.75}
    assert ">MaxGM in percent<" in render(gather([accuracy("a", 0.5, 5.0), judged]))


def test_the_measured_latency_is_marked_whatever_else_was_asked_for() -> None:
    quicker = realtime("d")
    for entry in quicker["entries"]:
        entry["latency_ms"] = entry["latency_ms"] and 2.0
    page = render(gather([accuracy("a", 0.5, 5.0), quicker]))
    marked = re.findall(r'<polyline class="measured " points="([^"]+)"><title>5.00 ms, measured at (\d+)', page)
    assert [fps for _, fps in marked] == ["30", "60"] * 2
    (x, _), (other, _) = (point.split(",") for point in marked[0][0].split())
    # The axis ends at 1.05 times the longest latency, which is the measured one.
    assert float(x) == float(other) == pytest.approx(46 + (860 - 12 - 46) / 1.05, abs=0.1)
    assert "leftmost" not in page


def test_entries_are_ranked_and_told_apart() -> None:
    peer = accuracy("mil", 0.4, 20.0) | {"contender": {"label": "mil", "kind": "opencv"}}
    reference = accuracy("ref", 0.7, 30.0, backend="pytorch-cpu")
    found = gather([peer, reference, accuracy("a", 0.5, 5.0)])
    assert [(entry.label, entry.kind) for entry in found.entries] == [
        ("ref", "reference"),
        ("a", "ours"),
        ("mil", "peer"),
    ]


def test_different_data_are_not_compared() -> None:
    other = accuracy("b", 0.5, 5.0) | {"dataset": {"name": "other", "sequences": 2, "frames": 20, "digest": "xyz"}}
    with pytest.raises(ResultsError, match="different data"):
        gather([accuracy("a", 0.5, 5.0), other])
    with pytest.raises(ResultsError, match="no accuracy"):
        gather([record("latency")])


def test_table_goes_between_the_marks(tmp_path: Path) -> None:
    table = markdown(gather([accuracy("a", 0.5, 5.0), accuracy("b", 0.625, 8.0, number=2)]))
    assert table.splitlines()[2:4] == [
        "| b | 62.5 | 62.5 | 62.5 | 8.0 | 125 | – |",
        "| a | 50.0 | 50.0 | 50.0 | 5.0 | 200 | – |",
    ]
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(path, table)
    write_into(path, table)
    assert path.read_text() == f"before\n{BEGIN}\n{table}{END}\nafter\n"
    for text in ("no marks", f"{END}\n{BEGIN}\n", BEGIN):
        path.write_text(text)
        with pytest.raises(ResultsError, match="no <!-- benchmarks: begin -->"):
            write_into(path, table)
        assert path.read_text() == text


def test_a_table_shows_what_the_protocol_ranks_by_once_and_first() -> None:
    for headline, titles in (
        ("auc", "AUC | SR.50 | P@20"),
        ("sr_50", "SR.50 | P@20"),
        ("precision_20", "P@20 | SR.50"),
    ):
        (first, *_) = markdown(gather([accuracy("a", 0.5, 5.0) | {"headline": headline}])).splitlines()
        assert first == f"| tracker | {titles} | ms (median) | frames/s | MB |"


@pytest.mark.parametrize(
    ("threads", "told"),
    [((2, 2), "2 threads"), ((1, 2), "threads as recorded"), ((None, None), "threads as recorded")],
)
def test_threads_are_told_where_they_are_known_and_the_same(threads: tuple[int | None, ...], told: str) -> None:
    records = [accuracy(f"t{n}", 0.5, 5.0, number=n) | {"threads": each} for n, each in enumerate(threads)]
    assert f", {told}. " in markdown(gather(records))


def test_what_vanishes_has_a_table_of_its_own() -> None:
    several = [accuracy(f"t{number}", 0.5 - number / 10, 5.0, number=number) for number in range(3)]
    for each, far_auc, ece in ((several[0], 0.25, None), (several[1], 0.5, 0.0625)):
        near = {"auc": 0.375, "returns": 4, "found": 0.75, "ece": 0.5}
        far = {"auc": far_auc, "returns": 8, "found": 0.25, "ece": ece}
        wide = {"auc": 0.5, "returns": 12, "found": 0.5, "ece": None}
        each |= {"loss": {"gone_ok": 0.25}, "behaviour": {"given": near, "near": near, "far": far, "wide": wide}}
    assert markdown(gather(several)).splitlines()[-2:] == [
        "| t1 | 25% | 3 of 4 | 2 of 8 | 6 of 12 | 37.5 | 50.0 | 0.062 |",
        "| t0 | 25% | 3 of 4 | 2 of 8 | 6 of 12 | 37.5 | 25.0 | – |",
    ]
    assert "In the 4 of these films that have room" in markdown(gather(several))
    assert "(far, at 2 places each). Wide: each film is one of nine pictures" in markdown(gather(several))
    assert "another of them once the target is back (12 times):" in markdown(gather(several))
    assert "far" not in markdown(gather(several[2:]))
    none = {"returns": 0, "found": None, "auc": 0.5, "ece": None}
    several[0]["behaviour"] = dict.fromkeys(("given", "near", "far", "wide"), none)
    assert "In the 0 of these films" in markdown(gather(several[:1]))


class Checker(HTMLParser):
    """Collects what a page refers to, and complains of tags that are not closed in order."""

    VOID = frozenset({"meta", "br", "line", "rect", "path", "circle", "polyline", "image"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def ablated() -> dict:
    held_out = {"iou": 0.25, "sr50": 0.125, "auroc": 0.75}
    row = {"title": "<less>", "metrics": {"auc": 0.5, "sr_50": 0.375}, "held_out": held_out}
    data = {"name": "d", "sequences": 3}
    return {
        **record("ablations"),
        "recipe": "r",
        "settings": ["steps=2"],
        "pairs": 1234,
        "dataset": data,
        "rows": [row],
    }


def test_ablations_make_a_table_of_their_own() -> None:
    lines = ablations_markdown(ablated()).splitlines()
    assert lines[2] == "| <less> | 50.0 | 37.5 | 25.0 | 75.0 |"
    assert lines[-1] == "r with steps=2: 1,234 pairs for each row, from random weights; tracked on d, 3 sequences."


def parity(entries: list) -> dict:
    reference, data = {"backend": "pytorch-cpu"}, {"name": "e", "crops": 3}
    return {**record("parity"), "model": "m", "reference": reference, "dataset": data, "entries": entries}


def test_a_graph_that_answers_nan_is_in_the_page(tmp_path: Path) -> None:
    entry = {"backend": "b", "precision": "int8", "equal_boxes": 0.0, "broken": ["box error nan; at most 0 is allowed"]}
    entry |= {"tensors": {"track": {"a": 1e-6, "b": float("inf")}}, "box_error": {"p95": float("nan")}}
    write(parity([entry]), str(tmp_path / "parity.json"))
    page = render(gather([accuracy("a", 0.5, 5.0), *read([tmp_path / "parity.json"])]))
    assert "<td>int8 on b</td><td>not finite</td><td>0.0</td><td>–</td><td>–</td>" in page
    assert "box error nan; at most 0 is allowed" in page


def page_of_all() -> str:
    loss = {
        "gone_ok": 0.1,
        "score_seen": 0.9,
        "score_gone": None,
        "separation": 0.8,
        "found_near": 1.0,
        "found_far": 0.0,
        "found_wide": 0.0,
    }
    compared = parity(
        [
            {
                "backend": "onnxruntime-cpu",
                "precision": "fp32",
                "tensors": {"track": {"likelihoods": 1e-6}},
                "equal_boxes": 1.0,
                "box_error": {"p95": 0.0},
                "auc_drop": 0.001,
                "broken": [],
            },
            {"backend": "openvino-npu", "precision": "int8", "refused": "no device <here>"},
        ]
    )
    shares = {"naive": 0.5, "cached": 0.2, "fused": 0.1}
    entry = {"preset": "p", "backend": "b", "of_encoding": shares, "isolated_of_joint": 0.5}
    several = [accuracy(f"tracker {i} <&>", 0.3 + i / 30, 3.0 + i, number=i) for i in range(10)]
    place = {"max_gm": 0.7, "auroc": 0.9, "ece": None, "returns": 8, "found": 0.25, "frames_to_find": 3.0}
    place |= {"update_ms": {"p99": 5.0, "max": 7.0}}
    several[1]["contender"]["precision"] = "int8"
    several[0] |= {"loss": loss, "behaviour": dict.fromkeys(("given", "near", "far", "wide"), place)}
    saved = {"model": "m", "backend": "b", "milliseconds": {"fp32": 9.0}, "of_fp32": {"fp32": 1.0, "int8": 0.56}}
    saved["bytes"] = {"fp32": 1000, "int8": 292}
    others = [compared, realtime("d"), {**record("ratios"), "entries": [entry]}, ablated()]
    others.append({**record("precisions"), "entries": [saved]})
    return render(gather([*several, *others]))


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = page_of_all()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.references == []
    assert "url(" not in page
    assert "@import" not in page
    assert "tracker 9 <&>" not in page
    assert "tracker 9 &lt;&amp;&gt;" in page
    assert "no device &lt;here&gt;" in page
    assert "2 of 8" in page
    for title in (
        "Accuracy against latency",
        "When the target is gone",
        "does not wait",
        "trained model",
        "caching",
        "precision saves",
        "choice",
    ):
        assert title in page
    assert "<td>9.0</td><td>0.56</td><td>29.2</td>" in page.replace("\n", "")


def test_command_shows_frames_of_the_dataset(bundle: Path, dataset_folder: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run.json", tmp_path / "report.html"
    arguments = ["accuracy", str(bundle), "--backend", "onnxruntime-cpu", "--threads", "1", "--json", str(run)]
    dataset = ["--dataset", str(dataset_folder), "--out", str(tmp_path / "raw")]
    assert CliRunner().invoke(app, [*arguments, *dataset]).exit_code == 0
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(out), "--frames", str(dataset_folder)])
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 5
    assert page.count('class="truth"') == 5 + 4  # in frame 8 of "hides" the target is out of sight
    assert "Raw results are not here" not in page
    assert result.stderr == ""
    shutil.rmtree(tmp_path / "raw")
    gone = CliRunner().invoke(app, ["report", str(run), "--out", str(out), "--frames", str(dataset_folder)])
    assert gone.exit_code == 0
    assert f"warning: colour fp32 on onnxruntime-cpu: no raw results in {tmp_path / 'raw'}" in gone.stderr
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 5
    assert "Frames with the truth. Raw results are not here of: colour fp32 on onnxruntime-cpu." in page
    assert page.count('<b class="s0"') == 0  # no value of a tracker whose boxes are not to be seen
    without = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert without.exit_code == 0
    assert "data:image" not in out.read_text()


def test_what_a_precision_saves_is_told_by_processor() -> None:
    def saves(processor: str, date: str, share: float) -> dict:
        entry = {"model": "m", "backend": "b", "milliseconds": {"fp32": 9.0}, "of_fp32": {"fp32": 1.0, "int8": share}}
        return of(processor, {**record("precisions"), "date": date, "entries": [{**entry, "bytes": {"fp32": 1000}}]})

    older, newer = saves("An Arm board", "2026-01-01T00:00", 0.4), saves("A desktop", "2026-02-01T00:00", 0.6)
    page = render(gather([accuracy("a", 0.5, 5.0), older, newer]))
    found = [
        page.index(text) for text in ("0.60</td>", "A desktop, 2026-02-01.", "0.40</td>", "An Arm board, 2026-01-01.")
    ]
    assert found == sorted(found)  # the latest first, each with its machine below


def test_times_of_a_busy_machine_are_told() -> None:
    """Those that the page gives: not of a run whose time a latency record replaces, nor of kept times' later record."""
    quiet = accuracy("a", 0.5, 5.0) | {"load_average": 0.1}
    assert "other work" not in render(gather([quiet]))
    load = {"load_average": quiet["hardware"]["cores"] + 1}
    busy = accuracy("b", 0.5, 5.0, number=2) | load
    assert "when times of 1 of what is timed" in render(gather([quiet, busy]))
    assert "other work" not in render(gather([quiet, busy | {"timed": {"load_average": 0.1}}]))
    assert "when times of 1 of" in render(gather([quiet | {"timed": load}]))
    alone = {**record("latency"), "threads": 1, "contender": busy["contender"], "update_ms": {"p50": 4.0}}
    alone["memory_mib"] = {"before": 1.0, "peak": 2.0}
    assert "other work" not in render(gather([quiet, busy, alone | {"load_average": 0.1}]))
    assert "when times of 1 of" in render(gather([quiet, busy, alone | load]))


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, message in (("nonsense", "not a JSON record"), ("{}", "not a record"), ("[1]", "not a record")):
        path.write_text(text)
        with pytest.raises(ResultsError, match=message):
            read([path])
    path.write_text(json.dumps({"schema": "edgetrack.benchmarks.accuracy", "version": 99}))
    with pytest.raises(ResultsError, match="version 99"):
        read([path])


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    begun = {"schema": "edgetrack.benchmarks.parity", "version": 1}
    headed = {**begun, "date": "", "command": "", "hardware": {}, "versions": {}, "load_average": 0}
    for content, message in (
        ({"schema": begun["schema"]}, "a record of version None; expected 1: measure again"),
        (
            begun,
            "a record without date, command, hardware, .*, model, reference, dataset, entries; expected a whole one",
        ),
        ({**headed, "model": "m", "reference": {}, "dataset": {}}, "a record without entries"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ResultsError, match=message):
            read([path])
        result = CliRunner().invoke(app, ["report", str(path), "--out", str(tmp_path / "page.html")])
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


def test_the_records_that_are_here_are_read() -> None:
    paths = sorted((Path(__file__).parents[2] / "benchmarks" / "results").rglob("*.json"))
    kinds = {record["schema"].rpartition(".")[2] for record in read(paths)}
    compared = {"accuracy", "peers", "latency", "parity", "realtime", "conditions"}
    assert kinds == {*compared, "ratios", "precisions", "ablations"}


PROBE = """<script>addEventListener("load", () => {
  const shown = [...document.querySelectorAll("svg.plot")].map(svg => svg.getBoundingClientRect());
  parent.postMessage({
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    plots: shown.filter(box => box.width > 100 && box.height > 100).length,
    all: shown.length,
    cut: [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).length,
    loaded: performance.getEntriesByType("resource").length,
    text: Math.min(...[...document.querySelectorAll("svg.plot text")]
      .map(text => text.getBoundingClientRect().height).filter(height => height > 0)),
    background: getComputedStyle(document.body).backgroundColor,
    fills: [...new Set([...document.querySelectorAll("svg.plot circle")].map(mark => getComputedStyle(mark).fill))],
  }, "*");
});</script>"""


def laid_out(page: str, width: int, folder: Path) -> dict:
    """What `PROBE` finds where Chromium lays a page out at a width: in an iframe, since its window has a least one."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium (Debian's package chromium) on the PATH")
    inner = page.replace("</body>", PROBE + "</body>")
    (folder / "host.html").write_text(
        "<!doctype html><body><script>addEventListener('message', e => {"
        "document.body.dataset.found = JSON.stringify(e.data); });</script>"
        f'<iframe style="border:0" width="{width}" height="800" srcdoc="{escape(inner, quote=True)}"></iframe></body>'
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [browser, *options, profile, f"--window-size={width + 100},900", f"file://{folder / 'host.html'}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match, dom[:500]
    return json.loads(unescape(match[1]))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """At a phone's and a desktop's width."""
    found = laid_out(page_of_all(), width, tmp_path)
    assert found["inner"] == width
    assert found["scroll"] <= width  # the page itself never scrolls sideways
    assert found["plots"] * 2 == found["all"] > 0  # of each plot the one drawn for this width
    assert found["loaded"] == 0
    assert found["text"] >= 11  # still to be read
    assert len(found["fills"]) == 2  # INT8 is hollow
    assert found["background"] in ("rgb(252, 252, 250)", "rgb(20, 23, 26)")


def test_a_table_of_all_columns_is_not_cut_on_a_desktop(tmp_path: Path) -> None:
    both = accuracy("seqtrack-nano + vtt-nano int8 on onnxruntime-cpu", 0.5, 5.0)
    both["metrics"] |= dict.fromkeys(("normalised_precision_020", "normalised_precision_mean", "ao", "sr_75"), 0.5)
    latency = {**record("latency"), "threads": 1, "contender": both["contender"], "update_ms": {"p50": 14.25}}
    latency |= {"disk_bytes": 11e6, "memory_mib": {"peak": 154.0, "before": 0.0}, "energy": {"joules_per_frame": 0.5}}
    found = laid_out(render(gather([both, latency])), 1280, tmp_path)
    assert found["cut"] == 0
    assert found["scroll"] <= 1280
