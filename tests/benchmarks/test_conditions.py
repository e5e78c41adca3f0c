"""The changes of a picture against arithmetic, and what is counted under them against a tracker of known answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_report import accuracy
from typer.testing import CliRunner

from benchmarks import conditions
from benchmarks.cli import app
from benchmarks.conditions import CONDITIONS, ONSET, Changed, measure
from benchmarks.contenders import Answer
from benchmarks.datasets import Dataset, Sequence, read_dataset
from benchmarks.report import gather, render
from benchmarks.results import ResultsError

BOX = np.asarray([10.0, 10.0, 20.0, 20.0])


def changed(name: str, frame: np.ndarray) -> np.ndarray:
    before = frame.copy()
    after = CONDITIONS[name](frame, 5)
    np.testing.assert_array_equal(frame, before)
    assert (after.shape, after.dtype) == (frame.shape, np.uint8)
    return after


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unchanged", (100, 60, 200)),
        ("15% warmer", (85, 60, 230)),
        ("15% colder", (115, 60, 170)),
        ("30% warmer", (70, 60, 255)),
        ("30% colder", (130, 60, 140)),
        ("15% greener", (100, 69, 200)),
        ("15% less green", (100, 51, 200)),
        ("a quarter of the light", (25, 15, 50)),
        ("twice the light", (200, 120, 255)),
        ("blurred by 2 px", (100, 60, 200)),
        # ITU-R BT.601's weights of blue, green and red: 0.114, 0.587, 0.299.
        ("grey", (106, 106, 106)),
    ],
)
def test_colours_change_as_the_name_says(name: str, expected: tuple[int, ...]) -> None:
    frame = np.full((9, 12, 3), (100, 60, 200), np.uint8)
    np.testing.assert_array_equal(changed(name, frame), np.broadcast_to(np.uint8(expected), frame.shape))


def test_noise_is_as_strong_as_said_and_the_same_each_time() -> None:
    frame = np.full((200, 200, 3), 128, np.uint8)
    grain = changed("noise of 20 in 255", frame).astype(float) - 128
    assert abs(grain.mean()) < 0.3
    assert grain.std() == pytest.approx(20, abs=0.3)
    np.testing.assert_array_equal(grain, changed("noise of 20 in 255", frame).astype(float) - 128)
    assert (grain != CONDITIONS["noise of 20 in 255"](frame, 6).astype(float) - 128).mean() > 0.9


def test_a_blurred_point_is_as_wide_as_said() -> None:
    frame = np.zeros((41, 41, 3), np.uint8)
    frame[20:22, 20:22] = 255
    row = changed("blurred by 2 px", frame)[..., 0].astype(float).sum(0)
    place = np.arange(41) - 20.5
    # Variances add: the point's own, of two pixels side by side, is a quarter.
    assert np.sqrt((row * place**2).sum() / row.sum() - 0.25) == pytest.approx(2, abs=0.2)


def test_every_second_stripe_is_shaded() -> None:
    frame = changed("shaded in stripes", np.full((120, 160, 3), 100, np.uint8))
    assert (frame == frame[..., :1]).all()
    # Along the diagonal a stripe is a quarter of 160 px wide; in the middle of each there is all of the light or 40%.
    middles = [round((40 * stripe + 20) / np.sqrt(2)) for stripe in range(4)]
    assert [int(frame[at, at, 0]) for at in middles] == [100, 40, 100, 40]
    assert np.unique(np.fliplr(frame)[20:100, 60:140].diagonal()).size == 1  # the stripes run to the top right
    assert 0.9 < np.isin(frame, (40, 100)).mean() < 0.97  # the edges are soft: a sixteenth of a stripe
    steps = np.abs(np.diff(frame[..., 0].astype(int), axis=1))
    assert steps.max() <= 60 / 3.5 + 1  # of 60 over 2.5 px across, 3.5 px along a row


def test_compression_leaves_blocks(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "10.jpg"
    cv2.imwrite(str(path), frame, [cv2.IMWRITE_JPEG_QUALITY, 10])
    np.testing.assert_array_equal(changed("JPEG at quality 10", frame), cv2.imread(str(path)))


def still(folder: Path, name: str, count: int, absent: tuple[int, ...] = ()) -> Sequence:
    """A film of one grey picture."""
    path = folder / "grey.png"
    cv2.imwrite(str(path), np.full((48, 64, 3), 100, np.uint8))
    truth = np.repeat(BOX[None], count, axis=0)
    gone = np.isin(np.arange(count), absent)
    truth[gone] = np.nan
    return Sequence(name, (path,) * count, truth, gone)


def test_the_picture_changes_after_the_first_frames_alone(tmp_path: Path) -> None:
    plain = still(tmp_path, "film", ONSET + 3)
    dim = Changed(plain.name, plain.frames, plain.truth, plain.absent, condition="a quarter of the light")
    assert [int(dim.read(index).max()) for index in range(ONSET + 3)] == [100] * ONSET + [25] * 3
    noisy = replace(dim, condition="noise of 20 in 255")
    assert (noisy.read(ONSET) != noisy.read(ONSET + 1)).mean() > 0.9
    np.testing.assert_array_equal(noisy.read(ONSET), noisy.read(ONSET))


class Scripted:
    """Answers with boxes and whether they are reported by the number of the update and the picture's brightness."""

    label, identity = "scripted", {"kind": "scripted"}

    def init(self, frame: np.ndarray, box: object) -> None:
        assert frame.max() == 100
        self.number = 0

    def update(self, frame: np.ndarray) -> Answer:
        self.number += 1
        if frame.mean() > 50:
            return Answer(tuple(BOX), 1.0, True, 0.0)
        if self.number % 2:  # a half of the target: wrong, and known to be
            return Answer((*BOX[:3], 10.0), 0.1, False, 0.0)
        return Answer(tuple(BOX), 0.9, self.number % 4 == 0, 0.0)


