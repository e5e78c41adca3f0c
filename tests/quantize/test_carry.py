"""What a quantisation learned is the same beside weights that were trained on."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small_models import random_model
from test_equalise import wild
from test_qat import FEW, SETTINGS, invoke, save_other_weights
from typer.testing import CliRunner

from quantize.answers import answer
from quantize.carry import carry
from quantize.checkpoints import load_quantised, origins
from quantize.cli import app
from quantize.equalise import equalise
from quantize.placement import place, roundings
from train.checkpoints import save_model
from train.checkpoints.files import read_tensors
from train.models.registry import Model


@torch.no_grad()
def moved(model: Model, by: float, seed: int = 0) -> Model:
    """A copy whose parameters, but for ranges, went `by` of their norm in any direction, as by training."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if not name.endswith("log_scale"):
            step = torch.randn(parameter.shape, generator=generator)
            parameter += by * parameter.norm() * step / step.norm().clamp(min=1e-9)
    return other


@pytest.mark.parametrize("kind", ["seqtrack", "nano", "r50"])
def test_where_nothing_was_fine_tuned_the_outcome_is_the_later_model(kind: str) -> None:
    """Also with channels evened out by the factors of the one before, which the file does not tell."""
    before, data = wild(kind)
    quantised = copy.deepcopy(before)
    equalise(quantised, data[:1])
    after = moved(before, 0.3)
    with torch.no_grad():
        wanted, old = (answer(model.eval(), data[1]).tokens for model in (after, before))
    carry(place(quantised), before, after)
    # In a model that rounds nothing.
    plain = {name: tensor for name, tensor in quantised.state_dict().items() if name in after.state_dict()}
    after.load_state_dict(plain)
    with torch.no_grad():
        found = answer(after, data[1]).tokens
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    assert (old - wanted).norm() > 0.05 * wanted.norm()


def test_fine_tuning_and_training_add_up() -> None:
    quantised = place(wild("seqtrack")[0])
    tuned, before = moved(quantised, 0.01), wild("seqtrack")[0]
    ranges = {name: module.log_scale.clone() for name, module in roundings(tuned).items()}
    start = copy.deepcopy(tuned.state_dict())
    carry(tuned, before, copy.deepcopy(before))
    assert all(torch.equal(tensor, start[name]) for name, tensor in tuned.state_dict().items())
    carry(tuned, before, after := moved(before, 0.1, seed=1))
    names = [name for name, _ in before.named_parameters()]
    was, now, outcome = before.state_dict(), after.state_dict(), tuned.state_dict()
    for name in names:
        torch.testing.assert_close(outcome[name] - start[name], now[name] - was[name], rtol=0.0, atol=1e-5)
    assert all(torch.equal(module.log_scale, ranges[name]) for name, module in roundings(tuned).items())


def test_a_quantisation_is_carried_and_fine_tuned_from_there(checkpoint: Path, tmp_path: Path) -> None:
    earlier, later, carried, run = (tmp_path / name for name in ("earlier.st", "later.st", "carried.st", "run"))
    save_other_weights(later)
    invoke("ptq", checkpoint, "--out", earlier, *FEW, "--keep-float", "decoder.head.2")
    invoke("carry", later, "--before", checkpoint, "--int8", earlier, "--out", carried)
    (old, facts), (new, told) = load_quantised(earlier), load_quantised(carried)
    ratio = new.decoder.embedding.weight / old.decoder.embedding.weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.01), rtol=1e-3, atol=0.0)
    assert told["keep_float"] == ["decoder.head.2"]
    assert told["calibration"] == {
        **facts["calibration"],
        "checkpoint": origins(later)[0],
        "carried": origins(earlier)[0],
    }
    started = ("qat", later, "--start", carried, "--out", run, *SETTINGS)
    invoke(*started)
    begun = read_tensors(run / "start.safetensors")[0]
    assert all(torch.equal(tensor, begun[name]) for name, tensor in new.state_dict().items())
    assert load_quantised(run / "model.safetensors")[1]["calibration"] == {
        **told["calibration"],
        "started": origins(carried)[0],
    }
    # It goes on where it was.
    invoke(*started[: -len(SETTINGS)], *[option.replace("steps=4", "steps=6") for option in SETTINGS])
    assert load_quantised(run / "model.safetensors")[1]["training"]["step"] == 6


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    return result.stderr


def test_what_does_not_belong_together_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other, joint, int8, run = (tmp_path / name for name in ("other.st", "joint.st", "int8.st", "run"))
    save_other_weights(other)
    save_model(joint, random_model("joint"))
    invoke("ptq", checkpoint, "--out", int8, *FEW)
    given = ("--before", checkpoint, "--int8", int8)
    assert "int8.st was made of other weights" in refusal(
        "carry", checkpoint, "--before", other, "--int8", int8, "--out", run
    )
    assert "are not of one configuration" in refusal("carry", joint, *given, "--out", run)
    for path in (checkpoint, int8):
        assert "would be written over" in refusal("carry", other, *given, "--out", path)
    assert "int8.st was made of other weights" in refusal("qat", other, "--start", int8, "--out", run)
    assert "int8.st is of another model than" in refusal("qat", joint, "--start", int8, "--out", run)
    assert "--examples cannot go with --start" in refusal("qat", checkpoint, "--start", int8, "--out", run, *FEW)
    assert not run.exists()
    invoke("qat", checkpoint, "--start", int8, "--out", run, *SETTINGS)
    before = (run / "start.safetensors").read_bytes()
    assert "started was" in refusal("qat", checkpoint, "--out", run, *SETTINGS, *FEW)
    assert "would be written over" in refusal(
        "qat", checkpoint, "--start", run / "model.safetensors", "--out", run, *SETTINGS
    )
    assert (run / "start.safetensors").read_bytes() == before
