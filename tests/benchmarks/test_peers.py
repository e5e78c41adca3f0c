"""Targets that go and come back, and the comparison of trackers that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import loss
from benchmarks.cli import app
from benchmarks.contenders import Answer
from benchmarks.datasets import Sequence, read_dataset


@pytest.fixture
def plain(dataset_folder: Path) -> Sequence:
    return read_dataset(str(dataset_folder), ("plain",)).sequences[0]


def is_orange(frame: np.ndarray) -> np.ndarray:
    return frame[..., 2].astype(int) - frame[..., 0] > 120


def test_erasing_takes_the_target_and_nothing_else(plain: Sequence) -> None:
    frame = next(iter(loss.play(plain, far=False)))[0]
    before = frame.copy()
    x, y, w, h = plain.truth[0].astype(int)
    erased = loss.erase(frame, plain.truth[0])
    np.testing.assert_array_equal(frame, before)
    assert is_orange(frame).sum() == w * h
    assert not is_orange(erased).any()
    outside = np.ones(frame.shape[:2], bool)
    outside[y - 6 : y + h + 6, x - 6 : x + w + 6] = False
    np.testing.assert_array_equal(erased[outside], frame[outside])


def test_erasing_a_box_over_the_border_leaves_a_frame(plain: Sequence) -> None:
    frame = next(iter(loss.play(plain, far=False)))[0]
    for box in ((-20, -20, 40, 40), (150, 100, 60, 60), (-50, -50, 300, 300), (500, 500, 10, 10)):
        assert loss.erase(frame, np.asarray(box, float)).shape == frame.shape


@pytest.mark.parametrize("far", [False, True])
def test_the_target_goes_and_comes_back(plain: Sequence, far: bool) -> None:
    gone, back = loss.parts(len(plain.frames))
    for index, (frame, box, visible) in enumerate(loss.play(plain, far)):
        assert visible == (not gone <= index < back) or far
        orange = is_orange(frame)
        assert orange.any() == (not gone <= index < back)
        if orange.any() and visible:
            ys, xs = np.nonzero(orange)
            np.testing.assert_allclose([xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1], box)
        if far and index >= back:
            assert abs(box[0] - plain.truth[index, 0]) == frame.shape[1] // 2


class Orange:
    """Finds orange pixels anywhere, and says so when there are none."""

    label = "orange"
    identity: dict = {"kind": "orange"}  # noqa: RUF012

    def init(self, frame: np.ndarray, box: object) -> None:
        self.box = tuple(box)

    def update(self, frame: np.ndarray) -> Answer:
        ys, xs = np.nonzero(is_orange(frame))
        if len(xs):
            self.box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        return Answer(self.box, 0.9 if len(xs) else 0.1, bool(len(xs)), 0.001)


class Blind(Orange):
    """Stays where it was put, and is always sure."""

    def update(self, frame: np.ndarray) -> Answer:
        return Answer(self.box, 0.5, True, 0.001)


def test_a_tracker_that_sees_and_one_that_does_not(plain: Sequence) -> None:
    seeing = loss.measure(Orange(), [plain])
    assert seeing == pytest.approx(
        {
            "gone_ok": 0,
            "score_seen": 0.9,
            "score_gone": 0.1,
            "separation": 1,
            "found_near": 1,
            "found_far": 1,
            "sequences": 1,
        }
    )
    blind = loss.measure(Blind(), [plain])
    assert (blind["gone_ok"], blind["score_gone"]) == (1, 0.5)
    assert (blind["found_near"], blind["found_far"]) == (0, 0)
    assert np.isnan(blind["separation"])  # the target left its box before it went: there is no frame to compare with


def test_sequences_with_absent_frames_are_not_played(dataset_folder: Path) -> None:
    sequences = read_dataset(str(dataset_folder)).sequences
    assert [s.name for s in sequences if loss.usable(s)] == ["plain"]


values = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12).map(np.asarray)


@given(values, values)
def test_separation_counts_pairs(higher: np.ndarray, lower: np.ndarray) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in higher for b in lower]
    assert loss.separation(higher, lower) == pytest.approx(np.mean(pairs))


def test_command_says_which_peers_are_missing(bundle: Path, dataset_folder: Path, tmp_path: Path) -> None:
    arguments = ["peers", "--dataset", str(dataset_folder), "--sequence", "plain", "--model", str(bundle)]
    options = ["--backend", "onnxruntime-cpu", "--threads", "1", "--out", str(tmp_path), "--json", "-"]
    result = CliRunner().invoke(app, arguments + options)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    labels = [each["contender"]["label"] for each in content["contenders"]]
    assert labels[0].endswith("fp32 on onnxruntime-cpu")
    assert "OpenCV MIL" in labels
    assert len(labels) + len(content["missing"]) == 5  # the model, MIL, KCF, CSRT, MOSSE
    assert all("contrib" in reason for reason in content["missing"].values())
    assert all(each["loss"]["sequences"] == 1 for each in content["contenders"])
