"""The calibrated score: the fit against known coefficients, the measures against plain counts, the device's own map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from edgetrack.bundle import OverlapScore
from edgetrack.decoding import Decoded, hanning_window
from edgetrack.scoring import expected_overlap, score_features
from train.calibration import CLIP_MARGIN, EASE, SIZE_EVIDENCE, calibrate, logistic_regression
from train.checkpoints import load_model, save_model
from train.cli import app
from train.data.mixture import datasets
from train.data.pairs import Pair
from train.evaluation import iou, predict, validate
from train.models.seqtrack import SeqTrack
from train.recipes import RECIPES, override
from train.reliability import auroc, expected_calibration_error

RECIPE = override(
    RECIPES["seqtrack-nano"],
    [
        "model.search_size=64",
        "model.template_size=32",
        "model.encoder_depth=1",
        "pairs.centre_jitter=0.5",
        "steps=1",
        "batch=1",
    ],
)


def finder() -> SeqTrack:
    """A model that takes what is there for a target in the middle, as wide and high as most: often it is."""
    torch.manual_seed(0)
    model = SeqTrack(RECIPE.model)
    middle, size = RECIPE.model.bins // 2, RECIPE.model.bins // 4
    with torch.no_grad():  # of the two the window, on the centre's tokens alone, prefers the first
        model.decoder.head[-1].bias[[middle, size]] += torch.tensor([8.0, 8.3])
    return model.eval()


def test_the_fit_finds_the_coefficients_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 2, (20_000, 2))
    truth = np.asarray([1.5, -0.7, 0.4])
    probability = 1 / (1 + np.exp(-(features @ truth[:2] + truth[2])))
    found = logistic_regression(features, rng.random(20_000) < probability)
    np.testing.assert_allclose(found, truth, atol=0.08)


def test_the_fit_survives_classes_that_a_line_separates() -> None:
    features = np.linspace(-1, 1, 50)[:, None]
    assert np.isfinite(logistic_regression(features, features[:, 0] > 0)).all()
    assert np.isfinite(logistic_regression(features, np.ones(50, bool))).all()


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.ones(60, bool)))


def test_a_presence_that_never_differs_is_validated_as_worth_a_coin() -> None:
    _, held_out = datasets(RECIPE, [], validation_pairs=24)
    model = SeqTrack(RECIPE.model)
    with torch.no_grad():
        model.decoder.head[-1].weight.zero_()
    measured = validate(model, DataLoader(held_out, 24), torch.device("cpu"))
    assert measured["auroc"] == 0.5


def test_calibration_error_is_the_gap_between_promise_and_outcome() -> None:
    probability = np.asarray([0.95, 0.95, 0.95, 0.95, 0.15, 0.15])
    labels = np.asarray([True, True, True, False, False, False])
    assert expected_calibration_error(probability, labels) == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.15)
    assert expected_calibration_error(np.asarray([1.0, 0.0]), np.asarray([True, False])) == 0


def test_what_is_fitted_is_what_the_device_computes() -> None:
    model = finder()
    _, held_out = datasets(RECIPE, [], validation_pairs=48)
    calibration = calibrate(model, held_out, window=1.0)
    score = OverlapScore.model_validate(calibration.score)
    assert calibration.pairs == 24

    # By hand, one pair after the other: the evidence is at its likeliest, as Newton's method left it, where the step
    # before says what the share of the found does, but for what films make of it.
    features, found = [], []
    window = torch.from_numpy(hanning_window(1.0, RECIPE.model.bins))
    for pair in map(held_out.__getitem__, range(0, 48, 2)):
        boxes, presence, decoding = predict(model, Pair(*(tensor[None] for tensor in pair)), window)
        step = Decoded(*(tensor[0].numpy() for tensor in decoding))
        features.append(score_features(float(presence[0]), expected_overlap(step, RECIPE.model.order)))
        found.append(bool(pair.present) and float(iou(boxes, pair.box[None])[0]) > 0.5)
    prior = np.log((sum(found) + 0.5) / (24 - sum(found) + 0.5))
    a, b, c = logistic_regression(np.asarray(features), np.asarray(found))
    assert (score.presence, score.overlap) == pytest.approx((a, b), abs=1e-4)
    assert score.intercept + score.memory * prior + SIZE_EVIDENCE - EASE == pytest.approx(c, abs=1e-4)


def test_the_command_adds_the_map_to_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, finder(), recipe=RECIPE.to_dict(), training={"step": 9})
    result = CliRunner().invoke(app, ["calibrate", str(path), "--pairs", "32", "--window", "0.5"])
    assert result.exit_code == 0, result.output
    _, metadata = load_model(path)
    assert metadata["training"] == {"step": 9}
    assert metadata["online"]["window"] == 0.5
    assert metadata["online"]["match_illumination"]
    assert metadata["online"]["clip_margin"] == CLIP_MARGIN
    OverlapScore.model_validate(metadata["score"])


@pytest.mark.parametrize(
    ("trained", "notes"),
    [
        (None, ["note: without --data the score is calibrated on drawn scenes"]),
        ([], ["note: without --data the score is calibrated on drawn scenes"]),
        (["clips"], ["note: {} was trained on clips; it is calibrated on drawn scenes. "]),
    ],
)
def test_data_that_the_weights_were_not_trained_on_are_said(
    tmp_path: Path, trained: list[str] | None, notes: list[str]
) -> None:
    path = tmp_path / "model.safetensors"
    training = {"step": 9} if trained is None else {"step": 9, "data": trained}
    save_model(path, finder(), recipe=RECIPE.to_dict(), training=training)
    result = CliRunner().invoke(app, ["calibrate", str(path), "--pairs", "32"])
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(said) == len(notes)
    assert all(line.startswith(note.format(path)) for line, note in zip(said, notes, strict=True))
    assert load_model(path)[1]["calibration"]["data"] == []


@pytest.mark.parametrize("absent", [0.0, 1.0])
def test_the_share_without_the_target_is_as_asked(absent: float) -> None:
    _, held_out = datasets(RECIPE, [], validation_pairs=8, validation_absent=absent)
    assert [bool(pair.present) for pair in map(held_out.__getitem__, range(8))] == [not absent] * 8


@pytest.mark.parametrize("absent", [0.0, 0.5])
def test_the_share_without_the_target_is_in_the_file(tmp_path: Path, absent: float) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, finder(), recipe=RECIPE.to_dict())
    result = CliRunner().invoke(app, ["calibrate", str(path), "--pairs", "32", "--absent", str(absent)])
    assert result.exit_code == 0, result.output
    assert load_model(path)[1]["calibration"]["absent"] == absent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--absent", "1"), "found 0 of the 16 pairs that the score is fitted on; expected some it found and some not"),
        (("--window", "9"), "window is 9.0; expected a number from 0"),
        (("--window", "-3"), "window is -3.0; expected a number from 0"),
        (("--window", "nan"), "window is nan; expected a number from 0"),
        (("--pairs", "0"), "--pairs"),
        (("--pairs", "1"), "--pairs"),
    ],
)
def test_what_gives_no_score_is_refused_and_the_weights_are_left(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, finder(), recipe=RECIPE.to_dict())
    before = path.read_bytes()
    result = CliRunner().invoke(app, ["calibrate", str(path), "--pairs", "32", *options])
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert path.read_bytes() == before


def test_a_half_without_both_classes_is_refused() -> None:
    pairs = datasets(RECIPE, [], validation_pairs=16)[1]
    absent = datasets(RECIPE, [], validation_pairs=16, validation_absent=1.0)[1]
    mixed = [dataset[i] for i in range(16) for dataset in (pairs, absent)]
    with pytest.raises(ValueError, match="found 0 of the 16 pairs that the score is measured on"):
        calibrate(finder(), mixed, window=1.0)


def test_weights_without_a_recipe_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", SeqTrack(RECIPE.model))
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model.safetensors")])
    assert result.exit_code == 1
    assert "names no recipe" in result.output
    for recipe, problem in (({**RECIPE.to_dict(), "newer": 1}, "newer"), ({"model": {}}, "no 'mixture'"), ([], "")):
        save_model(tmp_path / "model.safetensors", SeqTrack(RECIPE.model), recipe=recipe)
        result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model.safetensors")])
        assert isinstance(result.exception, SystemExit), result.exception
        assert "a recipe that is not one here" in result.stderr
        assert problem in result.stderr
