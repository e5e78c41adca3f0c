"""The fine-tune learns from the float model, resumes, and leaves a checkpoint that builds."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_int8 import batches, calibrated_model
from small_models import ISOLATED, random_model
from test_tracking import BOX, write_sequence
from test_vtt_export import random_vtt
from typer.testing import CliRunner

import train.data.mixture
from edgetrack.bundle import read_bundle
from quantize.answers import answer
from quantize.checkpoints import load_quantised, save_quantised
from quantize.cli import app
from quantize.export import Int8
from quantize.placement import quantised_layers, roundings
from quantize.qat import SCALE_RATE, Distillation, qat_recipe
from train.checkpoints import CheckpointError, load_model, save_model
from train.checkpoints.files import read_tensors, write_tensors
from train.data.pairs import Pair, PairConfig
from train.optimiser import build, learning_rate, set_learning_rate
from train.recipes import RECIPES, Recipe

SETTINGS = (
    *("--set", "batch=4", "--set", "steps=4", "--set", "decay=1"),
    *("--workers", "0", "--every", "2", "--held-out", "8"),
)
FEW = ("--examples", "16")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def save_other_weights(path: Path) -> None:
    model = random_model("isolated")
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(1.01)
    save_model(path, model)


def objective() -> Distillation:
    distilled = Distillation(Recipe(ISOLATED, dense=0.0), random_model("isolated"), {"keep_float": []})
    distilled.model.load_state_dict(calibrated_model("isolated").state_dict())
    return distilled


def test_the_loss_is_nothing_for_the_teacher_itself_and_falls_with_training() -> None:
    distilled, pair = objective().eval(), batches("isolated")[0]  # without dropout, as the teacher is
    teacher = copy.deepcopy(distilled._teacher[0].state_dict())
    counts = distilled.counts(pair)
    for rounding in roundings(distilled).values():
        rounding.enabled = False
    for layer in quantised_layers(distilled).values():
        layer.weights, layer._kept = torch.nn.Identity(), layer.weights
    assert distilled(pair, counts)[0].item() == pytest.approx(0, abs=1e-6)
    for rounding in roundings(distilled).values():
        rounding.enabled = True
        rounding.log_scale.data += 2.0  # ranges seven times too wide
    for layer in quantised_layers(distilled).values():
        layer.weights = layer._kept
    optimiser = torch.optim.Adam([p for p in distilled.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(25):
        loss, terms = distilled(pair, counts)
        assert loss.item() == pytest.approx(terms.sum().item())
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert min(losses[-3:]) < 0.7 * losses[0]
    assert all(torch.equal(teacher[name], value) for name, value in distilled._teacher[0].state_dict().items())


def test_the_loss_is_the_mean_of_what_is_counted_example_by_example() -> None:
    distilled, pair = objective().eval(), batches("isolated")[0]
    teacher, expected = distilled._teacher[0], []
    with torch.no_grad():  # tokens of another size than their normalisation's
        for model in (distilled.model, teacher):
            model.encoder.norm.weight.mul_(3)
    for index in range(len(pair.box)):
        single = Pair(*(value[index : index + 1] for value in pair))
        with torch.no_grad():
            found, wanted = (answer(model, single) for model in (distilled.model, teacher))
        p, q = (side.logits[0].double().softmax(-1) for side in (wanted, found))
        apart = (p * (p / q).log()).sum() / 4
        expected.append((apart + ((found.tokens - wanted.tokens).norm() / wanted.tokens.norm()) ** 2).item())
    with torch.no_grad():
        assert distilled(pair, distilled.counts(pair))[0].item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_the_teacher_neither_drops_out_nor_learns() -> None:
    distilled = Distillation(Recipe(ISOLATED, dense=0.0), random_model("isolated").train(), {"keep_float": []}).train()
    assert not any(module.training for module in distilled._teacher[0].modules())
    assert not any(parameter.requires_grad for parameter in distilled._teacher[0].parameters())


def test_the_fine_tune_neither_decays_weights_nor_computes_in_less_than_it_rounds_to() -> None:
    recipe = qat_recipe(Recipe(ISOLATED, precision="bf16", weight_decay=1e-4))
    assert (recipe.precision, recipe.weight_decay) == ("fp32", 0.0)


def test_a_run_resumes_and_its_checkpoint_loads(checkpoint: Path, tmp_path: Path) -> None:
    invoke("qat", checkpoint, "--out", tmp_path / "whole", *SETTINGS, *FEW, "--keep-float", "decoder.head.2")
    shorter = [option.replace("steps=4", "steps=2") for option in SETTINGS]
    invoke("qat", checkpoint, "--out", tmp_path / "parts", *shorter, *FEW, "--keep-float", "decoder.head.2")
    model, metadata = load_quantised(tmp_path / "whole" / "model.safetensors")
    assert metadata["training"]["step"] == 4
    assert set(metadata["training"]) >= {"divergence", "encoder", "iou"}
    assert type(model.decoder.head[2]) is torch.nn.Linear
    assert not any(module.training for module in model.modules())
    start, learned = (read_tensors(tmp_path / "whole" / f"{name}.safetensors")[0] for name in ("start", "model"))
    moved = {name for name in start if not torch.equal(start[name], learned[name])}
    assert "encoder.blocks.0.fc1.input.log_scale" in moved
    assert "encoder.blocks.0.fc1.weight" in moved
    assert "encoder.stem.convs.1.input.log_scale" not in moved  # what a ReLU puts out keeps its range
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]
    invoke("qat", checkpoint, "--out", tmp_path / "parts", *SETTINGS, *FEW, "--keep-float", "decoder.head.2")
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_scales_learn_at_their_own_rate() -> None:
    """Adam's steps are as large as the rate while the gradient keeps its sign, unless it is too small to be seen."""
    distilled, pair = objective().eval(), batches("isolated")[0]
    recipe = replace(distilled.recipe, lr=4e-5, warmup=1, steps=5, decay=0)
    counts, optimiser = distilled.counts(pair), build(distilled, recipe)
    learned = {name: rounding for name, rounding in roundings(distilled).items() if not rounding.fixed_range}
    start = {name: rounding.log_scale.item() for name, rounding in learned.items()}
    for step in range(5):
        set_learning_rate(optimiser, learning_rate(recipe, step))
        distilled(pair, counts)[0].backward()
        torch.nn.utils.clip_grad_norm_(distilled.parameters(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
    moved = torch.tensor([abs(rounding.log_scale.item() - start[name]) for name, rounding in learned.items()])
    assert moved.max() <= 5.1 * SCALE_RATE * recipe.lr
    assert moved.median() > 2 * SCALE_RATE * recipe.lr


@pytest.mark.parametrize("encoder_lr", [0.0, 0.2])
def test_what_training_froze_learns(encoder_lr: float) -> None:
    frozen = Recipe(ISOLATED, dense=0.0, encoder_lr=encoder_lr, frozen=("encoder.stem.*",))
    recipe = qat_recipe(frozen)
    distilled = Distillation(recipe, random_model("isolated"), {"keep_float": []})
    still = {name for name, parameter in distilled.named_parameters() if not parameter.requires_grad}
    assert still == {f"model.{name}.log_scale" for name, each in roundings(distilled.model).items() if each.fixed_range}
    assert build(distilled, recipe).param_groups[0]["factor"] == (encoder_lr or 1.0)


def test_a_run_is_not_resumed_with_another_teacher_or_calibration(checkpoint: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "other.safetensors"
    invoke("qat", checkpoint, "--out", out, *SETTINGS, *FEW)
    before = (out / "start.safetensors").read_bytes()
    assert load_quantised(out / "model.safetensors")[1]["calibration"]["examples"] == 16
    save_other_weights(other)
    for given, options, said in (
        (other, (), "checkpoint was"),
        (checkpoint, ("--method", "max"), "method was percentile, now max"),
        (checkpoint, ("--keep-float", "decoder.head.2"), r"keep_float was [], now ['decoder.head.2']"),
    ):
        asked = ["qat", given, "--out", out, *SETTINGS, *FEW, *options]
        result = CliRunner().invoke(app, [str(argument) for argument in asked])
        assert result.exit_code == 1
        assert said in result.output
    assert (out / "start.safetensors").read_bytes() == before


def test_a_file_of_another_placement_is_refused(tmp_path: Path) -> None:
    save_quantised(tmp_path / "int8.safetensors", calibrated_model("isolated"), ["decoder.head.2"])
    with pytest.raises(CheckpointError, match=r"rounded in other places.*unknown: decoder\.head\.2\.input"):
        load_quantised(tmp_path / "int8.safetensors")


def test_a_run_takes_as_many_threads_as_it_is_given(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "train.loop.fit", lambda *_, **__: threads.append((torch.get_num_threads(), cv2.getNumThreads()))
    )
    before = torch.get_num_threads()
    try:
        for options in ((), ("--threads", "2")):  # the second finds the ranges that the first calibrated
            cv2.setNumThreads(4)
            invoke("qat", checkpoint, "--out", tmp_path, *SETTINGS, *FEW, *options)
    finally:
        torch.set_num_threads(before)
    assert threads == [(1, 1), (2, 1)]


def test_a_checkpoint_of_one_kind_is_not_taken_for_the_other(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="python -m quantize ptq"):
        load_quantised(checkpoint)
    save_quantised(tmp_path / "int8.safetensors", calibrated_model("isolated"), [])
    with pytest.raises(CheckpointError, match="holds INT8 weights"):
        load_model(tmp_path / "int8.safetensors")
    result = CliRunner().invoke(
        app, ["ptq", str(checkpoint), "--out", str(tmp_path / "x"), "--keep-float", "none.such"]
    )
    assert result.exit_code == 1
    assert "'none.such' is no layer that is quantised" in result.output


def test_ptq_and_build_make_a_bundle_of_both_precisions(tmp_path: Path) -> None:
    checkpoint, quantised = tmp_path / "model.safetensors", tmp_path / "int8.safetensors"
    save_model(checkpoint, random_vtt("nano"))  # of few graphs, each of which takes seconds to export
    invoke("ptq", checkpoint, "--out", quantised, *FEW, "--keep-float", "encoder.0.*")
    output = invoke("build", checkpoint, "--int8", quantised, "--out", tmp_path / "bundle.zip", "--name", "small")
    assert "INT8: what is executed" in output
    manifest = read_bundle(tmp_path / "bundle.zip").manifest
    assert manifest.variants.keys() == {"fp32", "int8"}
    assert manifest.provenance["int8"]["keep_float"] == ["encoder.0.*"]
    assert manifest.provenance["int8"]["calibration"]["examples"] == 16


def test_a_file_tells_its_data_and_older_ones_are_understood(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, run = tmp_path / "clips", tmp_path / "run"
    for name in ("one", "other"):
        write_sequence(clips, name, [BOX] * 3)
    monkeypatch.chdir(clips)
    data = ("--data", ".", "--data", f"tracks:{clips}")
    invoke("qat", checkpoint, "--out", run, *SETTINGS, *FEW, *data)
    titles = ["clips", "tracks:clips"]
    assert load_quantised(run / "model.safetensors")[1]["calibration"]["data"] == titles
    start, facts = load_quantised(run / "start.safetensors")
    of_file = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    older = {**facts["calibration"], "data": ["", "clips"], "checkpoint": of_file}
    save_quantised(run / "start.safetensors", start, **{**facts, "calibration": older})
    invoke("qat", checkpoint, "--out", run, *SETTINGS, *FEW, *data)
    asked = ["qat", checkpoint, "--out", run, *SETTINGS, *FEW, *data[:2]]
    result = CliRunner().invoke(app, [str(argument) for argument in asked])
    assert "data was ['', 'clips'], now ['clips']" in result.stderr


def test_a_bundle_tells_how_its_rounded_weights_were_learned(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Int8] = []
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, int8, **__: written.append(int8) or [])
    monkeypatch.setattr("quantize.cli._print_proof", lambda bundle: None)
    invoke("qat", checkpoint, "--out", tmp_path, *SETTINGS, *FEW, "--set", "lr=3e-5")
    invoke("build", checkpoint, "--int8", tmp_path / "model.safetensors", "--out", tmp_path / "bundle")
    facts = written[0].facts
    assert (facts["recipe"]["lr"], facts["recipe"]["steps"], facts["training"]["step"]) == (3e-5, 4, 4)


def test_a_quantised_file_goes_with_the_weights_it_was_made_of(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another score was written beside them; older files name the whole file's digest, and some none."""
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, **__: [])
    monkeypatch.setattr("quantize.cli._print_proof", lambda bundle: None)
    quantised, scored, other = (tmp_path / f"{name}.safetensors" for name in ("int8", "scored", "other"))
    save_model(scored, random_model("isolated"), score={"source": "likelihood", "ok_threshold": 0.5})
    save_other_weights(other)
    invoke("ptq", checkpoint, "--out", quantised, *FEW)
    model, facts = load_quantised(quantised)
    of_file = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    for origin, fitting in ((facts["calibration"]["checkpoint"], (checkpoint, scored)), (of_file, (checkpoint,))):
        save_quantised(quantised, model, **{**facts, "calibration": {"checkpoint": origin}})
        for given in fitting:
            invoke("build", given, "--int8", quantised, "--out", tmp_path / "bundle")
        result = CliRunner().invoke(app, ["build", str(other), "--int8", str(quantised), "--out", str(tmp_path / "no")])
        assert result.exit_code == 1
        assert f"error: {quantised} was made of other weights, {origin}, than {other} holds" in result.output
    save_quantised(quantised, model, facts["keep_float"])
    invoke("build", other, "--int8", quantised, "--out", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep-float", "decoder.head.2"), "--keep-float"),
        (("--method", "percentile", "--examples", "256"), "--method, --examples"),  # the defaults are no exception
    ],
)
def test_what_says_how_to_quantise_is_refused_beside_what_is_quantised(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    asked = ["build", checkpoint, "--int8", checkpoint, "--out", tmp_path / "bundle", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in asked])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {said} cannot go with --int8")


def test_what_a_run_cannot_do_is_said_in_a_line(checkpoint: Path, tmp_path: Path) -> None:
    for options, said in (
        (("--every", "0"), "Invalid value for '--every'"),
        (("--workers", "-1"), "Invalid value for '--workers'"),
        (("--set", 'frozen=["*"]'), "error: the recipe keeps all of the model as it is (*)"),
        (("--set", "lr=1e30", "--set", "clip=1e30"), "error: the loss is not finite at step 1"),
    ):
        asked = ["qat", checkpoint, "--out", tmp_path / "run", *SETTINGS, *FEW, *options]
        result = CliRunner().invoke(app, [str(argument) for argument in asked])
        assert isinstance(result.exception, SystemExit), result.exception
        assert said in result.stderr


def test_what_a_files_metadata_lack_is_said_in_a_line(checkpoint: Path, tmp_path: Path) -> None:
    tensors, facts = read_tensors(checkpoint)
    recipe, bad = Recipe(ISOLATED).to_dict(), tmp_path / "bad.safetensors"
    quantised = {"kind": "seqtrack-int8", "config": facts["config"], "keep_float": []}
    for written, command, said in (
        ({**facts, "recipe": {**recipe, "newer": 1}}, ["ptq", bad], "a recipe that is not one here .*'newer'"),
        ({**facts, "recipe": {**recipe, "mixture": None}}, ["sensitivity", bad], "a recipe that is not one here"),
        ({**facts, "recipe": {"model": recipe["model"]}}, ["qat", bad], "a recipe that is not one here .*no 'mixture'"),
        ({**quantised, "keep_float": None}, ["build", checkpoint, "--int8", bad], "no 'keep_float'"),
        ({**quantised, "config": None}, ["build", checkpoint, "--int8", bad], "no 'config'"),
        ({**quantised, "config": {"newer": 1}}, ["build", checkpoint, "--int8", bad], "what was rounded .*'newer'"),
    ):
        write_tensors(bad, tensors, {key: value for key, value in written.items() if value is not None})
        out = [] if command[0] == "sensitivity" else ["--out", tmp_path / "out"]
        result = CliRunner().invoke(app, [str(argument) for argument in (*command, *out)])
        assert isinstance(result.exception, SystemExit), result.exception
        assert re.fullmatch(rf"error: {bad} .*{said}.*\n", result.stderr), result.stderr


def test_a_model_is_quantised_without_the_datasets_that_its_recipe_has_ratios_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, quantised, bundle = (tmp_path / name for name in ("paper.safetensors", "int8.safetensors", "bundle"))
    recipe = replace(RECIPES["seqtrack-b256"], model=ISOLATED, pairs=PairConfig())
    save_model(weights, random_model("isolated"), recipe=recipe.to_dict())
    invoke("ptq", weights, "--out", quantised, *FEW)
    invoke("sensitivity", weights, *FEW)
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, **__: [])
    monkeypatch.setattr("quantize.cli._print_proof", lambda bundle: None)
    invoke("build", weights, "--int8", quantised, "--out", bundle)
    opened: list[tuple[dict[str, float] | None, int]] = []
    datasets = train.data.mixture.datasets

    def noted(recipe: Recipe, *given: object, validation_pairs: int) -> object:
        opened.append((recipe.mixture.ratios, validation_pairs))
        return datasets(recipe, *given, validation_pairs=validation_pairs)

    monkeypatch.setattr("train.data.mixture.datasets", noted)
    invoke("qat", weights, "--out", tmp_path / "plain", *SETTINGS, *FEW)
    invoke("qat", weights, "--out", tmp_path / "clips", *SETTINGS, *FEW, "--set", 'mixture.ratios={"clips": 1}')
    # Each time to calibrate, and to train.
    assert opened == [(None, 16), (None, 8), ({"clips": 1}, 16), ({"clips": 1}, 8)]


def test_what_cannot_be_written_is_said(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ptq", str(checkpoint), "--out", str(tmp_path), "--examples", "2"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot write {tmp_path} (")


def test_the_checkpoint_is_never_written_over(checkpoint: Path, tmp_path: Path) -> None:
    weights, link = checkpoint.read_bytes(), tmp_path / "link.safetensors"
    for name in ("model", "start"):
        (tmp_path / f"{name}.safetensors").write_bytes(weights)
    link.symlink_to("model.safetensors")
    for command, given, out, written in (
        ("ptq", "model", tmp_path / "model.safetensors", "model"),
        ("ptq", "model", link, "link"),
        ("qat", "model", tmp_path, "model"),
        ("qat", "start", tmp_path, "start"),
        ("qat", "link", tmp_path, "model"),
    ):
        given = tmp_path / f"{given}.safetensors"
        result = CliRunner().invoke(app, [command, str(given), "--out", str(out), *FEW])
        assert result.exit_code == 1
        written = tmp_path / f"{written}.safetensors"
        assert result.stderr.startswith(f"error: {written} would be written over, and it is the checkpoint")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.safetensors" for n in ("link", "model", "start")]
    assert all(path.read_bytes() == weights for path in tmp_path.iterdir())
