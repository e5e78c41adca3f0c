"""``python -m train`` as it is typed: the documented commands are accepted, and what cannot run is said in a line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch.distributed.run import parse_args as torchrun
from typer.testing import CliRunner

import quantize.cli
import train.cli
from train.checkpoints import save_model
from train.checkpoints.files import read_tensors, write_tensors
from train.models.registry import PRESETS, build
from train.recipes import RECIPES, override

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
COMMANDS = [
    shlex.split(line, comments=True)
    for page in PAGES
    for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if re.match(r"python -m (train|quantize) |torchrun ", line)
]
APPS = {"train": train.cli.app, "quantize": quantize.cli.app}


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command's name and its options, as it would be called with."""
    if words[0] == "torchrun":
        options = torchrun(words[1:])
        words = ["python", "-m", options.training_script, *options.training_script_args]
    _, _, module, name, *arguments = words
    command = typer.main.get_command(APPS[module]).commands[name]  # type: ignore[attr-defined]
    return name, command.make_context(name, arguments).params


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_documented_commands_are_accepted(words: list[str]) -> None:
    name, options = parsed(words)
    if name == "fit":
        recipe = override(RECIPES[options["recipe"]], options["settings"] or [])
        kinds = {text.partition(":")[0] for text in options["data"]}
        assert recipe.mixture.ratios is None or recipe.mixture.ratios.keys() == kinds
    if name == "import":
        assert options["preset"] in PRESETS


def test_documented_training_begins_where_imports_end() -> None:
    written = {str(options["out"]) for name, options in map(parsed, COMMANDS) if name == "import"}
    starts = {str(options["start"]) for name, options in map(parsed, COMMANDS) if name == "fit" and options["start"]}
    assert starts
    assert {start for start in starts if not (CHECKOUT / start).is_file()} <= written


def fit(out: Path, *more: str) -> Any:
    options = ["--out", str(out), "--workers", "0", "--set", "frozen=[]"]
    return CliRunner().invoke(train.cli.app, ["fit", "seqtrack-nano", *options, *more])


def test_a_short_run_validates_on_as_many_pairs_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def validate(model: object, loader: Any, device: object) -> dict[str, float]:
        lengths.append(len(loader.dataset))
        return {"iou": 0.5}

    monkeypatch.setattr("train.loop.validate", validate)
    result = fit(tmp_path, "--set", "batch=2", "--set", "steps=1", "--held-out", "3")
    assert result.exit_code == 0, result.output
    assert lengths == [3]
    assert json.loads((tmp_path / "log.jsonl").read_text())["pairs"] == 2
    assert f"calibrate it: python -m train calibrate {tmp_path / 'model.safetensors'}\n" in result.stderr
    weights, facts = read_tensors(tmp_path / "model.safetensors")
    assert facts["training"]["data"] == []
    write_tensors(tmp_path / "model.safetensors", weights, {**facts, "score": {}})
    again = fit(tmp_path, "--set", "batch=2", "--set", "steps=1", "--held-out", "3")
    assert again.exit_code == 0, again.output
    assert "calibrate it" not in again.stderr  # the run was done, and the weights are as they were


def test_int8_weights_in_the_wrong_place_are_told_for_what_they_are(tmp_path: Path) -> None:
    path = CHECKOUT / "train" / "weights" / "seqtrack-nano-int8.safetensors"
    begun = fit(tmp_path / "run", "--start", str(path))
    calibrated = CliRunner().invoke(train.cli.app, ["calibrate", str(path)])
    for result in (begun, calibrated):
        assert result.exit_code == 1
        assert f"{path} holds INT8 weights, which are for quantize's --int8 and --start" in result.stderr


