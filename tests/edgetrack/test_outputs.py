"""Videos and JSON lines: whole when closed, and refused by name when they cannot be written."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgetrack.errors import OutputError
from edgetrack.outputs import JsonLines, VideoFile
from edgetrack.sources import open_source


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv", "out.mov"])
def test_video_holds_what_was_written(tmp_path: Path, name: str) -> None:
    with VideoFile(tmp_path / name, 20.0, (64, 48)) as video:
        for value in (40, 120, 200):
            video.write(np.full((48, 64, 3), value, np.uint8))
    source = open_source(tmp_path / name)
    assert (source.fps, source.size) == (20.0, (64, 48))
    assert [round(float(f.mean()), -1) for f in source] == [40, 120, 200]


def test_frames_of_another_size_are_kept_not_dropped(tmp_path: Path) -> None:
    """cv2.VideoWriter drops them without a word."""
    with VideoFile(tmp_path / "out.mp4", 30, (64, 48)) as video:
        for shape in ((48, 64, 3), (96, 128, 3), (20, 20, 3)):
            video.write(np.full(shape, 128, np.uint8))
    assert [f.shape for f in open_source(tmp_path / "out.mp4")] == [(48, 64, 3)] * 3


def test_video_is_whole_after_an_error(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with VideoFile(tmp_path / "out.mp4", 30, (64, 48)) as video:
            video.write(np.zeros((48, 64, 3), np.uint8))
            raise RuntimeError("while tracking")

    with pytest.raises(RuntimeError):
        fail_midway()
    assert len(list(open_source(tmp_path / "out.mp4"))) == 1


def test_unwritable_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        VideoFile(tmp_path / "none" / "out.mp4", 30, (64, 48))
    with pytest.raises(OutputError, match=r"out\.mp4: OpenCV cannot write this video \(0x48, codec mp4v\)"):
        VideoFile(tmp_path / "out.mp4", 30, (0, 48))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match=r"folder\.mp4: cannot be written: it is a folder"):
        VideoFile(tmp_path / "folder.mp4", 30, (64, 48))


def test_a_video_without_leave_to_write_is_refused_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is for another user than root, who may write all."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    (tmp_path / "earlier.mp4").write_bytes(b"earlier")
    for name in ("earlier.mp4", "new.mp4"):
        with pytest.raises(OutputError, match=rf"{name}: cannot be written by this user"):
            VideoFile(tmp_path / name, 30, (64, 48))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


@pytest.mark.parametrize("name", ["%06d.png", "000001.png", "%d.JPG", "out.txt", "out"])
def test_only_the_name_of_a_video_is_written(tmp_path: Path, name: str) -> None:
    """OpenCV takes 000001.png for the first of a row of images."""
    images = [tmp_path / f"{index:06d}.png" for index in range(3)]
    for image in images:
        image.write_bytes(b"an image")
    with pytest.raises(OutputError, match=rf"{name}: not the name of a video; expected one that ends in \.mp4"):
        VideoFile(tmp_path / name, 30, (64, 48))
    assert sorted(tmp_path.iterdir()) == images
    assert all(image.read_bytes() == b"an image" for image in images)


@pytest.mark.parametrize("name", ["%06d.mp4", "out_%d.AVI"])
def test_a_video_with_a_percent_sign_is_one_file(tmp_path: Path, name: str) -> None:
    with VideoFile(tmp_path / name, 30, (64, 48)) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["2024-05-01T12:30:05.mp4", "file:a.mkv"])
def test_a_relative_path_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoFile(Path(name), 30, (64, 48)) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
    source = open_source(name)
    assert (source.name, len(list(source))) == (name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [b"v\xff.mp4", b"v\xff/out.mp4"])
def test_a_name_that_is_not_utf_8_does_not_reach_opencv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """It would end the process."""
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(cv2, "VideoWriter", lambda *_: pytest.fail("reached OpenCV"))
    with pytest.raises(OutputError, match=r"v\\udcff.*mp4', which is not UTF-8; expected a name that is: rename it"):
        VideoFile(path, 30, (64, 48))


def test_odd_sizes_lose_their_last_row_and_column(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "out.mp4", 30, (65, 49)) as video:
        video.write(np.full((49, 65, 3), 128, np.uint8))
    assert [f.shape for f in open_source(tmp_path / "out.mp4")] == [(48, 64, 3)]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A disk that is full once a file has `size` bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.parametrize("size", [0, 1000, 150_000])
@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv", "out.mov"])
def test_a_video_on_a_full_disk_is_an_error(tmp_path: Path, name: str, size: int) -> None:
    video = VideoFile(tmp_path / name, 30, (128, 96))
    with files_limited_to(size):
        for index in range(40):
            video.write(noise(index))
        with pytest.raises(OutputError, match=rf"{name}: does not hold the 40 frames written to it"):
            video.close()
    video.close()


@pytest.mark.parametrize("fps", [1.0, 23.976, 29.97, 59.94, 64.996, 65.613, 119.937, 239.7613, 999.93])
@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv", "out.mov"])
def test_a_whole_video_passes_at_any_rate(tmp_path: Path, name: str, fps: float) -> None:
    for count in (1, 2, 37):
        with VideoFile(tmp_path / name, fps, (128, 96)) as video:
            for index in range(count):
                video.write(noise(index))


@pytest.mark.parametrize(("told", "whole"), [(9, True), (11, True), (8, False), (12, False), (0, False)])
def test_a_video_that_tells_of_another_number_of_frames_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int, whole: bool
) -> None:
    """One more or less is how Matroska rounds."""

    class Told:
        def __init__(self, *_: object) -> None: ...

        def get(self, _: int) -> float:
            return told

        def set(self, *_: object) -> None: ...

        def read(self) -> tuple[bool, None]:
            return True, None

        def release(self) -> None: ...

    video = VideoFile(tmp_path / "a.mkv", 30, (64, 48))
    for _ in range(10):
        video.write(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr(cv2, "VideoCapture", Told)
    if whole:
        video.close()
        return
    with pytest.raises(OutputError, match=r"a\.mkv: does not hold the 10 frames"):
        video.close()


def test_a_video_without_frames_is_no_error(tmp_path: Path) -> None:
    VideoFile(tmp_path / "out.mp4", 30, (64, 48)).close()


def test_a_lost_video_does_not_hide_the_error_before_it(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with VideoFile(tmp_path / "out.mp4", 30, (64, 48)) as video:
            video.write(np.zeros((48, 64, 3), np.uint8))
            video._writer.release()
            (tmp_path / "out.mp4").unlink()
            raise RuntimeError("while tracking")

    with pytest.raises(RuntimeError, match="while tracking"):
        fail_midway()


def test_json_lines_are_on_disk_before_close(tmp_path: Path) -> None:
    lines = JsonLines(str(tmp_path / "a.jsonl"))
    lines.write({"frame": 0, "box": [1.5, 2, 3, 4]})
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"frame": 0, "box": [1.5, 2, 3, 4]}
    lines.close()
    lines.close()
    with pytest.raises(OutputError, match="cannot be written"):
        JsonLines(str(tmp_path / "none" / "a.jsonl"))


def test_json_lines_to_standard_output_leave_it_open(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines("-") as lines:
        lines.write({"a": None})
    sys.stdout.write("still open\n")
    assert capsys.readouterr().out == '{"a": null}\nstill open\n'


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with JsonLines(str(tmp_path / "a.jsonl")) as lines:
        lines.write(
            {"score": np.float64("nan"), "ok": True, "box": (math.inf, 1.5, [-math.inf]), "more": {"n": math.nan}}
        )
    expected = {"score": None, "ok": True, "box": [None, 1.5, [None]], "more": {"n": None}}
    assert json.loads((tmp_path / "a.jsonl").read_text()) == expected


def test_json_lines_on_a_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    lines = JsonLines(str(target))
    with files_limited_to(100):
        with pytest.raises(OutputError, match=r"a\.jsonl: cannot be written: \w+"):
            lines.write({"long": "x" * 1000})
        with pytest.raises(OutputError, match=r"a\.jsonl: cannot be written: \w+"):
            lines.close()  # what the failed write left behind
    lines.close()


WRITER = """
import sys
from edgetrack.errors import OutputError
from edgetrack.outputs import JsonLines
try:
    with JsonLines("-") as lines:
        while True:
            lines.write({"long": "x" * 1000})
except OutputError as error:
    sys.stderr.write(str(error))
    sys.exit(2)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (">&-", "standard output is closed; expected it open, or the path of a file in place of -"),
        ("| true", "standard output: cannot be written: Broken pipe"),
    ],
)
def test_json_lines_nobody_can_read(redirection: str, said: str) -> None:
    command = f'"$0" -c "$1" {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, WRITER], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == said  # and no traceback, nor one from Python's flush at exit
