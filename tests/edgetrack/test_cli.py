"""The command line: what goes to which stream, exit codes, and that an interrupted run leaves whole files."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import pytest
from synthetic_bundle import PRESENCE_ALONE, ColourNet, write_colour_bundle
from synthetic_vtt import write_cells_bundle
from typer.testing import CliRunner

import edgetrack
import edgetrack_runtimes
from edgetrack import cli, errors
from edgetrack.bundle import Bundle, pack
from edgetrack.sources import Source, natural_key, open_source, read_image

BOX = "20,50,24,24"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: tuple[list[np.ndarray], np.ndarray]) -> Path:
    """The scene as a folder of images."""
    path = tmp_path_factory.mktemp("frames")
    for index, frame in enumerate(scene[0]):
        cv2.imwrite(str(path / f"{index}.png"), frame)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, scene: tuple[list[np.ndarray], np.ndarray]) -> Path:
    """The scene as a video."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for frame in scene[0]:
        writer.write(frame)
    writer.release()
    return path


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(cli.app, [str(a) for a in arguments])

    return invoke


@pytest.fixture
def track(run: Run, colour_bundle: Bundle) -> Run:
    def invoke(source: object, *arguments: object, box: str = BOX) -> Any:
        settings = ("--model", colour_bundle.root, "--backend", "onnxruntime-cpu", "--threads", 1)
        return run("track", source, "--box", box, *settings, *arguments)

    return invoke


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def message(result: Any) -> str:
    """The error of a failed run: the last line on standard error, which carries no traceback."""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("edgetrack: error: ")
    return str(lines[-1])


# track


def test_standard_output_is_json_lines_with_the_boxes_of_the_tracker(
    track: Run, folder: Path, scene: tuple[list[np.ndarray], np.ndarray], colour_model: edgetrack.Model
) -> None:
    result = track(folder, "--jsonl", "-")
    assert result.exit_code == 0
    header, first, *rest = records(result.stdout)
    assert header == {
        "schema": "edgetrack.track",
        "version": 1,
        "edgetrack": edgetrack.__version__,
        "source": str(folder),
        "frame_size": [160, 120],
        "fps": None,
        "frames": 25,
        "box_format": "xywh",
        "model": "colour",
        "backend": "onnxruntime-cpu",
        "precision": "fp32",
        "threads": 1,
        "decode": "fused",
        "window": 0.5,
        "update_interval": 0,
        "update_threshold": 0.015,
        "look_around": False,
        "redetect": None,
        "redetect_interval": None,
    }
    assert header["look_around"] is False
    assert (first["frame"], first["box"], first["score"], first["ok"]) == (0, [20, 50, 24, 24], None, True)
    reference = edgetrack.Tracker(colour_model)
    reference.init(scene[0][0], (20, 50, 24, 24))
    assert [r["frame"] for r in rest] == list(range(1, 25))
    for record, frame in zip(rest, scene[0][1:], strict=True):
        expected = reference.update(frame)
        assert record["box"] == pytest.approx(expected.box, abs=5e-4)
        assert record["score"] == pytest.approx(expected.score, abs=1e-6)
        assert (record["ok"], record["state"]) == (expected.ok, expected.state.value)
        assert record["latency_ms"] > 0
        assert record["time"] is None  # a file's frames have none
    assert "25 frames, lost in 0" in result.stderr
    assert "colour fp32 | onnxruntime-cpu" in result.stderr