def test_what_begins_random_is_not_frozen(tmp_path: Path) -> None:
    for setting, kept in (('frozen=["encoder.norm.*"]', "encoder.norm.*"), ("encoder_lr=0", "encoder_lr is 0")):
        result = fit(tmp_path / "run", "--set", setting)
        assert result.exit_code == 1
        assert f"as they begin ({kept}), and they would begin random; give --start" in result.stderr
    result = fit(tmp_path / "run", "--set", 'frozen=["encoder.none.*"]')
    assert result.exit_code == 1
    assert "frozen is 'encoder.none.*', which is no parameter's name" in result.stderr


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Stills that no decoder reads."""
    folder = tmp_path / "broken"
    (folder / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(20)]
    labels = [{"image_id": i, "bbox": [5, 5, 20, 20]} for i in range(20)]
    for image in images:
        (folder / "images" / str(image["file_name"])).write_text("no picture")
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": labels}))
    return folder


STILLS_ALONE = 'mixture.ratios={"stills": 1}'


@pytest.mark.parametrize("workers", ["0", "1"])
def test_pictures_that_cannot_be_read_are_named_without_a_traceback(workers: str, broken: Path, tmp_path: Path) -> None:
    more = ("--data", str(broken), "--set", STILLS_ALONE, "--workers", workers)
    loaded = CliRunner().invoke(train.cli.app, ["loader", "seqtrack-nano", *more])
    for result in (fit(tmp_path / "run", "--set", "batch=2", *more), loaded):
        assert result.exit_code == 1
        assert re.search(
            r"^error: \S+\.jpg: not an image that OpenCV can decode \(10 bytes\)$", result.stderr, re.MULTILINE
        )
        assert "Traceback" not in result.stderr


def test_calibration_names_a_picture_that_cannot_be_read(broken: Path, tmp_path: Path) -> None:
    recipe = override(RECIPES["seqtrack-nano"], [STILLS_ALONE, "model.search_size=64", "model.template_size=32"])
    save_model(tmp_path / "model.safetensors", build(recipe.model), recipe=recipe.to_dict())
    result = CliRunner().invoke(
        train.cli.app, ["calibrate", str(tmp_path / "model.safetensors"), "--data", str(broken), "--pairs", "4"]
    )
    assert result.exit_code == 1
    assert re.search(
        r"^error: \S+\.jpg: not an image that OpenCV can decode \(10 bytes\)$", result.stderr, re.MULTILINE
    )


def test_what_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    file, folder, weights = tmp_path / "file", tmp_path / "folder", tmp_path / "weights.safetensors"
    file.touch()
    folder.mkdir()
    small = override(RECIPES["seqtrack-nano"], ["model.encoder_depth=1"])
    save_model(weights, build(small.model), recipe=small.to_dict(), training={"step": 1})
    for words, path in (
        (["fit", "seqtrack-nano", "--set", "frozen=[]", "--out", str(file)], file / "recipe.json"),
        (["average", str(weights), str(weights), "--out", str(folder)], folder),
        (["average", str(weights), str(weights), "--out", str(file / "out")], file / "out"),
    ):
        result = CliRunner().invoke(train.cli.app, words)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: cannot write {path} (")
    assert sorted(tmp_path.iterdir()) == [file, folder, weights]
    assert list(folder.iterdir()) == []


def test_what_cannot_run_is_said(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "mae.pth")
    for more, message in (
        (("--set", "batch=3", "--set", "accumulate=2"), "batch is 3; expected a multiple of 2"),
        (("--start", str(tmp_path / "mae.pth")), "convert weights from elsewhere with: python -m train import"),
        (("--start", str(tmp_path / "none")), "none does not exist"),
        (("--set", "depth=3"), "cannot apply --set 'depth=3'"),
        (("--set", "model.search_size=192.0"), "got float"),
        (("--set", "frozen=[1]"), "frozen is [1]; expected a list of parameters' names"),
        (("--set", 'mixture.ratios=["clips"]'), "ratios is ['clips']; expected shares by kind, such as"),
        (("--set", 'mixture.ratios={"clips": "all"}'), "ratios.clips is 'all'; expected a share"),
        (("--set", 'mixture.ratios={"clips": -1, "scenes": 2}'), "ratios.clips is -1; expected a share"),
        (("--set", "mixture.stills=NaN"), "stills is nan; expected a share"),
        (("--set", "lr=.2"), "cannot apply --set 'lr=.2': got a word; expected a number, as 0.0008 is"),
    ):
        result = fit(tmp_path / "run", *more)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr
