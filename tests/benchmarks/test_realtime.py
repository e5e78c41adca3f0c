"""The clock of the real-time rule, against a second simulation in small steps of time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import datasets
from benchmarks.cli import app
from benchmarks.contenders import Answer
from benchmarks.datasets import Sequence, read_dataset
from benchmarks.metrics import TITLES
from benchmarks.realtime import measure, run_realtime


class Counting:
    """Answers with the number of the frame it is shown, read off the picture's file name by its brightness order."""

    label = "counting"
    identity: dict = {"kind": "counting"}  # noqa: RUF012

    def __init__(self, video: Sequence, seconds: Iterable[float] = ()) -> None:
        from edgetrack.sources import read_image

        self.seconds = iter(seconds)

        self.numbers = {read_image(path).tobytes(): index for index, path in enumerate(video.frames)}
        self.shown: list[int] = []

    def init(self, frame: np.ndarray, box: object) -> None:
        self.shown = []

    def update(self, frame: np.ndarray) -> Answer:
        self.shown.append(self.numbers[frame.tobytes()])
        number = self.shown[-1]
        return Answer((number, 0, 1, 1), number / 100, number % 2 == 0, next(self.seconds, 0.0))


@pytest.fixture
def plain(dataset_folder: Path) -> Sequence:
    return read_dataset(str(dataset_folder), ("plain",)).sequences[0]


def slow_simulation(count: int, latencies: Iterable[Fraction]) -> tuple[list[int], list[int]]:
    """Frames looked at, and the frame whose answer each frame ends up with; times in frames, in steps of 1/100.

    A frame's answer is the newest one that is finished when the next frame arrives.
    """
    looked: list[int] = []
    finished: list[tuple[Fraction, int]] = []
    busy_until, last, remaining = Fraction(0), 0, iter(latencies)
    for tick in range(100 * count):  # the video ends when the last frame's time is up
        now = Fraction(tick, 100)
        newest = int(now)
        if now >= busy_until and newest > last:
            last = newest
            looked.append(newest)
            busy_until = now + next(remaining)
            finished.append((busy_until, newest))
    kept = [
        max([number for at, number in finished if at <= index + 1 and number <= index], default=0)
        for index in range(count)
    ]
    return looked, kept


@pytest.mark.parametrize("latency", ["0", "1/2", "1", "101/100", "3/2", "2", "9/4", "5", "20"])
@pytest.mark.parametrize("fps", [25, 30, 60, 240])
def test_what_is_looked_at_and_what_is_known_in_time(plain: Sequence, latency: str, fps: int) -> None:
    contender = Counting(plain)
    track, looked = run_realtime(contender, plain, fps, float(Fraction(latency)) / fps)
    expected_looked, expected_kept = slow_simulation(len(plain.frames), repeat(Fraction(latency)))
    assert contender.shown == expected_looked
    assert looked == len(expected_looked)
    known = [0 if np.array_equal(box, plain.truth[0]) else int(box[0]) for box in track.boxes]
    assert known == expected_kept
    # All of an answer is kept together.
    assert track.reported.tolist() == [number % 2 == 0 for number in known]
    np.testing.assert_array_equal(track.scores, [number / 100 if number else np.nan for number in known])


@pytest.mark.parametrize("latencies", ["1/2 1/4 1/4 5/2", "3 1/4 1/4 1/4", "1/4 9/4 1/2 3/2"])
def test_what_an_update_took_counts_from_when_its_frame_was_there(plain: Sequence, latencies: str) -> None:
    took = [Fraction(each) for each in latencies.split()] * 3
    contender = Counting(plain, [float(each) / 25 for each in took])
    track, _ = run_realtime(contender, plain, 25)
    looked, kept = slow_simulation(len(plain.frames), took)
    assert contender.shown == looked
    assert [0 if np.array_equal(box, plain.truth[0]) else int(box[0]) for box in track.boxes] == kept
    np.testing.assert_allclose(track.seconds[looked], [float(each) / 25 for each in took[: len(looked)]])


def test_a_quick_tracker_loses_nothing(bundle: Path, dataset_folder: Path) -> None:
    from benchmarks.accuracy import run_sequence
    from benchmarks.contenders import Spec
    from benchmarks.protocols import score

    data = read_dataset(str(dataset_folder))
    contender = Spec(str(bundle), "onnxruntime-cpu", threads=1).make()
    expected = score([v.result(run_sequence(contender, v)) for v in data.sequences], "ope").metrics
    measured, quick, slow = measure(contender, data, [30.0], [0.001, 0.2])
    assert (measured["latency_ms"], quick["latency_ms"]) == (None, 1.0)
    assert quick["looked_at"] == 1
    assert (quick["update_ms"]["p50"], slow["update_ms"]["p50"]) == (1.0, 200.0)
    assert quick["metrics"] == pytest.approx(expected)
    assert slow["looked_at"] < 0.3
    assert slow["metrics"]["auc"] < quick["metrics"]["auc"]


def test_command(bundle: Path, dataset_folder: Path) -> None:
    arguments = ["realtime", str(bundle), "--dataset", str(dataset_folder), "--backend", "onnxruntime-cpu"]
    result = CliRunner().invoke(app, [*arguments, "--threads", "1", "--latency-ms", "100", "--json", "-"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["dataset"] == read_dataset(str(dataset_folder)).describe()
    entries = content["entries"]
    assert [(e["fps"], e["latency_ms"]) for e in entries] == [(30, None), (30, 100), (60, None), (60, 100)]


@pytest.mark.parametrize("fps", ["0", "-5"])
def test_a_rate_without_frames_is_refused(bundle: Path, dataset_folder: Path, fps: str) -> None:
    result = CliRunner().invoke(app, ["realtime", str(bundle), "--dataset", str(dataset_folder), "--fps", fps])
    assert result.exit_code == 2
    assert "--fps" in result.output


@pytest.mark.parametrize(
    ("protocol", "names"), [("ope", ("auc", "sr_50")), ("tlp", ("sr_50",)), ("oxuva", ("max_gm",))]
)
def test_what_a_protocol_ranks_by_is_shown(
    bundle: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, names: tuple[str, ...]
) -> None:
    """Not every one has an AUC."""
    data = replace(read_dataset(str(dataset_folder)), protocol=protocol)
    monkeypatch.setattr(datasets, "read_dataset", lambda *_: data)
    arguments = ["realtime", str(bundle), "--dataset", "drawn", "--backend", "onnxruntime-cpu", "--threads", "1"]
    result = CliRunner().invoke(app, [*arguments, "--fps", "30", "--json", "-"])
    assert result.exit_code == 0, result.output
    for name, title in TITLES.items():
        assert (f" {title} " in result.stderr) == (name in names)
