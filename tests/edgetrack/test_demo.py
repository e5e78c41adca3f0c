"""The demo: what it writes, and that its numbers are the ones the boxes give."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import edgetrack
from edgetrack import demo
from edgetrack.demo import run_demo
from edgetrack.errors import BundleError, OptionError, OutputError
from edgetrack.scene import SceneFrame
from edgetrack.sources import open_source


def test_demo_writes_a_playable_video_and_a_picture(colour_model: edgetrack.Model, tmp_path: Path) -> None:
    ticks: list[int] = []
    result = run_demo(tmp_path / "new" / "folder", colour_model, frames=5, advance=lambda: ticks.append(1))
    assert (result.model, result.backend, result.precision) == ("colour", "onnxruntime-cpu", "fp32")
    assert (result.frames, result.threads, len(ticks)) == (4, 1, 5)
    assert result.fps > 0
    assert result.latency_ms > 0
    video = open_source(result.video)
    assert (video.fps, video.size) == (30, (640, 360))
    assert len(list(video)) == 5
    picture = cv2.imread(str(result.picture))
    assert picture.shape == (726, 1286, 3)
    assert picture.std() > 20


class FilmOfFour:
    """Stands in for the scene: four still frames, the third with the target out of sight."""

    size = (64, 48)

    def __init__(self, seed: int) -> None:
        assert seed == 7

    def frames(self, count: int) -> Any:
        for visible in (1.0, 1.0, 0.0, 1.0)[:count]:
            yield SceneFrame(np.zeros((48, 64, 3), np.uint8), (10.0, 10.0, 20.0, 10.0), visible)


class TrackerOfThree:
    """Stands in for the tracker: exact, then far off while the target is hidden, then half a box off; `oks` is what it
    says of each."""

    oks = (True, True, True)

    def __init__(self, model: str, backend: str, precision: str, threads: int, redetect: Any) -> None:
        self.search = SimpleNamespace(manifest=SimpleNamespace(name=redetect))
        options = SimpleNamespace(threads=threads)
        manifest = SimpleNamespace(name=model)
        self.model = SimpleNamespace(manifest=manifest, backend=backend, precision=precision, options=options)
        self.times = iter((2.0, 4.0, 30.0))
        self.said = iter(self.oks)
        self.boxes = iter([(10.0, 10.0, 20.0, 10.0), (50.0, 40.0, 5.0, 5.0), (20.0, 10.0, 20.0, 10.0)])

    def init(self, frame: np.ndarray, box: tuple[float, ...]) -> None:
        assert box == (10.0, 10.0, 20.0, 10.0)

    def update(self, frame: np.ndarray) -> edgetrack.Track:
        return edgetrack.Track(next(self.boxes), 0.5, next(self.said), next(self.times), {})


def test_numbers_leave_out_the_first_frame_and_the_hidden_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "Scene", FilmOfFour)
    monkeypatch.setattr(edgetrack, "Tracker", TrackerOfThree)
    how = {"precision": "int8", "threads": 3, "redetect": "some-search"}
    result = run_demo(tmp_path, "some-model", "some-backend", frames=4, seed=7, **how)
    assert (result.frames, result.hidden) == (3, 1)
    assert result.overlap == pytest.approx((1 + 1 / 3) / 2)
    assert result.success == 0.5
    assert (result.fps, result.latency_ms) == (250, 4)
    assert (result.model, result.backend) == ("some-model + some-search", "some-backend")
    assert (result.precision, result.threads) == ("int8", 3)


@pytest.mark.parametrize(
    ("oks", "lost", "misled"),
    [
        ((True, True, True), 0, 2),
        ((True, False, False), 2, 0),
        ((False, True, False), 2, 1),
        ((True, False, True), 1, 1),
    ],
)
def test_what_is_said_of_the_target_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, oks: tuple[bool, ...], lost: int, misled: int
) -> None:
    monkeypatch.setattr(demo, "Scene", FilmOfFour)
    monkeypatch.setattr(edgetrack, "Tracker", TrackerOfThree)
    monkeypatch.setattr(TrackerOfThree, "oks", oks)
    result = run_demo(tmp_path, "some-model", "some-backend", frames=4, seed=7, redetect="some-search")
    assert (result.lost, result.misled) == (lost, misled)


def test_too_short_a_film_and_a_bad_folder_are_refused(
    colour_model: edgetrack.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="got 1 frames; expected at least 2"):
        run_demo(tmp_path, colour_model, frames=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made a folder: Not a directory"):
        run_demo(tmp_path / "file" / "demo", colour_model, frames=2)
    monkeypatch.setattr(edgetrack, "Tracker", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(OutputError, match="file: is a file; expected a folder"):
        run_demo(tmp_path / "file", colour_model, frames=2)


def test_a_folder_that_is_not_utf_8_is_refused(colour_model: edgetrack.Model, tmp_path: Path) -> None:
    """OpenCV would end the process."""
    with pytest.raises(OutputError, match="which is not UTF-8"):
        run_demo(tmp_path / os.fsdecode(b"v\xff"), colour_model, frames=2)


def test_a_picture_that_cannot_be_written_is_an_error(colour_model: edgetrack.Model, tmp_path: Path) -> None:
    (tmp_path / "demo.png").mkdir()
    with pytest.raises(OutputError, match=r"demo\.png: cannot be written"):
        run_demo(tmp_path, colour_model, frames=2)


def test_unknown_model_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        run_demo(tmp_path / "out", "no-such-model", frames=2)
    assert not (tmp_path / "out").exists()
