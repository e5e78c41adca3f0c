"""One-pass evaluation from the command line: what is run, what is kept, and what the record says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import edgetrack
from benchmarks import accuracy, records
from benchmarks.accuracy import evaluate, percentiles, run_dataset, run_sequence
from benchmarks.cli import app
from benchmarks.contenders import Answer, Spec
from benchmarks.datasets import Dataset, read_dataset
from benchmarks.results import ResultsError, read_track, track_path
from benchmarks.returns import Lengths, returning
from edgetrack.sources import read_image

SPEC = Spec("", "onnxruntime-cpu", threads=1)


@pytest.fixture
def data(dataset_folder: Path) -> Dataset:
    return read_dataset(str(dataset_folder))


def test_boxes_are_the_trackers(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    folder, identity = run_dataset(replace(SPEC, model=str(bundle)), data, tmp_path)
    assert identity["backend"] == "onnxruntime-cpu"
    tracker = edgetrack.Tracker(bundle, "onnxruntime-cpu", threads=1)
    sequence = data.sequences[0]
    tracker.init(read_image(sequence.frames[0]), sequence.truth[0])
    expected = [tracker.update(read_image(path)) for path in sequence.frames[1:]]
    found = read_track(folder, "plain")
    np.testing.assert_allclose(found.boxes[0], sequence.truth[0])
    np.testing.assert_allclose(found.boxes[1:], [track.box for track in expected], atol=5e-4)
    np.testing.assert_allclose(found.scores[1:], [track.score for track in expected], atol=1e-6)
    assert np.isnan(found.seconds[0])
    assert (found.seconds[1:] > 0).all()


def test_what_is_there_is_not_run_again(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    spec = replace(SPEC, model=str(bundle))
    done: list[str] = []
    folder, _ = run_dataset(spec, data, tmp_path, advance=done.append)
    assert done == ["plain", "hides"]
    kept = track_path(folder, "plain")
    kept.write_text(kept.read_text().replace("20.000", "21.000", 1))
    track_path(folder, "hides").unlink()
    run_dataset(spec, data, tmp_path)
    assert read_track(folder, "plain").boxes[0, 0] == 21  # untouched
    assert read_track(folder, "hides").boxes[0, 0] == 20  # run again
    run_dataset(spec, data, tmp_path, advance=done.append)
    assert done == ["plain", "hides"] * 2  # what is there is done


def test_other_weights_or_settings_have_other_results(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    spec = replace(SPEC, model=str(bundle))
    folders = {
        run_dataset(chosen, data, tmp_path)[0]
        for chosen in (spec, replace(spec, window=0.5), replace(spec, decode="cached"), replace(spec, threads=2))
    }
    assert len(folders) == 3  # the number of threads changes times, not boxes


def test_results_of_another_dataset_of_the_same_name_are_refused(
    bundle: Path, data: Dataset, dataset_folder: Path, tmp_path: Path
) -> None:
    spec = replace(SPEC, model=str(bundle))
    folder, _ = run_dataset(spec, data, tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.rglob("*.txt")}
    same = read_dataset(str(shutil.copytree(dataset_folder, tmp_path / data.name)), ("plain",))
    assert run_dataset(spec, same, tmp_path / "out")[0] == folder  # wherever it lies
    (plain,) = same.sequences
    later = replace(plain, frames=plain.frames[4:], truth=plain.truth[4:], absent=plain.absent[4:])
    for other in (later, replace(plain, truth=plain.truth + 1)):
        with pytest.raises(ResultsError, match=r"plain_001\.txt: results of other frames.*choose another --out"):
            run_dataset(spec, replace(same, sequences=(other,)), tmp_path / "out")
    cv2.imwrite(str(plain.frames[3]), read_image(plain.frames[3]) // 2)
    with pytest.raises(ResultsError, match="results of other frames"):
        run_dataset(spec, same, tmp_path / "out")
    plain.frames[3].unlink()
    with pytest.raises(ResultsError, match=r"plain: its frame .*00000004\.png cannot be read: No such file"):
        run_dataset(spec, same, tmp_path / "out")
    assert {path: path.read_bytes() for path in folder.rglob("*.txt")} == before


def test_results_that_do_not_say_what_they_are_of_are_refused(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    spec = replace(SPEC, model=str(bundle))
    folder, _ = run_dataset(spec, data, tmp_path)
    (folder / "plain" / "plain_run.json").unlink()
    with pytest.raises(ResultsError, match="results of other frames"):
        run_dataset(spec, data, tmp_path)


def test_results_of_another_opencv_or_edgetrack_are_not_taken(
    bundle: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, model=str(bundle))
    folder, _ = run_dataset(spec, data, tmp_path)
    monkeypatch.setattr(cv2, "__version__", "1.2.3")
    other, _ = run_dataset(spec, data, tmp_path)
    assert other != folder
    found = json.loads((other / "contender.json").read_text())["versions"]
    assert found["opencv"] == "1.2.3"
    monkeypatch.setattr(records, "versions", lambda: {**found, "edgetrack": "1.2.3"})
    assert run_dataset(spec, data, tmp_path)[0] not in (folder, other)


def test_films_made_of_other_truth_are_not_taken_for_one_another(data: Dataset) -> None:
    plain = data.sequences[0]
    bent = plain.truth + np.where(np.arange(12) == 5, 1, 0)[:, None]  # on the way the target was elsewhere
    lengths = Lengths(before=5, gone=20, after=4)
    films = [
        returning(Dataset("d", "ope", (replace(plain, truth=truth),)), far=False, lengths=lengths)[0].sequences[0]
        for truth in (plain.truth, plain.truth, bent)
    ]
    assert films[0].shown == films[1].shown != films[2].shown


def test_kept_times_are_given_where_they_were_taken_alike(
    bundle: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, model=str(bundle))
    _, first = evaluate(spec, data, tmp_path)
    _, again = evaluate(spec, data, tmp_path)
    assert again["update_ms"] == first["update_ms"] != {}
    assert again["timed"] == first["timed"]
    assert first["timed"]["first"] <= first["timed"]["last"] <= records.now()
    machine = records.hardware()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(records, "hardware", lambda: {**machine, "processor": "another"})
        _, moved = evaluate(spec, data, tmp_path)
    _, threads = evaluate(replace(spec, threads=2), data, tmp_path)
    _, processes = evaluate(spec, data, tmp_path, processes=2)
    for other in (moved, threads, processes):
        assert other["metrics"] == first["metrics"]
        assert (other["update_ms"], other["timed"]) == ({}, None)
        assert all(sequence["update_ms"] == {} for sequence in other["sequences"])


def test_kept_times_tell_the_dates_and_the_highest_load_they_rest_on(
    bundle: Path, data: Dataset, tmp_path: Path
) -> None:
    folder, _ = run_dataset(replace(SPEC, model=str(bundle)), data, tmp_path)
    now = accuracy.conditions(SPEC, 1, False)
    for name, date, load in (("plain", "2026-01-02", 0.5), ("hides", "2026-01-01", 3.0)):
        path = folder / name / f"{name}_run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "date": date, "load_average": load}))
    found = accuracy.timed(folder, data, now)
    assert found is not None
    assert (found["first"], found["last"], found["load_average"]) == ("2026-01-01", "2026-01-02", 3.0)
    for other in ({"threads": 2}, {"processes": 2}, {"cluster": True}, {"hardware": {}}):
        assert accuracy.timed(folder, data, {**now, **other}) is None


def test_times_of_a_run_that_was_broken_off_and_went_on_otherwise_are_not_mixed(
    bundle: Path, data: Dataset, tmp_path: Path
) -> None:
    spec = replace(SPEC, model=str(bundle))
    run_dataset(spec, replace(data, sequences=data.sequences[:1]), tmp_path)
    arguments = ["accuracy", str(bundle), "--dataset", str(data.sequences[0].frames[0].parents[1])]
    options = ["--backend", "onnxruntime-cpu", "--threads", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, *options, "--json", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.output
    assert "no times: those kept are of other threads" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["update_ms"] == {}


def test_processes_give_the_same_boxes(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    spec = replace(SPEC, model=str(bundle))
    one, _ = run_dataset(spec, data, tmp_path / "one")
    two, _ = run_dataset(spec, data, tmp_path / "two", processes=2)
    for name in ("plain", "hides"):
        np.testing.assert_array_equal(read_track(one, name).boxes, read_track(two, name).boxes)


def test_a_cluster_gives_the_same_boxes(
    bundle: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Workers import what the tests do, from the same places.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    spec = replace(SPEC, model=str(bundle))
    one, _ = run_dataset(spec, data, tmp_path / "one")
    two, _ = run_dataset(spec, data, tmp_path / "two", cluster=True)
    for name in ("plain", "hides"):
        np.testing.assert_array_equal(read_track(one, name).boxes, read_track(two, name).boxes)


def test_a_missing_ray_is_named(bundle: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResultsError, match="pip install --group ray"):
        run_dataset(replace(SPEC, model=str(bundle)), data, tmp_path, cluster=True)


def test_absent_frames_are_no_part_of_the_score(bundle: Path, data: Dataset, tmp_path: Path) -> None:
    _, content = evaluate(replace(SPEC, model=str(bundle)), data, tmp_path)
    assert [s["absent"] for s in content["sequences"]] == [0, 3]
    plain = content["sequences"][0]["metrics"]["ao"]
    assert plain > 0.5  # the synthetic network follows its square
    assert content["attributes"]["OCC"]["sequences"] == 1
    _, pooled = evaluate(replace(SPEC, model=str(bundle)), data, tmp_path, "got10k")
    assert (content["protocol"], pooled["protocol"], pooled["headline"]) == ("ope", "got10k", "ao")


class Failing:
    label = "failing"
    identity: dict = {"kind": "failing"}  # noqa: RUF012

    def init(self, frame: np.ndarray, box: object) -> None:
        pass

    def update(self, frame: np.ndarray) -> Answer:
        raise edgetrack.FrameError("unusable")


class Doubting(Failing):
    """Says of every second frame that the target is not there."""

    asked = 0

    def update(self, frame: np.ndarray) -> Answer:
        self.asked += 1
        return Answer((self.asked, 0, 1, 1), self.asked / 10, self.asked % 2 == 0, self.asked / 1000)


def test_a_track_is_what_was_given_and_then_what_was_answered(data: Dataset) -> None:
    sequence = data.sequences[0]
    found, numbers = run_sequence(Doubting(), sequence), np.arange(12)
    assert found.boxes[:, 0].tolist() == [sequence.truth[0, 0], *range(1, 12)]
    assert found.reported.tolist() == [number % 2 == 0 for number in numbers]
    np.testing.assert_array_equal(found.scores, [np.nan, *numbers[1:] / 10])
    np.testing.assert_array_equal(found.seconds, [np.nan, *numbers[1:] / 1000])


def test_times_are_summed_up_in_milliseconds() -> None:
    seconds = np.asarray([np.nan, *np.arange(101), 1900.0]) / 1000  # 0 to 100 ms, and one of 1.9 s
    found = percentiles(seconds)
    assert found == {"mean": pytest.approx(6950 / 102, abs=1e-4), "p50": 50.5, "p95": 95.95, "p99": 99.99, "max": 1900}
    assert percentiles(seconds[:1]) == {}


def test_a_failure_names_sequence_and_tracker(data: Dataset) -> None:
    with pytest.raises(ResultsError, match="plain: failing failed: unusable"):
        run_sequence(Failing(), data.sequences[0])


def test_opencv_tracker_starts_afresh_for_each_target(data: Dataset) -> None:
    contender = Spec("opencv:mil", threads=1).make()
    sequence = data.sequences[0]
    short = replace(sequence, frames=sequence.frames[:4], truth=sequence.truth[:4], absent=sequence.absent[:4])
    run_sequence(contender, short)
    backwards = replace(short, frames=short.frames[::-1], truth=short.truth[::-1])
    found = run_sequence(contender, backwards).boxes
    # The second target begins where it is given, and is followed from there.
    np.testing.assert_array_equal(found[0], short.truth[3])
    assert np.abs(found[1] - short.truth[2]).max() < 8


def test_a_lost_target_keeps_its_last_box() -> None:
    class Stub:
        answers = iter([(True, (3, 4, 5, 6)), (False, (0, 0, 0, 0)), (True, (7, 8, 5, 6))])

        def init(self, frame: np.ndarray, box: object) -> None:
            pass

        def update(self, frame: np.ndarray) -> object:
            return next(self.answers)

    contender = Spec("opencv:mil", threads=1).make()
    contender._create = Stub
    frame = np.zeros((20, 20, 3), np.uint8)
    contender.init(frame, (1.4, 2.0, 5.0, 6.0))
    found = [contender.update(frame) for _ in range(3)]
    assert [answer.box for answer in found] == [(3, 4, 5, 6), (3, 4, 5, 6), (7, 8, 5, 6)]
    assert [answer.ok for answer in found] == [True, False, True]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("opencv:goturn", "no OpenCV tracker 'goturn'"),
        ("opencv:nano", "only nano takes weights"),
        ("opencv:mil:a.onnx,b.onnx", "only nano takes weights"),
        ("missing.safetensors", "does not exist"),
    ],
)
def test_unknown_contenders_are_refused(model: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        Spec(model).make()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "nonsense"}, "--backend"),
        ({"precision": "int8", "window": 0.0}, "--precision, --window"),
        ({"update_interval": 5, "redetect": "vtt-nano"}, "--update-interval, --redetect"),
    ],
)
def test_what_opencvs_trackers_do_not_take_is_refused(options: dict, named: str) -> None:
    with pytest.raises(ResultsError, match=f"opencv:mil got {named}; OpenCV's trackers take --threads alone"):
        Spec("opencv:mil", **options).make()


@pytest.mark.parametrize(
    ("status", "expected"), [(0, ["NVIDIA H100 80GB HBM3, driver 580.1", "NVIDIA T4, driver 580.1"]), (9, [])]
)
def test_a_record_names_the_gpus(
    status: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nvidia-smi prints them; where it has no driver to talk to, it says so on stdout and fails."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf 'NVIDIA H100 80GB HBM3, 580.1\\nNVIDIA T4, 580.1\\n'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = records.hardware()
    assert found["gpus"] == expected
    assert records.processors(found) == ", ".join([found["processor"], *expected])


def test_a_record_tells_the_memory_as_the_system_does() -> None:
    (total,) = re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert records.hardware()["memory_gib"] == pytest.approx(int(total) / 2**20, abs=0.1)


def test_a_record_tells_what_was_typed_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["/usr/lib/__main__.py", "accuracy", str(tmp_path / "a b" / "c.json"), "/elsewhere/d", "e"]
    assert records.command(typed) == "python -m benchmarks accuracy 'a b/c.json' /elsewhere/d e"


def test_a_record_tells_the_load_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 2.0, 3.0))
    assert records.load_average() == 1.23


def test_what_could_not_be_measured_is_null_in_a_record(tmp_path: Path) -> None:
    path, values = tmp_path / "a.json", (float("nan"), float("inf"), 1.5, 2)
    records.write({"given": values, "within": [{"each": list(values)}]}, str(path))
    expected = [None, None, 1.5, 2]
    assert json.loads(path.read_text()) == {"given": expected, "within": [{"each": expected}]}


def test_command_writes_a_record(bundle: Path, dataset_folder: Path, tmp_path: Path) -> None:
    arguments = ["accuracy", str(bundle), "--backend", "onnxruntime-cpu", "--threads", "1", "--json", "-"]
    options = ["--dataset", str(dataset_folder), "--out", str(tmp_path), "--sequence", "plain"]
    result = CliRunner().invoke(app, arguments + options)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["schema"] == "edgetrack.benchmarks.accuracy"
    assert content["dataset"] | {"digest": ""} == {"name": "drawn", "sequences": 1, "frames": 12, "digest": ""}
    assert content["threads"] == 1
    assert {"processor", "cores"} <= set(content["hardware"])
    assert {"python", "numpy", "onnxruntime"} <= set(content["versions"])
    assert 0 <= content["metrics"]["auc"] <= 1
    assert content["sequences"][0]["update_ms"]["p50"] > 0

    # The raw results, scored by themselves, give the same figures.
    scored = CliRunner().invoke(
        app, ["score", content["results"], "--dataset", str(dataset_folder), "--perfect", "--json", "-"]
    )
    assert json.loads(scored.stdout)["metrics"]["ao"] == pytest.approx(1.0)


def test_score_agrees_with_accuracy(bundle: Path, dataset_folder: Path, data: Dataset, tmp_path: Path) -> None:
    scores, content = evaluate(replace(SPEC, model=str(bundle)), data, tmp_path)
    result = CliRunner().invoke(
        app, ["score", content["results"], "--dataset", str(dataset_folder), "--json", str(tmp_path / "s.json")]
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "s.json").read_text())["metrics"] == pytest.approx(scores.metrics)


@pytest.mark.parametrize("count", [1, 12])
def test_a_test_split_is_tracked_but_not_scored(count: int, bundle: Path, dataset_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "test"
    shutil.copytree(dataset_folder / "plain", root / "a")
    for path in sorted((root / "a").glob("*.png"))[count:]:
        path.unlink()
    (root / "a" / "groundtruth.txt").write_text("20,50,24,24\n")
    (root / "a" / "absence.label").unlink()
    (root / "list.txt").write_text("a\n")
    arguments = [str(bundle), "--dataset", f"got10k:{root}", "--backend", "onnxruntime-cpu", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["accuracy", *arguments, "--threads", "1", "--json", str(tmp_path / "a.json")])
    assert result.exit_code == 1
    assert not (tmp_path / "a.json").exists()
    said = re.fullmatch(r"error: a: no frame counts but .* see `submission`; raw results are in (.*)\n", result.stderr)
    assert said, result.stderr
    packing = ["submission", said[1], "--dataset", f"got10k:{root}", "--out", str(tmp_path / "a.zip")]
    assert CliRunner().invoke(app, packing).exit_code == 0
    assert zipfile.is_zipfile(tmp_path / "a.zip")


@pytest.fixture
def tracking(bundle: Path, dataset_folder: Path) -> list[str]:
    """The command that tracks "plain", without --out and --json."""
    arguments = ["accuracy", str(bundle), "--dataset", str(dataset_folder), "--sequence", "plain"]
    return [*arguments, "--backend", "onnxruntime-cpu", "--threads", "1"]


def test_a_record_that_cannot_be_written_is_refused_before_anything_is_measured(
    tracking: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for target, reason in (
        (tmp_path, "is a folder; expected a file"),
        (tmp_path / "file" / "a.json", "cannot be written (File exists); give another file"),
        (Path("/proc/none/a.json"), "cannot be written (No such file or directory); give another file"),
    ):
        options = ["--out", str(tmp_path / "raw"), "--json", str(target)]
        result = CliRunner().invoke(app, [*tracking, *options])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: --json {target}: {reason}")
        assert not (tmp_path / "raw").exists()


def test_results_that_cannot_be_kept_are_refused_in_one_line(tracking: list[str]) -> None:
    result = CliRunner().invoke(app, [*tracking, "--out", "/proc/none"])
    assert result.exit_code == 1
    assert re.fullmatch(
        r"error: /proc/none/\S+: no results can be kept there \(.*\); give another --out\n", result.stderr
    )


def test_figures_are_printed_even_if_their_record_is_lost(
    tracking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "there" / "a.json"
    ran = accuracy.run_sequence

    def run_and_lose(*arguments: Any) -> Any:
        record.parent.rename(tmp_path / "gone")
        return ran(*arguments)

    monkeypatch.setattr(accuracy, "run_sequence", run_and_lose)
    result = CliRunner().invoke(app, [*tracking, "--out", str(tmp_path / "raw"), "--json", str(record)])
    assert result.exit_code == 1
    assert "ms a frame" in result.stdout
    assert result.stderr == (
        f"error: --json {record}: cannot be written (No such file or directory); give another file, or - for stdout\n"
    )


def test_a_record_takes_the_place_of_another_or_goes_into_a_pipe(tmp_path: Path) -> None:
    kept, link, pipe = tmp_path / "kept.json", tmp_path / "link.json", tmp_path / "pipe"
    kept.write_text("before")
    link.symlink_to(kept)
    with pytest.raises(TypeError):
        records.write({"a": object()}, str(kept))
    assert kept.read_text() == "before"
    records.write({"a": 1}, str(link))
    assert json.loads(kept.read_text()) == {"a": 1}
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    records.write({"a": 2}, records.writable(str(pipe)))
    assert json.loads(os.read(reading, 100)) == {"a": 2}
    os.close(reading)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.json", "link.json", "pipe"]


def test_errors_are_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["accuracy", "opencv:mil", "--dataset", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
