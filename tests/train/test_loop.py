"""The loop: resumed runs are uninterrupted runs, and bad numbers stop it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetrack.imaging import normalise
from train.checkpoints import CheckpointError, load_model, read_tensors
from train.data.mixture import datasets
from train.evaluation import iou
from train.loop import fit
from train.models.seqtrack import SeqTrackConfig
from train.objective import normalised
from train.optimiser import learning_rate
from train.recipes import Recipe

TINY = SeqTrackConfig(
    search_size=32,
    template_size=32,
    templates=1,
    encoder_dim=16,
    encoder_depth=1,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
    decoder_ffn=16,
    bins=20,
    template_attention="isolated",
)
RECIPE = Recipe(TINY, batch=4, steps=6, warmup=2, decay=3)


def run(recipe: Recipe, out: Path, every: int = 2) -> list[dict[str, float]]:
    train, validation = datasets(recipe, [])
    validation._length = 4
    fit(recipe, train, validation, out, every=every)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = run(RECIPE, tmp_path / "whole")

    class Killed(Exception):
        pass

    train, validation = datasets(RECIPE, [])
    validation._length = 4
    read = type(train).__getitem__

    def killed(self: object, index: int) -> object:
        if index >= 14:  # in the fourth step, two after the last checkpoint
            raise Killed
        return read(self, index)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(train), "__getitem__", killed)
        with pytest.raises(Killed):
            fit(RECIPE, train, validation, tmp_path / "parts", every=2)
    parts = run(RECIPE, tmp_path / "parts")
    assert [record["step"] for record in parts] == [2, 4, 6]
    for name in ("coordinates", "absent", "edges", "iou", "sr50"):
        assert [record[name] for record in parts] == [record[name] for record in whole]
    one, other = (read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_goes_on_as_it_was_begun_or_not_at_all(tmp_path: Path) -> None:
    run(replace(RECIPE, steps=2), tmp_path)
    with pytest.raises(CheckpointError, match=r"lr was 0.0008, now 0.1"):
        run(replace(RECIPE, lr=0.1), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["lr"] == RECIPE.lr
    assert [record["step"] for record in run(replace(RECIPE, steps=4), tmp_path)] == [2, 4]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    log = run(replace(RECIPE, steps=24, lr=3e-3, decay=4), tmp_path, every=8)
    assert log[-1]["coordinates"] < log[0]["coordinates"]


def test_weights_are_written_with_the_configuration(tmp_path: Path) -> None:
    run(RECIPE, tmp_path)
    model, metadata = load_model(tmp_path / "model.safetensors")
    assert model.config == TINY
    assert metadata["training"]["step"] == 6
    assert Recipe.from_dict(metadata["recipe"]) == RECIPE
    with pytest.raises(CheckpointError, match="no model's configuration"):
        load_model(tmp_path / "state.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(tmp_path / "cut.safetensors")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        run(replace(RECIPE, dense=float("inf")), tmp_path)
    batch, metadata = read_tensors(tmp_path / "failed_batch_0.safetensors")
    assert batch["search"].shape == (4, 32, 32, 3)
    assert metadata["step"] == 0


def test_normalisation_is_the_devices() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    np.testing.assert_allclose(normalised(torch.from_numpy(image)).numpy(), normalise(image), rtol=0, atol=1e-6)


def test_learning_rate_warms_up_holds_and_decays() -> None:
    recipe = replace(RECIPE, steps=100, warmup=10, decay=50, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.03


def test_overlap_of_centred_boxes() -> None:
    a = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])
    b = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    assert iou(a, b).tolist() == pytest.approx([1.0, 1 / 3, 0.0])
