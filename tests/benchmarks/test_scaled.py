"""Smaller pictures of the same films: what is shown, where the target is in them, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.datasets import Dataset, read_dataset
from benchmarks.results import ResultsError
from benchmarks.scaled import scaled


@pytest.fixture
def data(dataset_folder: Path) -> Dataset:
    return read_dataset(str(dataset_folder))


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_pictures_and_truth_are_of_one_size(data: Dataset, scale: float) -> None:
    made, left_out = scaled(data, scale)
    assert (made.name, made.protocol, left_out) == (f"{data.name}-x{scale:g}", data.protocol, ())
    for before, after in zip(data.sequences, made.sequences, strict=True):
        assert (after.name, after.frames, after.attributes) == (before.name, before.frames, before.attributes)
        np.testing.assert_array_equal(after.absent, before.absent)
        np.testing.assert_allclose(after.truth, before.truth * scale)
        height, width = before.read(3).shape[:2]
        assert after.read(3).shape == (round(height * scale), round(width * scale), 3)


def test_a_quarter_is_the_mean_of_what_it_shows(data: Dataset) -> None:
    before = data.sequences[0].read(0)
    after = scaled(data, 0.25)[0].sequences[0].read(0)
    height, width = (side // 4 for side in before.shape[:2])
    means = before[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3).mean((1, 3))
    np.testing.assert_allclose(after[:height, :width], means, atol=1)


def test_each_scale_is_shown_for_itself(data: Dataset) -> None:
    shown = {scaled(data, scale)[0].sequences[0].shown for scale in (0.25, 0.5)} | {data.sequences[0].shown}
    assert len(shown) == 3


def test_a_target_that_would_be_less_than_a_pixel_is_left_out(data: Dataset) -> None:
    first, *rest = data.sequences
    truth = first.truth.copy()
    truth[0, 3] = 3.9
    mixed = replace(data, sequences=(replace(first, truth=truth), *rest))
    made, left_out = scaled(mixed, 0.25)
    assert left_out == (first.name,)
    assert [each.name for each in made.sequences] == [each.name for each in rest]
    with pytest.raises(ResultsError, match=r"at 0\.01 of their size no first box is 1 pixel wide and high"):
        scaled(data, 0.01)


def test_the_command_tracks_the_smaller_pictures(bundle: Path, dataset_folder: Path, tmp_path: Path) -> None:
    arguments = ["accuracy", str(bundle), "--dataset", str(dataset_folder), "--backend", "onnxruntime-cpu"]
    arguments += ["--threads", "1", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "a.json")]
    result = CliRunner().invoke(app, [*arguments, "--scale", "2"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["dataset"]["name"] == f"{dataset_folder.name}-x2"
    kept = next((tmp_path / "out").rglob("plain_001.txt"))
    given = np.loadtxt(dataset_folder / "plain" / "groundtruth.txt", delimiter=",")
    np.testing.assert_allclose(np.loadtxt(kept, delimiter=","), 2 * given, atol=10)
    assert record["metrics"]["auc"] > 0.7
