"""Videos and JSON lines: whole when closed, and refused by name when they cannot be written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgetrack.errors import OptionError
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
    with pytest.raises(OptionError, match="there is no folder"):
        VideoFile(tmp_path / "none" / "out.mp4", 30, (64, 48))
    with pytest.raises(OptionError, match=r"out\.txt: OpenCV cannot write this video \(64x48, codec mp4v\)"):
        VideoFile(tmp_path / "out.txt", 30, (64, 48))


def test_odd_sizes_can_be_written(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "out.mp4", 30, (65, 49)) as video:
        video.write(np.full((49, 65, 3), 128, np.uint8))
    frame = cv2.VideoCapture(str(tmp_path / "out.mp4")).read()[1]
    assert frame is not None


def test_json_lines_are_on_disk_before_close_and_refuse_nan(tmp_path: Path) -> None:
    lines = JsonLines(str(tmp_path / "a.jsonl"))
    lines.write({"frame": 0, "box": [1.5, 2, 3, 4]})
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"frame": 0, "box": [1.5, 2, 3, 4]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.write({"score": float("nan")})
    lines.close()
    lines.close()
    with pytest.raises(OptionError, match="cannot be written"):
        JsonLines(str(tmp_path / "none" / "a.jsonl"))


def test_json_lines_to_standard_output_leave_it_open(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines("-") as lines:
        lines.write({"a": None})
    sys.stdout.write("still open\n")
    assert capsys.readouterr().out == '{"a": null}\nstill open\n'
