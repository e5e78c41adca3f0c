"""Weights between those before and after a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import SEQTRACK
from typer.testing import CliRunner

from train.checkpoints import load_model, read_tensors, save_model
from train.cli import app
from train.loop import history
from train.models.registry import build

RUN = {"step": 10, "pairs": 40, "hours": 0.5}


def written(path: Path, seed: int, **facts: object) -> Path:
    torch.manual_seed(seed)
    save_model(path, build(SEQTRACK.model), **facts)
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return written(tmp_path / "before.safetensors", 0, training={**RUN, "iou": 0.5}, recipe=SEQTRACK.to_dict())


@pytest.fixture
def after(tmp_path: Path) -> Path:
    recipe = replace(SEQTRACK, seed=1).to_dict()
    training = {"step": 6, "pairs": 24, "hours": 0.1, "iou": 0.6, "before": [{**RUN, "recipe": SEQTRACK.to_dict()}]}
    return written(tmp_path / "after.safetensors", 1, training=training, recipe=recipe, score={"source": "overlap"})


def average(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["average", *map(str, arguments)])
    return result.exit_code, result.output


def test_an_average_lies_on_the_line_and_says_so(before: Path, after: Path, tmp_path: Path) -> None:
    out = tmp_path / "between.safetensors"
    assert average(before, after, "--share", 0.75, "--out", out) == (0, f"{out}\n")
    (one, _), (other, _), (found, facts) = map(read_tensors, (before, after, out))
    assert found.keys() == one.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.lerp(one[name], other[name], 0.75))
    assert "score" not in facts  # another model's
    assert facts["training"]["averaged"] == {"share": 0.75, "with": RUN}
    first, second = history(facts)
    assert (first["step"], first["recipe"]["seed"]) == (RUN["step"], SEQTRACK.seed)
    assert (second["averaged"], second["recipe"]["seed"]) == (facts["training"]["averaged"], 1)
    load_model(out)


def test_what_cannot_be_averaged_is_said(before: Path, after: Path, tmp_path: Path) -> None:
    other = replace(SEQTRACK.model, encoder_depth=2)
    save_model(
        tmp_path / "deep.safetensors", build(other), training=RUN, recipe=replace(SEQTRACK, model=other).to_dict()
    )
    save_model(tmp_path / "new.safetensors", build(SEQTRACK.model), source="random")
    for second, share, problem in (
        (tmp_path / "deep.safetensors", 0.5, "encoder_depth is 1 and 2"),
        (tmp_path / "new.safetensors", 0.5, "was not trained; expected weights written by: python -m train fit"),
        (after, 1, "got a share of 1.0; expected a number between 0 and 1"),
        (tmp_path / "none.safetensors", 0.5, "does not exist"),
    ):
        code, output = average(before, second, "--share", share, "--out", tmp_path / "out.safetensors")
        assert code == 1
        assert problem in " ".join(output.split())
    assert not (tmp_path / "out.safetensors").exists()
