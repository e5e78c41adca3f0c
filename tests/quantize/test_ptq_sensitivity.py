"""The report finds the layer that was made to matter, and leaves the model as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_int8 import batches, calibrated_model
from small_models import random_model
from typer.testing import CliRunner

from quantize.answers import answer
from quantize.cli import app
from quantize.placement import quantised_layers, roundings
from quantize.sensitivity import set_rounding, shares
from train.checkpoints import save_model


def test_the_layer_with_a_range_far_too_wide_has_most_of_the_error() -> None:
    model, pair = calibrated_model("isolated"), batches("isolated")[2]
    with torch.no_grad():
        before = answer(model, pair).logits
        roundings(model)["encoder.blocks.1.fc1.input"].scale *= 60
        report = shares(model, [pair])
        assert report[0].layer == "encoder.blocks.1.fc1"
        assert report[0].share > 0.5
        assert report[0].parameters == model.encoder.blocks[1].fc1.weight.numel()
        assert {layer.layer for layer in report} == quantised_layers(model).keys()
        assert sum(layer.share for layer in report) == pytest.approx(1)
        roundings(model)["encoder.blocks.1.fc1.input"].scale /= 60
        torch.testing.assert_close(answer(model, pair).logits, before)
        set_rounding(model, False)
        torch.testing.assert_close(answer(model, pair).logits, answer(random_model("isolated"), pair).logits)


def test_the_command_prints_a_line_for_every_layer(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", random_model("joint"))
    result = CliRunner().invoke(app, ["sensitivity", str(tmp_path / "model.safetensors"), "--examples", "8"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(quantised_layers(calibrated_model("joint")))
    assert [line["share"] for line in lines] == sorted((line["share"] for line in lines), reverse=True)