@pytest.fixture
def films(tmp_path: Path) -> Dataset:
    films = (
        still(tmp_path, "whole", ONSET + 4),
        still(tmp_path, "gone", ONSET + 4, absent=(ONSET, ONSET + 1)),
        still(tmp_path, "short", ONSET),
        still(tmp_path, "never back", ONSET + 2, absent=(ONSET, ONSET + 1)),
    )
    return Dataset("films", "ope", films)


def test_what_is_counted_is_what_is_counted_by_hand(films: Dataset) -> None:
    named: list[str] = []
    entries, left_out = measure(Scripted(), films, named.append)
    assert left_out == ("short", "never back")
    assert len(named) == 2 * len(CONDITIONS)
    found = {entry["condition"]: entry for entry in entries}
    assert list(found) == list(CONDITIONS)
    whole, half = 20 / 21, 10 / 21  # thresholds that an overlap of 1 and of 0.5 are above, of 21
    # Frames 30 and 32 are right, 32 ok; 31 and 33 are wrong and not ok. In the second film the target is absent in
    # 30 and 31, both answered not ok.
    dim = found["a quarter of the light"]
    assert dim["auc"] == pytest.approx((whole + half) / 2)
    assert dim["right_lost"] == pytest.approx(1 / 3)
    assert dim["wrong_ok"] == 0
    plain = found["unchanged"]
    assert (plain["auc"], plain["right_lost"]) == (pytest.approx(whole), 0)
    assert plain["wrong_ok"] == 1  # the two frames without the target


def test_a_share_of_nothing_is_none(films: Dataset) -> None:
    entries, _ = measure(Scripted(), replace(films, sequences=films.sequences[:1]))
    assert entries[0]["wrong_ok"] is None
    assert all(entry["right_lost"] is not None for entry in entries)


def test_films_that_end_before_the_change_are_refused(films: Dataset) -> None:
    with pytest.raises(ResultsError, match=r"films: the picture changes after 30 frames, and no sequence shows"):
        measure(Scripted(), replace(films, sequences=films.sequences[2:]))


def test_command_and_report(
    bundle: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(conditions, "ONSET", 12)
    arguments = ["conditions", str(bundle), "--dataset", str(dataset_folder), "--backend", "onnxruntime-cpu"]
    path = tmp_path / "record.json"
    result = CliRunner().invoke(app, [*arguments, "--threads", "1", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "left out, without the target by then: plain" in result.output
    content = json.loads(path.read_text())
    assert content["dataset"] == read_dataset(str(dataset_folder)).describe()
    assert content["left_out"] == ["plain"]
    assert [entry["condition"] for entry in content["entries"]] == list(CONDITIONS)
    assert all(0 <= entry["auc"] <= 1 for entry in content["entries"])
    page = render(gather([accuracy("a", 0.5, 5.0), content]))
    assert "tracking drawn." in page
    assert f"<td>{100 * content['entries'][0]['auc']:.1f}</td>" in page
    assert "When the picture changes" not in render(gather([accuracy("a", 0.5, 5.0)]))
