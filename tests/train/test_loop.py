"""The loop: resumed runs are uninterrupted runs, and bad numbers stop it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SEQTRACK, VTT, Killed, run, run_killed

from edgetrack.imaging import normalise
from train.checkpoints import CheckpointError, load_model, read_tensors, save_model, write_tensors
from train.data.mixture import datasets
from train.evaluation import iou
from train.loop import fit
from train.models.seqtrack import SeqTrack, SeqTrackConfig
from train.objective import normalised, objective
from train.optimiser import learning_rate
from train.recipes import Recipe


@pytest.mark.parametrize("recipe", [SEQTRACK, VTT], ids=["seqtrack", "vtt"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(recipe: Recipe, tmp_path: Path) -> None:
    whole = run(recipe, tmp_path / "whole")
    run_killed(recipe, tmp_path / "parts", example=14)  # in the fourth step, two after the last checkpoint
    parts = run(recipe, tmp_path / "parts")
    assert [record.pop("hours") >= 0 for record in (*whole, *parts)] == [True] * 6
    assert parts == whole
    assert [record["step"] for record in parts] == [2, 4, 6]
    assert {*objective(recipe).losses, "pairs", "iou", "sr50", "auroc"} <= parts[0].keys()
    one, other = (read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert (tmp_path / "parts" / "predictions.png").is_file()


def test_what_is_logged_after_a_run_that_ended_between_two_logs_is_a_mean_as_well(tmp_path: Path) -> None:
    still = replace(SEQTRACK, lr=0.0, steps=10)
    whole = run(still, tmp_path / "whole", every=5)
    run(replace(still, steps=7), tmp_path / "parts", every=5)
    parts = run(still, tmp_path / "parts", every=5)
    assert [record["step"] for record in parts] == [5, 7, 10]
    # Steps 6 to 10 in one line, and in two.
    apart = (2 * parts[1]["coordinates"] + 3 * parts[2]["coordinates"]) / 5
    assert apart == pytest.approx(whole[1]["coordinates"], abs=2e-4)


def test_a_run_goes_on_as_it_was_begun_or_not_at_all(tmp_path: Path) -> None:
    run(replace(SEQTRACK, steps=2), tmp_path)
    with pytest.raises(CheckpointError, match=r"lr was 0.0008, now 0.1"):
        run(replace(SEQTRACK, lr=0.1), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["lr"] == SEQTRACK.lr
    assert [record["step"] for record in run(replace(SEQTRACK, steps=4), tmp_path)] == [2, 4]


def test_a_run_whose_recipe_is_gone_or_was_cut_short_does_not_go_on(tmp_path: Path) -> None:
    run(replace(SEQTRACK, steps=2), tmp_path)
    recipe = tmp_path / "recipe.json"
    for damage in (lambda: recipe.write_text(""), recipe.unlink):
        damage()
        with pytest.raises(CheckpointError, match=r"recipe\.json cannot be read .* give another --out"):
            run(SEQTRACK, tmp_path)


def test_a_run_does_not_lose_steps(tmp_path: Path) -> None:
    run(replace(SEQTRACK, steps=4), tmp_path)
    with pytest.raises(CheckpointError, match=r"has done 4 steps; got steps=2, expected at least as many"):
        run(replace(SEQTRACK, steps=2), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["steps"] == 4


def test_a_run_goes_on_from_the_weights_it_began_from(tmp_path: Path) -> None:
    start, other, out = tmp_path / "start.safetensors", tmp_path / "other.safetensors", tmp_path / "run"
    for path in (start, other):
        save_model(path, objective(SEQTRACK).model)
    run(replace(SEQTRACK, steps=2), out, start=start)
    with pytest.raises(CheckpointError, match=r"began from other weights than those in .*other\.safetensors"):
        run(replace(SEQTRACK, steps=4), out, start=other)
    model, _ = load_model(start)
    save_model(start, model, score={"source": "overlap"})  # calibrated since: the same weights
    assert [record["step"] for record in run(replace(SEQTRACK, steps=4), out, start=start)] == [2, 4]
    start.unlink()
    assert [record["step"] for record in run(replace(SEQTRACK, steps=6), out, start=start)] == [2, 4, 6]


def test_a_run_that_began_random_takes_no_weights_later(tmp_path: Path) -> None:
    save_model(tmp_path / "start.safetensors", objective(SEQTRACK).model)
    run(replace(SEQTRACK, steps=2), tmp_path / "run")
    with pytest.raises(CheckpointError, match="began from other weights"):
        run(SEQTRACK, tmp_path / "run", start=tmp_path / "start.safetensors")


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path: Path) -> None:
    run(replace(SEQTRACK, steps=2), tmp_path, data=["lasot:/data/LaSOT,only=list.txt", "clips"])
    with pytest.raises(CheckpointError, match=r"was lasot:LaSOT,only=list\.txt, clips, now clips, more"):
        run(SEQTRACK, tmp_path, data=["clips", "more"])
    run(replace(SEQTRACK, steps=4), tmp_path, data=["lasot:/mnt/LaSOT,only=/lists/list.txt", str(tmp_path / "clips")])


def test_a_run_begun_before_weights_and_data_were_noted_goes_on(tmp_path: Path) -> None:
    save_model(tmp_path / "start.safetensors", objective(SEQTRACK).model)
    run(replace(SEQTRACK, steps=2), tmp_path / "run", start=tmp_path / "start.safetensors")
    state = tmp_path / "run" / "state.safetensors"
    tensors, facts = read_tensors(state)
    write_tensors(state, tensors, {key: facts[key] for key in ("step", "seconds", "before", "scaler")})
    for steps in (4, 6):
        run(replace(SEQTRACK, steps=steps), tmp_path / "run", start=tmp_path / "start.safetensors", data=["clips"])


@pytest.mark.parametrize(("recipe", "loss"), [(SEQTRACK, "coordinates"), (VTT, "box")], ids=["seqtrack", "vtt"])
def test_training_lowers_the_loss(recipe: Recipe, loss: str, tmp_path: Path) -> None:
    log = run(replace(recipe, steps=60, lr=2e-3, decay=4), tmp_path, every=20)
    assert log[-1][loss] < log[0][loss]


@pytest.mark.parametrize("recipe", [SEQTRACK, VTT], ids=["seqtrack", "vtt"])
def test_weights_are_written_with_the_configuration(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, steps=1, decay=0)
    run(recipe, tmp_path)
    model, metadata = load_model(tmp_path / "model.safetensors")
    assert model.config == recipe.model
    assert (metadata["training"]["step"], metadata["training"]["before"]) == (1, [])
    assert Recipe.from_dict(metadata["recipe"]) == recipe
    with pytest.raises(CheckpointError, match="no model's configuration"):
        load_model(tmp_path / "state.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(tmp_path / "cut.safetensors")
    tensors, facts = read_tensors(tmp_path / "model.safetensors")
    removed = max(tensors)
    write_tensors(tmp_path / "less.safetensors", {k: v for k, v in tensors.items() if k != removed}, facts)
    with pytest.raises(CheckpointError, match=f"does not hold its configuration's weights: missing: {removed}"):
        load_model(tmp_path / "less.safetensors")


def test_weights_tell_what_was_done_before_the_last_run(tmp_path: Path) -> None:
    save_model(tmp_path / "official.safetensors", objective(SEQTRACK).model, source="official weights")
    first, second = replace(SEQTRACK, steps=2), replace(SEQTRACK, lr=1e-4, steps=4)
    run(first, tmp_path / "first", start=tmp_path / "official.safetensors")
    start = tmp_path / "first" / "model.safetensors"
    run_killed(second, tmp_path / "second", example=10, start=start)
    run(second, tmp_path / "second")  # what came before is in the run's own state
    _, metadata = load_model(tmp_path / "second" / "model.safetensors")
    source, before = metadata["training"]["before"]
    assert source == {"source": "official weights"}
    assert (before["step"], before["pairs"]) == (2, 8)
    assert before["hours"] == load_model(start)[1]["training"]["hours"]
    assert Recipe.from_dict(before["recipe"]) == first
    assert (metadata["training"]["step"], metadata["training"]["pairs"]) == (4, 16)


def test_a_run_stopped_before_its_last_weights_were_written_still_writes_them(tmp_path: Path) -> None:
    def killed(path: Path, model: object, state: object, **facts: Any) -> None:
        if facts["training"]["step"] == 6:
            raise Killed
        save_model(path, model, state, **facts)  # type: ignore[arg-type]

    run(SEQTRACK, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.loop.save_model", killed)
        with pytest.raises(Killed):
            run(SEQTRACK, tmp_path / "parts")
    run(SEQTRACK, tmp_path / "parts")
    (whole, facts), (parts, found) = (read_tensors(tmp_path / n / "model.safetensors") for n in ("whole", "parts"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert found["training"].keys() == facts["training"].keys()
    assert (found["training"]["step"], found["training"]["iou"]) == (6, facts["training"]["iou"])


@pytest.mark.parametrize("stopped_at", [2, 4])
def test_a_run_stopped_before_its_state_was_written_logs_no_step_twice(stopped_at: int, tmp_path: Path) -> None:
    def killed(path: Path, tensors: Any, facts: Any) -> None:
        if facts["step"] == stopped_at:
            raise Killed
        write_tensors(path, tensors, facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.loop.write_tensors", killed)
        with pytest.raises(Killed):
            run(SEQTRACK, tmp_path)
    log = tmp_path / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] == stopped_at
    with log.open("a") as file:
        file.write('{"step": 6, "pai')
    assert [record["step"] for record in run(SEQTRACK, tmp_path)] == [2, 4, 6]


def test_weights_that_are_missing_are_written_again_and_calibrated_ones_are_left(tmp_path: Path) -> None:
    recipe = replace(SEQTRACK, steps=2)
    run(recipe, tmp_path)
    weights = tmp_path / "model.safetensors"
    model, facts = load_model(weights)
    save_model(weights, model, training=facts["training"], recipe=facts["recipe"], score={"source": "overlap"})
    run(recipe, tmp_path)
    assert "score" in load_model(weights)[1]
    tensors, facts = read_tensors(tmp_path / "state.safetensors")
    del facts["record"]  # as in runs begun by earlier versions
    write_tensors(tmp_path / "state.safetensors", tensors, facts)
    weights.unlink()
    run(recipe, tmp_path)
    written, facts = load_model(weights)
    assert (facts["training"]["step"], facts["training"]["pairs"]) == (2, 8)
    assert all(torch.equal(tensor, written.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_measured_is_null(tmp_path: Path) -> None:
    recipe = replace(SEQTRACK, steps=1, decay=0)
    train, validation = datasets(recipe, [], validation_pairs=1)  # one label leaves nothing to tell apart
    fit(recipe, train, validation, tmp_path)
    assert '"auroc": null' in (tmp_path / "log.jsonl").read_text()
    assert load_model(tmp_path / "model.safetensors")[1]["training"]["auroc"] is None


def test_weights_of_another_model_are_no_start(tmp_path: Path) -> None:
    other = replace(SEQTRACK, model=replace(SEQTRACK.model, bins=30))
    save_model(tmp_path / "other.safetensors", objective(other).model)
    with pytest.raises(
        CheckpointError, match=r"does not fit .*embedding.weight has shape \(32, 16\), expected \(22, 16\)"
    ):
        run(SEQTRACK, tmp_path / "run", start=tmp_path / "other.safetensors")


@pytest.mark.parametrize(("recipe", "other"), [(VTT, SEQTRACK), (SEQTRACK, VTT)], ids=["vtt", "seqtrack"])
def test_weights_of_the_other_kind_are_no_start(recipe: Recipe, other: Recipe, tmp_path: Path) -> None:
    save_model(tmp_path / "other.safetensors", objective(other).model)
    with pytest.raises(CheckpointError, match=r"does not fit the recipe's model: missing: "):
        run(recipe, tmp_path / "run", start=tmp_path / "other.safetensors")


def test_weights_of_other_crop_sizes_are_a_start(tmp_path: Path) -> None:
    """The box stays where it is in the crop, whatever the crop's size."""
    small = SEQTRACK.model
    assert isinstance(small, SeqTrackConfig)
    torch.manual_seed(0)
    model = SeqTrack(small)
    with torch.no_grad():  # positions that say where a token lies: along x in one half of the features, along y
        for table, dim in ((model.encoder.search_position, small.encoder_dim), (model.decoder.memory_position, 16)):
            side = math.isqrt(table.shape[1])
            x, y = (axis.flatten() for axis in torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="xy"))
            table[0, :, : dim // 2], table[0, :, dim // 2 :] = x[:, None], y[:, None]
    save_model(tmp_path / "small.safetensors", model)
    large = replace(small, search_size=2 * small.search_size, template_size=2 * small.template_size)
    run(
        replace(SEQTRACK, model=large, steps=1, decay=0, warmup=1, lr=1e-12, ema=0.0),
        tmp_path,
        start=tmp_path / "small.safetensors",
    )
    resized, _ = load_model(tmp_path / "model.safetensors")
    side = large.grid[0]
    x = torch.linspace(0, 1, side).expand(side, side).flatten()
    for table in (resized.encoder.search_position, resized.decoder.memory_position):
        torch.testing.assert_close(table[0, :, 0], x, atol=0.03, rtol=0)
        torch.testing.assert_close(table[0, :, -1].view(side, side), table[0, :, 0].view(side, side).T)
    same, given = resized.state_dict(), model.state_dict()
    assert all(torch.allclose(same[name], given[name], atol=1e-6) for name in same if "_position" not in name)


def test_weights_without_template_slots_are_a_start_that_answers_the_same(tmp_path: Path) -> None:
    given = SeqTrack(replace(SEQTRACK.model, templates=2)).eval()
    save_model(tmp_path / "given.safetensors", given)
    slotted = replace(given.config, template_slots=True)
    recipe = replace(SEQTRACK, model=slotted, steps=1, decay=0, warmup=1, lr=1e-12, ema=0.0)
    run(recipe, tmp_path / "run", start=tmp_path / "given.safetensors")
    begun, _ = load_model(tmp_path / "run" / "model.safetensors")
    templates, search = torch.rand(1, 2, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(begun.eval().encode(templates, search), given.encode(templates, search))


@pytest.mark.parametrize("memory", ["xz", "token"])
def test_positions_that_are_not_the_search_crops_are_not_resized(memory: str, tmp_path: Path) -> None:
    recipe = replace(SEQTRACK, model=replace(SEQTRACK.model, memory=memory))
    save_model(tmp_path / "small.safetensors", objective(recipe).model)
    large = replace(recipe, model=replace(recipe.model, search_size=2 * recipe.model.search_size))
    with pytest.raises(CheckpointError, match="search_position has shape"):
        run(large, tmp_path / "run", start=tmp_path / "small.safetensors")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        run(replace(SEQTRACK, dense=float("inf")), tmp_path)
    batch, metadata = read_tensors(tmp_path / "failed_batch_0.safetensors")
    assert batch["search"].shape == (4, 32, 32, 3)
    assert metadata["step"] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is always full")
@pytest.mark.parametrize("name", ["recipe.json.partial", "log.jsonl"])
def test_a_full_disk_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=rf"cannot write .*{name.removesuffix('.partial')} \(.*No space left"):
        run(SEQTRACK, tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


def test_normalisation_is_the_devices() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    planes = normalised(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(planes, normalise(image).transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_learning_rate_warms_up_holds_and_decays() -> None:
    recipe = replace(SEQTRACK, steps=100, warmup=10, decay=50, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.03


@pytest.mark.parametrize("schedule", ["linear", "step"])
def test_a_short_run_reaches_the_learning_rate_too(schedule: str) -> None:
    long = replace(SEQTRACK, steps=60, warmup=20, decay=40, lr=1.0, schedule=schedule)
    short = replace(long, steps=30)
    assert max(learning_rate(short, step) for step in range(30)) == 1.0
    # Each of its steps is as two of those of the shortest run that has room for both.
    assert [learning_rate(short, step) for step in range(10, 30)] == pytest.approx(
        [learning_rate(long, 2 * step) for step in range(10, 30)]
    )
    assert learning_rate(short, 4) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"absent": 2}, r"pairs\.absent is 2; expected a probability"),
        ({"shade": -0.1}, r"pairs\.shade is -0\.1; expected a probability"),
        ({"flip": True}, r"pairs\.flip is True; expected a probability"),
    ],
)
def test_chances_are_probabilities(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SEQTRACK.pairs, **changes)


@pytest.mark.parametrize("ema", [1, 2, -0.1, "0.9"])
def test_an_average_that_would_never_move_is_refused(ema: Any) -> None:
    with pytest.raises(ValueError, match=r"ema is .*; expected a number of at least 0 and less than 1"):
        replace(SEQTRACK, ema=ema)


def test_overlap_of_centred_boxes() -> None:
    a = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])
    b = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    assert iou(a, b).tolist() == pytest.approx([1.0, 1 / 3, 0.0])
