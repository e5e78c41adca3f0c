"""Ablations: each row is trained with its one setting, used as it says, and not done again."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import ablations
from benchmarks.ablations import ABLATIONS, BASE
from benchmarks.cli import app
from benchmarks.datasets import read_dataset
from benchmarks.results import ResultsError
from train.data import mixture
from train.models.seqtrack import SeqTrackConfig
from train.recipes import RECIPES, override
from train.stopping import Stopped

SMALL = (
    *(f"model.{name}=32" for name in ("search_size", "template_size", "encoder_dim", "decoder_ffn")),
    *("model.encoder_depth=1", "model.encoder_heads=2", "model.decoder_dim=16", "model.decoder_layers=1"),
    *("model.decoder_heads=2", "model.bins=20", "steps=4", "decay=1", "warmup=1", "batch=4"),
)


def test_every_ablation_is_a_setting_that_the_recipe_has() -> None:
    plain = override(RECIPES["seqtrack-nano"], list(BASE))
    changed = {row.weights: override(plain, list(row.settings)) for row in ABLATIONS}
    assert [name for name, recipe in changed.items() if recipe == plain] == ["as-is"]
    assert len(set(map(str, changed.values()))) == len(changed)
    # Rows that differ in their use alone share their weights, and no others do.
    assert all(len({row.settings for row in ABLATIONS if row.weights == name}) == 1 for name in changed)
    # Tracking takes updates only where there is a second template to replace.
    for row in ABLATIONS:
        model = changed[row.weights].model
        assert isinstance(model, SeqTrackConfig)
        assert ("update_interval" in row.online) == (model.templates == 2)


def test_rows_are_trained_alike_and_scored(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = tuple(row for row in ABLATIONS if row.weights in ("as-is", "bidirectional"))
    monkeypatch.setattr(ablations, "ABLATIONS", chosen)
    monkeypatch.setattr(mixture, "datasets", partial(mixture.datasets, validation_pairs=8))
    arguments = ["ablations", "--dataset", str(dataset_folder), "--out", str(tmp_path / "out"), "--json", "-"]
    arguments += [f"--set={setting}" for setting in SMALL]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [row["title"] for row in content["rows"]] == [row.title for row in chosen]
    assert content["pairs"] == 16
    runs = tmp_path / "out" / "runs"
    recipes = {path.name: json.loads((path / "recipe.json").read_text()) for path in runs.iterdir()}
    assert recipes["as-is"]["model"].pop("decoding") == "autoregressive"
    assert recipes["bidirectional"]["model"].pop("decoding") == "bidirectional"
    assert recipes["as-is"] == recipes["bidirectional"]

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    again = CliRunner().invoke(app, arguments)
    assert json.loads(again.stdout)["rows"] == content["rows"]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    shorter = CliRunner().invoke(app, [*arguments, "--set=steps=1"])
    assert shorter.exit_code == 1
    assert "as-is holds a run that has done 4 steps; got steps=1" in shorter.stderr
    longer = CliRunner().invoke(app, [*arguments, "--set=steps=5"])
    assert json.loads(longer.stdout)["pairs"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "nope"), "'nope' is no recipe of a SeqTrack; expected one of seqtrack-nano, "),
        (("--recipe", "vtt-nano"), "'vtt-nano' is no recipe of a SeqTrack"),
        (("--set", "foo=1"), "cannot apply --set 'foo=1'"),
        (("--data", "no-such-folder"), "no-such-folder: it does not exist"),
        (("--set", "model.search_size=192.0"), "float"),
    ],
)
def test_what_cannot_be_ablated_is_said(
    options: tuple[str, str], message: str, dataset_folder: Path, tmp_path: Path
) -> None:
    arguments = ["ablations", "--dataset", str(dataset_folder), "--out", str(tmp_path), "--json", "-", *options]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert re.match(f"error: .*{re.escape(message)}", result.stderr)


def test_a_dataset_without_an_auc_is_refused_before_anything_is_trained(dataset_folder: Path, tmp_path: Path) -> None:
    judged = replace(read_dataset(str(dataset_folder)), name="oxuva", protocol="oxuva")
    with pytest.raises(ResultsError, match=r"oxuva is scored by 'oxuva', .* and gives no AUC"):
        ablations.ablate("seqtrack-nano", [], judged, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stopped_training_ends_the_command_as_a_signal_does(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **options: object) -> None:
        raise Stopped("stopped at step 2 of 4", signal.SIGTERM)

    monkeypatch.setattr("train.loop.fit", stopped)
    result = CliRunner().invoke(app, ["ablations", "--dataset", str(dataset_folder), "--out", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (143, "stopped at step 2 of 4\n")