def test_output_video_has_every_frame_and_the_source_s_rate(track: Run, clip: Path, tmp_path: Path) -> None:
    result = track(clip, "--output", tmp_path / "out.mp4", "--jsonl", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "out.mp4" in result.stderr
    assert "out.jsonl" in result.stderr
    drawn, plain = open_source(tmp_path / "out.mp4"), open_source(clip)
    assert (drawn.fps, drawn.size) == (25, (160, 120))
    differences = [np.abs(a.astype(int) - b).max() for a, b in zip(drawn, plain, strict=True)]
    assert len(differences) == 25
    assert min(differences) > 60  # every frame has its box drawn
    assert len(records((tmp_path / "out.jsonl").read_text())) == 26


def test_online_options_reach_the_tracker(
    track: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    real = edgetrack.Tracker

    def spy(*arguments: Any, **options: Any) -> edgetrack.Tracker:
        seen.update(options)
        return real(*arguments, **options)

    monkeypatch.setattr(edgetrack, "Tracker", spy)
    options = ("--decode", "cached", "--window", 0.25, "--update-interval", 3, "--update-threshold", 0.1)
    options = (*options, "--no-look-around")
    options = (*options, "--precision", "fp32", "--cache-dir", tmp_path / "engines", "--allow-fallback")
    result = track(folder, *options, "--jsonl", "-")
    assert result.exit_code == 0
    assert seen == {
        "precision": "fp32",
        "threads": 1,
        "decode": "cached",
        "window": 0.25,
        "update_interval": 3,
        "update_threshold": 0.1,
        "look_around": False,
        "allow_fallback": True,
        "cache_dir": str(tmp_path / "engines"),
        "redetect": None,
        "redetect_interval": None,
    }
    header = records(result.stdout)[0]
    in_force = ("decode", "window", "update_interval", "update_threshold", "look_around")
    assert {name: header[name] for name in in_force} == {name: seen[name] for name in in_force}
    without = track(folder, "--redetect-interval", 4)
    assert without.exit_code == 2
    assert "got redetect_interval=4 without redetect" in without.stderr
    assert seen["redetect_interval"] == 4


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written under the frames of a video, in place of drawing it."""
    written = []

    def annotate(frame: np.ndarray, *_: Any, caption: str, **__: Any) -> np.ndarray:
        written.append(caption)
        return frame

    monkeypatch.setattr("edgetrack.drawing.annotate", annotate)
    return written


def test_a_run_that_redetects_is_told_as_such(track: Run, folder: Path, tmp_path: Path, captions: list[str]) -> None:
    search = write_cells_bundle(tmp_path / "search").root
    options = ("--redetect", search, "--redetect-interval", 4, "--output", tmp_path / "out.mp4")
    result = track(folder, *options, "--jsonl", "-")
    header = records(result.stdout)[0]
    assert (header["model"], header["redetect"], header["redetect_interval"]) == ("colour", "cells", 4)
    assert "colour + cells fp32 | onnxruntime-cpu" in result.stderr
    assert all(each.startswith("colour + cells fp32 | onnxruntime-cpu") for each in captions)
    assert len(captions) == 25


def test_lines_tell_lost_from_found_again(track: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(False, False), (True, True), *[(True, False)] * 22])

    def update(_: edgetrack.Tracker, __: np.ndarray) -> edgetrack.Track:
        ok, redetected = next(answers)
        return edgetrack.Track((1.0, 2.0, 3.0, 4.0), 0.5, ok, 1.0, {}, redetected)

    monkeypatch.setattr(edgetrack.Tracker, "update", update)
    lines = records(track(folder, "--jsonl", "-").stdout)[1:]
    assert [line["state"] for line in lines] == ["tracked", "lost", "redetected", *["tracked"] * 22]
    assert [line["ok"] for line in lines] == [True, False, *[True] * 23]


def test_frames_per_second_are_of_the_median(
    track: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captions: list[str]
) -> None:
    times = iter([2.0, 4.0, 90.0, *[4.0] * 21])

    def update(_: edgetrack.Tracker, __: np.ndarray) -> edgetrack.Track:
        return edgetrack.Track((1.0, 2.0, 3.0, 4.0), 0.5, True, next(times), {})

    monkeypatch.setattr(edgetrack.Tracker, "update", update)
    result = track(folder, "--output", tmp_path / "out.mp4")
    assert "250.0 fps (median 4.00 ms, mean 7.50 ms), colour fp32 | onnxruntime-cpu" in result.stderr
    label = "colour fp32 | onnxruntime-cpu"
    assert captions[:4] == [label, *(f"{label} | {fps} fps" for fps in (500, 333, 250))]


def test_single_frame_is_written_and_said(track: Run, folder: Path) -> None:
    result = track(folder / "0.png", "--jsonl", "-")
    assert result.exit_code == 0
    assert len(records(result.stdout)) == 2
    assert "1 frame, nothing to track after it" in result.stderr


# Exit codes.


def test_missing_source_is_3(track: Run, tmp_path: Path) -> None:
    result = track(tmp_path / "none.mp4")
    assert result.exit_code == 3
    assert "none.mp4: no such file" in message(result)


def test_cut_off_video_is_3_and_keeps_what_it_found(track: Run, clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = track(cut, "--output", tmp_path / "out.mp4", "--jsonl", "-")
    assert result.exit_code == 3
    assert "promises 25 frames" in message(result)
    written = records(result.stdout)[1:]
    assert 5 < len(written) < 23
    assert len(list(open_source(tmp_path / "out.mp4"))) == len(written)
    assert f"{len(written)} frames, lost in" in result.stderr


def test_bad_bundle_is_4(run: Run, damaged: Path, folder: Path) -> None:
    graph = damaged / "track.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    for arguments in (("track", folder, "--box", BOX, "--model", damaged), ("info", damaged)):
        result = run(*arguments)
        assert result.exit_code == 4
        assert "sha256" in message(result)


def test_unknown_model_is_4_and_missing_backend_5(run: Run, folder: Path, colour_bundle: Bundle) -> None:
    result = run("track", folder, "--box", BOX, "--model", "no-such-model")
    assert result.exit_code == 4
    result = run("track", folder, "--box", BOX, "--model", colour_bundle.root, "--backend", "abacus")
    assert result.exit_code == 5
    assert "abacus" in message(result)


def test_missing_opencv_is_5(track: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = track(folder)
    assert result.exit_code == 5
    assert "pip install opencv-python-headless" in message(result)


@pytest.mark.parametrize("box", ["200,200,10,10", "10,10,0,10", "nan,1,2,3"])
def test_unusable_box_is_6_and_empties_no_earlier_output(track: Run, folder: Path, tmp_path: Path, box: str) -> None:
    earlier = tmp_path / "out.jsonl"
    earlier.write_text("earlier")
    result = track(folder, "--jsonl", earlier, box=box)
    assert result.exit_code == 6
    assert "expected (x, y, w, h)" in message(result)
    assert earlier.read_text() == "earlier"


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,4,5", "a,b,c,d", ""])
def test_malformed_box_is_2(track: Run, folder: Path, box: str) -> None:
    result = track(folder, box=box)
    assert result.exit_code == 2
    assert "expected four numbers X,Y,W,H" in message(result)


def test_overwriting_the_source_is_2_and_leaves_it_alone(track: Run, clip: Path, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.avi"
    link.symlink_to(clip)
    before = clip.read_bytes()
    for result in (
        track(clip, "--output", clip),
        track(clip, "--output", link),
        track(link, "--jsonl", clip),
        track(clip.as_uri(), "--output", clip),
        track(f"file://localhost{clip}", "--jsonl", clip),
        track(folder, "--jsonl", folder / "3.png"),
    ):
        assert result.exit_code == 2
        assert "would be overwritten" in message(result)
    assert clip.read_bytes() == before
    same = track(clip, "--output", tmp_path / "x", "--jsonl", tmp_path / "x")
    assert same.exit_code == 2


def test_one_file_under_two_names_is_2_and_stays(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.mp4").symlink_to("new.mp4")
    (tmp_path / "earlier.mp4").write_text("earlier")
    (tmp_path / "linked.jsonl").hardlink_to("earlier.mp4")
    for output, jsonl in (
        ("new.mp4", tmp_path / "new.mp4"),
        ("link.mp4", "./new.mp4"),
        ("earlier.mp4", tmp_path / "linked.jsonl"),
    ):
        result = track(clip, "--output", output, "--jsonl", jsonl)
        assert result.exit_code == 2
        assert "given for both --output and --jsonl" in message(result)
    assert not (tmp_path / "new.mp4").exists()
    assert (tmp_path / "earlier.mp4").read_text() == "earlier"


@pytest.mark.parametrize(("jsonl", "said"), [("none/out.jsonl", "there is no folder"), ("", "got an empty --jsonl")])
def test_unwritable_lines_are_2_and_empty_no_earlier_video(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jsonl: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.mp4").write_text("earlier")
    result = track(clip, "--output", "out.mp4", "--jsonl", jsonl)
    assert result.exit_code == 2
    assert said in message(result)
    assert (tmp_path / "out.mp4").read_text() == "earlier"


def test_an_empty_cache_folder_is_2(track: Run, clip: Path) -> None:
    result = track(clip, "--cache-dir", "")
    assert result.exit_code == 2
    assert "got cache_dir=''; expected the path of a folder" in message(result)


def test_unwritable_output_is_2(track: Run, clip: Path, tmp_path: Path) -> None:
    assert "there is no folder" in message(track(clip, "--output", tmp_path / "none" / "out.mp4"))
    result = track(clip, "--output", tmp_path / "out.txt")
    assert result.exit_code == 2
    assert "not the name of a video" in message(result)


@pytest.mark.parametrize(
    ("source", "box", "options", "code", "said"),
    [
        ("none.mp4", BOX, (), 3, "no such file"),
        ("-", BOX, (), 3, "a pipe cannot be read"),
        ("clip.avi", BOX, ("--output", "out.gif"), 2, "not the name of a video"),
        ("clip.avi", BOX, ("--output", "none/out.mp4"), 2, "there is no folder"),
        ("clip.avi", BOX, ("--output", "clip.avi"), 2, "would be overwritten"),
        ("clip.avi", "nan,1,2,3", (), 6, "not finite"),
        ("clip.avi", "10,10,0,10", (), 6, "expected (x, y, w, h)"),
        ("clip.avi", "200,200,10,10", (), 6, "outside the 160x120 frame"),
        ("0", "10,10,0,10", ("--output", "out.mp4"), 6, "expected (x, y, w, h)"),
        ("0", BOX, ("--output", "out.gif"), 2, "not the name of a video"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(
    track: Run,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    box: str,
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(clip.parent)
    monkeypatch.setattr(edgetrack, "Tracker", lambda *_, **__: pytest.fail("was loaded"))
    result = track(source, *options, box=box)
    assert result.exit_code == code
    assert said in message(result)


def test_what_is_live_is_opened_once_the_model_is_loaded(
    track: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, order = edgetrack.Tracker, []

    def loaded(*arguments: Any, **options: Any) -> edgetrack.Tracker:
        order.append("model")
        return real(*arguments, **options)

    def opened(source: str, every_frame: bool) -> Any:
        order.append(source)
        return open_source(folder)

    monkeypatch.setattr(edgetrack, "Tracker", loaded)
    monkeypatch.setattr("edgetrack.sources.open_source", opened)
    for live in ("0", "/dev/video0", "rtsp://camera/1", "v4l2src ! appsink"):
        assert track(live).exit_code == 0
        assert order == ["model", live]
        order.clear()


def test_frames_passed_over_are_numbered_and_said(track: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera(Source):
        """The frames of a folder, of which every third was taken, with the times of a clock."""

        def _read(self) -> np.ndarray | None:
            frame = super()._read()
            if frame is not None:
                self.skipped += 0 if self.read_at is None else 2
                self.read_at = 1.7e9 + 0.1 if self.read_at is None else self.read_at + 0.1
            return frame

    asked = []

    def opened(source: str, every_frame: bool) -> Source:
        asked.append(every_frame)
        files = sorted(folder.iterdir(), key=natural_key)
        return Camera("camera 0", map(read_image, files), files=files)

    monkeypatch.setattr("edgetrack.sources.open_source", opened)
    result = track("0", "--jsonl", "-")
    _, *rest = records(result.stdout)
    assert [record["frame"] for record in rest] == [3 * i for i in range(25)]
    np.testing.assert_allclose([record["time"] for record in rest], 1.7e9 + 0.1 * np.arange(1, 26), atol=2e-3)
    assert "25 frames, 48 passed over, lost in 0" in result.stderr
    track("0", "--every-frame")
    assert asked == [False, True]


def test_every_error_has_a_documented_code() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)("x")
        expected = {
            "EdgeTrackError": 1,
            "NotInitialisedError": 1,  # a bug of the command's, not of its user's
            "OptionError": 2,
            "OutputError": 2,
            "SourceError": 3,
            "SourceTimeoutError": 3,
            "MissingDependencyError": 5,
            "BoxError": 6,
            "FrameError": 6,
        }.get(name, 4 if isinstance(error, errors.BundleError) else 5)
        assert cli.exit_code(error) == expected, name
    text = " ".join(CliRunner().invoke(cli.app, ["--help"]).stdout.split())
    assert "3 the source cannot be read" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["track", "doctor"])
def test_help_breaks_lines_only_where_they_are_full(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run(command, "--help").stdout.partition("╭")[0]
    paragraphs = [block.splitlines() for block in re.split(r"\n\s*\n", text.strip())]
    assert len(paragraphs) == 3  # usage, what it does, more of that
    for lines in paragraphs:
        for line, following in pairwise(map(str.strip, lines)):
            assert len(f"{line} {following.split()[0]}") > columns - 2


def test_errors_of_several_lines_become_one(capsys: pytest.CaptureFixture[str]) -> None:
    cli._say("error: no backend:\n  a: missing\n  b: missing")
    assert capsys.readouterr().err == "edgetrack: error: no backend: a: missing b: missing\n"


# Interruption.


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as a terminal's: a shell starts what it runs in the background with SIGINT ignored, nohup with SIGHUP."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupt_finishes_the_frame_and_closes_the_files(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    real, calls = edgetrack.Tracker.update, []

    def update(self: edgetrack.Tracker, frame: np.ndarray) -> edgetrack.Track:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(number)
        return real(self, frame)

    before = signal.getsignal(number)
    monkeypatch.setattr(edgetrack.Tracker, "update", update)
    result = track(clip, "--output", tmp_path / "out.mp4", "--jsonl", "-")
    assert result.exit_code == code
    assert [r["frame"] for r in records(result.stdout)[1:]] == [0, 1, 2, 3, 4, 5]
    assert len(list(open_source(tmp_path / "out.mp4"))) == 6
    assert "6 frames" in result.stderr
    assert result.stderr.endswith("edgetrack: interrupted\n")
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_wait_for_a_frame(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """As of a stream that hangs: OpenCV gives it up after half a minute, and a service is killed after ten seconds."""
    real, taken = Source.__next__, []

    def hang(self: Source) -> np.ndarray:
        taken.append(1)
        if len(taken) == 4:
            signal.raise_signal(number)
            raise AssertionError("waited on")
        return real(self)

    monkeypatch.setattr(Source, "__next__", hang)
    result = track(clip, "--output", tmp_path / "out.mp4", "--jsonl", "-")
    monkeypatch.undo()
    assert result.exit_code == code
    assert [r["frame"] for r in records(result.stdout)[1:]] == [0, 1, 2]
    assert len(list(open_source(tmp_path / "out.mp4"))) == 3
    assert result.stderr.endswith("edgetrack: interrupted\n")


@pytest.mark.usefixtures("heard")
def test_second_interrupt_ends_at_once_and_still_closes_the_files(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(self: edgetrack.Tracker, frame: np.ndarray) -> edgetrack.Track:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on after two interrupts")

    monkeypatch.setattr(edgetrack.Tracker, "update", hang)
    result = track(clip, "--output", tmp_path / "out.mp4")
    assert result.exit_code == 130
    assert len(list(open_source(tmp_path / "out.mp4"))) == 1


def test_an_ignored_signal_stays_ignored(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edgetrack.Tracker.update

    def update(self: edgetrack.Tracker, frame: np.ndarray) -> edgetrack.Track:
        signal.raise_signal(signal.SIGHUP)
        return real(self, frame)

    monkeypatch.setattr(edgetrack.Tracker, "update", update)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        result = track(clip, "--output", tmp_path / "out.mp4")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 0
    assert len(list(open_source(tmp_path / "out.mp4"))) == 25


def test_an_interrupted_demo_can_be_played(
    run: Run, colour_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = edgetrack.Tracker.update, []

    def update(self: edgetrack.Tracker, frame: np.ndarray) -> edgetrack.Track:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(self, frame)

    monkeypatch.setattr(edgetrack.Tracker, "update", update)
    options = ("--model", colour_bundle.root, "--backend", "onnxruntime-cpu", "--frames", 50)
    options += ("--precision", "fp32", "--threads", 1)
    result = run("demo", *options, "--output", tmp_path)
    assert result.exit_code == 143
    assert len(list(open_source(tmp_path / "demo.mp4"))) == 4


@pytest.mark.parametrize("score", [{"source": "likelihood", "ok_threshold": 0.0}, PRESENCE_ALONE])
def test_a_score_by_which_no_target_is_lost_is_said(run: Run, folder: Path, tmp_path: Path, score: Any) -> None:
    model = write_colour_bundle(tmp_path / "colour", score=score).root
    result = run("track", folder, "--box", BOX, "--model", model, "--backend", "onnxruntime-cpu")
    assert result.exit_code == 0
    assert ("the score of 'colour' is not calibrated" in result.stderr) == (score is not PRESENCE_ALONE)


def test_the_backend_that_auto_chose_is_said(run: Run, colour_bundle: Bundle, folder: Path) -> None:
    options = ("--box", BOX, "--model", colour_bundle.root)
    chosen = run("track", folder / "0.png", *options).stderr.splitlines()
    backend = chosen[-1].rpartition(" | ")[2]
    assert chosen[0].startswith(f"edgetrack: running on {backend}, ")
    assert chosen[0].endswith("`edgetrack doctor` says why the others were not used")
    named = run("track", folder / "0.png", *options, "--backend", backend).stderr.splitlines()
    assert named == chosen[1:]


# info, doctor, demo


def test_info_shows_and_dumps_the_manifest(run: Run, colour_bundle: Bundle) -> None:
    shown = run("info", colour_bundle.root)
    assert shown.exit_code == 0
    texts = ("colour", "seqtrack", "fp32/track, track.onnx", "tokens", "(1, 4)", "41 bins, xywh", "is not checked")
    for text in texts:
        assert text in shown.stdout
    dumped = json.loads(run("info", colour_bundle.root, "--json").stdout)
    assert (dumped["schema"], dumped["version"]) == ("edgetrack.info", 1)
    assert dumped["manifest"] == colour_bundle.manifest.model_dump(mode="json")
    files = [p for p in colour_bundle.root.iterdir() if p.name != "manifest.json"]
    assert dumped["bytes"] == sum(p.stat().st_size for p in files)


@pytest.mark.parametrize("matched", [False, True])
def test_info_says_whether_crops_are_brought_to_the_first_light(run: Run, tmp_path: Path, matched: bool) -> None:
    online = {"window": 0.5, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0}
    bundle = write_colour_bundle(tmp_path / "model", online={**online, "match_illumination": matched})
    assert ("in the light of the first frame" in run("info", bundle.root).stdout) == matched


def test_info_says_when_templates_are_taken_and_keeps_histories_short(run: Run, tmp_path: Path) -> None:
    runs = [{"step": number, "iou": 0.5} for number in range(1000)]
    net, score = ColourNet(templates=2), {"intercept": 0.0, "presence": 1.0, "overlap": 1.0, "ok_threshold": 0.5}
    online = {"window": 0.5, "update_interval": 25, "update_threshold": 0.015, "clip_margin": 10.0}
    overlap = {"source": "overlap", "memory": 0.5, "change": 0.1, **score}
    bundle = write_colour_bundle(
        tmp_path / "two", net, online={**online, "look_around": True}, score=overlap, provenance={"training": runs}
    )
    shown = run("info", bundle.root).stdout
    assert "updated every 25 frames above a likelihood of 0.015 and, looking around, at a score of 0.9 or more" in shown
    training = next(line for line in shown.splitlines() if line.startswith("provenance.training"))
    assert training.endswith(", ... (all of it with --json)")
    assert len(training) < 400
    assert json.loads(run("info", bundle.root, "--json").stdout)["manifest"]["provenance"]["training"] == runs


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, damaged: Path) -> Path:
    """A copy of the synthetic bundle, as if it were the one model that ships."""
    monkeypatch.setattr("edgetrack.bundle._SHIPPED", damaged.parent)
    return damaged


def test_doctor_lists_every_backend_and_checks_shipped_models(run: Run, shipped: Path) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["schema"], found["version"]) == ("edgetrack.doctor", 1)
    assert [b["backend"] for b in found["backends"]] == list(edgetrack_runtimes.BACKENDS)
    assert all(b["available"] != bool(b["reason"]) for b in found["backends"])
    assert found["opencv"]["version"] == cv2.__version__
    assert [(m["name"], m["sound"]) for m in found["models"]] == [(shipped.name, True)]
    text = run("doctor").stdout
    assert all(backend in text for backend in edgetrack_runtimes.BACKENDS)
    assert "intact" in text


def test_doctor_names_what_two_packages_bring(
    run: Run, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "laid over the other" not in run("doctor").stdout
    for name in ("opencv-contrib-python", "opencv-python-headless"):
        (tmp_path / f"{name}-4.13.0.dist-info").mkdir()
        (tmp_path / f"{name}-4.13.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 4.13.0\n")
        (tmp_path / f"{name}-4.13.0.dist-info" / "top_level.txt").write_text("cv2\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    both = "opencv-contrib-python", "opencv-python-headless"
    assert f"cv2 is in {both[0]} and in {both[1]}, one laid over the other: pip uninstall" in run("doctor").stdout
    assert json.loads(run("doctor", "--json").stdout)["doubled"] == {"cv2": list(both)}


def test_doctor_fails_for_a_damaged_model_and_for_nothing_to_run_on(
    run: Run, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgetrack_runtimes, "discover", list)
    assert run("doctor").exit_code == 5
    (shipped / "track.onnx").write_bytes(b"")
    result = run("doctor")
    assert result.exit_code == 4
    assert "unusable" in result.stdout
    assert "track.onnx" in result.stdout


def test_doctor_runs_the_models_and_fails_for_a_wrong_answer(run: Run, shipped: Path) -> None:
    everywhere = run("doctor", "--run", "--json")
    assert everywhere.exit_code == 0
    found = json.loads(everywhere.stdout)
    answering = [backend["backend"] for backend in found["backends"] if backend["available"]]
    right = {"precision": "fp32", "reason": "", "wrong": False}
    runs = found["models"][0]["runs"]
    times = [each.pop("update_ms") for each in runs]
    assert runs == [{"backend": name, **right} for name in answering]
    assert all(each > 0 for each in times)
    said = run("doctor", "--run").stdout
    assert len(re.findall(r"answers as it should, \d+\.\d ms a frame$", said, re.MULTILINE)) == len(answering)

    manifest = json.loads((shipped / "manifest.json").read_text())
    manifest["known_answers"] = {"fp32": {"box": [0.0, 0.0, 10.0, 10.0], "score": 1.0}}
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    wrong = run("doctor", "--run")
    assert wrong.exit_code == 5
    assert wrong.stdout.count("wrongly") == len(answering)
    assert run("doctor").exit_code == 0  # which only reads them


def test_doctor_checks_the_models_it_is_given(run: Run, shipped: Path, colour_bundle: Bundle) -> None:
    bundle = colour_bundle.root
    found = json.loads(run("doctor", bundle, shipped.name, "--run", "--json").stdout)["models"]
    assert [model["name"] for model in found] == [str(bundle), shipped.name]
    assert all(model["sound"] and model["runs"] for model in found)
    missing = run("doctor", shipped / "nowhere")
    assert missing.exit_code == 4
    assert "unusable" in missing.stdout


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        ((), 0),
        (("int8",), 0),
        (("fp16", "fp32"), 0),
        (("fp32", "int8", "fp16"), 0),
        (("fp32", "int8", "fp16", "int8+fp16"), 5),
    ],
)
def test_a_precision_that_a_device_lacks_is_no_failure_of_the_doctor(
    run: Run, shipped: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...], code: int
) -> None:
    manifest = json.loads((shipped / "manifest.json").read_text())
    manifest["variants"]["int8"] = manifest["variants"]["fp32"]
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    status = edgetrack_runtimes.BackendStatus("onnxruntime-cuda", True, "", "1.31.1", ("cuda:0",))
    monkeypatch.setattr(edgetrack_runtimes, "discover", lambda: [status])

    def load(model: str, backend: str, precision: str) -> object:
        if precision in refused:
            raise errors.BackendError(f"no {precision} on {backend}")
        return nullcontext()

    monkeypatch.setattr(edgetrack, "load", load)
    monkeypatch.setattr("edgetrack.doctor._update_ms", lambda _: 4.25)
    result = run("doctor", "--run")
    assert result.exit_code == code
    asked = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("  onnxruntime-cuda")}
    assert asked.keys() == {"fp32", "int8", "fp16", "int8+fp16"}
    for precision, line in asked.items():
        assert line.endswith(
            f"no {precision} on onnxruntime-cuda" if precision in refused else "it should, 4.2 ms a frame"
        )


def test_demo_prints_how_well_it_went(run: Run, colour_bundle: Bundle, tmp_path: Path) -> None:
    backend = ("--backend", "onnxruntime-cpu")
    result = run("demo", "--model", colour_bundle.root, *backend, "--frames", 3, "--output", tmp_path / "d")
    assert result.exit_code == 0
    for text in ("frames per second", "mean overlap", "success rate", "colour fp32, onnxruntime-cpu", "demo.png"):
        assert text in result.stdout
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"demo.mp4", "demo.png"}


# The real process.


def environment() -> dict[str, str]:
    root = Path(edgetrack.__file__).parent.parent
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'runtimes'}"}


def process(*arguments: object, code: str = "", stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "edgetrack"]), *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment(), check=False)


def on_terminal(*arguments: object, stdout: IO[bytes] | None = None) -> str:
    """What a process shows on a terminal, which is its standard error and, unless it goes to a file, its output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgetrack", *map(str, arguments)]
    shown, settings = b"", {**environment(), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=theirs, stdout=stdout or theirs, stderr=theirs, env=settings) as running:
        os.close(theirs)
        with suppress(OSError), open(ours, "rb", buffering=0) as screen:  # EIO once the process has ended
            while part := screen.read(4096):
                shown += part
    assert running.returncode == 0
    return shown.decode()


def test_version_needs_no_command(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"{edgetrack.__version__}\n")
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{edgetrack.__version__}\n", "")


def test_help_imports_nothing_heavy() -> None:
    heavy = ("cv2", "onnxruntime", "openvino", "pydantic", "torch", "onnx", "rich.progress")
    code = f"""
import sys
from edgetrack.cli import main
sys.argv = ["edgetrack", "--help"]
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    done = process(code=code)
    assert done.returncode == 0
    assert "track" in done.stdout
    assert done.stderr.strip() == "[]"


def test_process_keeps_the_streams_apart_and_libraries_quiet(
    folder: Path, colour_bundle: Bundle, tmp_path: Path
) -> None:
    common = ("--box", BOX, "--model", colour_bundle.root, "--backend", "onnxruntime-cpu", "--threads", 1)
    done = process("track", folder, *common, "--jsonl", "-")
    assert done.returncode == 0
    assert len(records(done.stdout)) == 26
    assert len(done.stderr.splitlines()) == 1
    unnamed = os.fsdecode(b"v\xff.mp4")
    (tmp_path / unnamed).write_bytes(b"")
    for code, arguments in (
        (3, (tmp_path / unnamed, *common)),
        (2, (folder, *common, "--output", tmp_path / unnamed)),
    ):
        done = process("track", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert "not UTF-8" in done.stderr
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    done = process("track", tmp_path / "broken.mp4", *common)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1


def test_the_bar_on_a_terminal_takes_no_lines(folder: Path, colour_bundle: Bundle, tmp_path: Path) -> None:
    options = ("--box", BOX, "--model", colour_bundle.root, "--backend", "onnxruntime-cpu", "--jsonl", "-")
    with (tmp_path / "out.jsonl").open("wb") as file:
        shown = on_terminal("track", folder, *options, stdout=file)
    assert len(records((tmp_path / "out.jsonl").read_text())) == 26
    assert "/25" in shown  # the bar
    assert '"frame"' not in shown
    *lines, summary = on_terminal("track", folder, *options).splitlines()
    assert [each["frame"] for each in map(json.loads, lines[1:])] == list(range(25))  # no bar in between
    assert summary.startswith("edgetrack: 25 frames")


def test_warnings_of_the_library_read_as_messages_of_the_command() -> None:
    code = """
import logging
from edgetrack import cli
cli.app = lambda **_: logging.getLogger("edgetrack").warning("%s fails:\\n  so it is", "a-backend")
cli.main()
"""
    assert process(code=code).stderr == "edgetrack: warning: a-backend fails: so it is\n"


LOADING = """
import os, signal, sys
from pathlib import Path
import edgetrack.model
from edgetrack import cli

def loading(*arguments):
    print(len(list(Path(os.environ["TMPDIR"]).glob("edgetrack-*"))), "unpacked", file=sys.stderr)
    for number in {sent}:
        os.kill(os.getpid(), number)
    return real(*arguments)

real, edgetrack.model.open_session = edgetrack.model.open_session, loading
for number in {ignored}:
    signal.signal(number, signal.SIG_IGN)
cli.main()
"""


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("sent", "ignored", "code"),
    [
        ([signal.SIGINT], [], 130),
        ([signal.SIGTERM], [], 143),
        ([signal.SIGHUP], [], 129),
        ([signal.SIGHUP, signal.SIGHUP], [], 129),  # of a closed terminal, from the system and from the shell
        ([signal.SIGHUP], [signal.SIGHUP], 0),  # as nohup does
    ],
)
def test_an_interrupt_while_loading_leaves_nothing_unpacked(
    folder: Path,
    colour_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: list[int],
    ignored: list[int],
    code: int,
) -> None:
    archive = pack(colour_bundle.root, tmp_path / "colour.zip")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    options = ("--box", BOX, "--model", archive, "--backend", "onnxruntime-cpu", "--threads", 1)
    run = LOADING.format(sent=list(map(int, sent)), ignored=list(map(int, ignored)))
    done = process("track", folder / "0.png", *options, code=run)
    assert done.returncode == code
    assert done.stderr.startswith("1 unpacked\n")
    assert done.stderr.endswith("edgetrack: interrupted\n") == bool(code)
    assert list(scratch.glob("edgetrack-*")) == []


SWALLOWED = """
import os, signal
import edgetrack.model
from edgetrack import cli

def loading(*arguments):
    try:
        signal.raise_signal({sent})
    except KeyboardInterrupt:
        pass  # as an extension module's loader does
    return real(*arguments)

real, edgetrack.model.open_session = edgetrack.model.open_session, loading
cli.main()
"""


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_is_swallowed_while_loading_ends_it_then(
    folder: Path, colour_bundle: Bundle, sent: int
) -> None:
    options = ("--box", BOX, "--model", colour_bundle.root, "--backend", "onnxruntime-cpu", "--jsonl", "-")
    done = process("track", folder, *options, code=SWALLOWED.format(sent=int(sent)))
    assert (done.returncode, done.stdout) == (128 + sent, "")
    assert done.stderr.endswith("edgetrack: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["info", "info --json", "doctor", "demo"])
def test_a_full_standard_output_is_2(colour_bundle: Bundle, tmp_path: Path, command: str) -> None:
    name, *options = command.split()
    if name == "info":
        options.append(str(colour_bundle.root))
    elif name == "demo":
        options += ["--model", str(colour_bundle.root), "--backend", "onnxruntime-cpu", "--frames", "2"]
        options += ["--output", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = process(name, *options, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "edgetrack: error: standard output: cannot be written: No space left on device\n"


def test_a_reader_that_has_seen_enough_is_told_nothing(colour_bundle: Bundle) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        done = process("info", colour_bundle.root, stdout=gone)
    assert (done.returncode, done.stderr) == (1, "")
