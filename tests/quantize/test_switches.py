"""The papers' switches, end to end: a few steps of training, the bundle, and a video tracked with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import random_model
from test_export import BACKENDS, frames
from typer.testing import CliRunner

import edgetrack
from edgetrack.errors import OptionError
from edgetrack.imaging import box_to_crop, clip_box, crop_square, crop_to_box, normalise
from quantize.cli import app
from quantize.export import export_bundle
from train.checkpoints import load_model
from train.data.mixture import datasets
from train.data.pairs import PairConfig
from train.loop import fit
from train.losses import from_order
from train.models.seqtrack import SeqTrack
from train.recipes import Recipe

SWITCHES: dict[str, dict[str, object]] = {
    "bidirectional": {"decoding": "bidirectional", "memory": "token"},
    "separate": {"template_attention": "separate", "memory": "xz", "order": "whxy"},
    "corner": {"order": "corner", "memory": "x", "bins": 100},
    "prompt": {"prompt_frames": 4},
}
SMALL = replace(random_model("isolated").config, order="xywh", encoder_depth=1, decoder_layers=1)
BOX = [50.0, 40.0, 24.0, 30.0]


@pytest.fixture(scope="module", params=sorted(SWITCHES))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeqTrack, Path]:
    """A small model after three steps on drawn scenes, and its bundle."""
    config = replace(SMALL, **SWITCHES[request.param])
    recipe = Recipe(config, batch=4, steps=3, warmup=1, decay=1, pairs=PairConfig(absent=0.3))
    root = tmp_path_factory.mktemp("switch")
    train, validation = datasets(recipe, [])
    validation._length = 4
    fit(recipe, train, validation, root / "run", every=3)
    model, metadata = load_model(root / "run" / "model.safetensors")
    assert model.config == config
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(50)  # so that each step depends on the last
    export_bundle(model, root / "model", name="switched", metadata=metadata)
    return model, root / "model"


@torch.no_grad()
def tracked_by_pytorch(model: SeqTrack, film: list[np.ndarray]) -> np.ndarray:
    """The online loop in PyTorch, with a prompt where the model has one."""
    config = model.config
    state = np.asarray(BOX)
    history = [state] * config.prompt_frames

    def crop(frame: np.ndarray, factor: float, size: int) -> tuple[torch.Tensor, float]:
        image, scale = crop_square(frame, state, factor, size)
        return torch.from_numpy(normalise(image)).permute(2, 0, 1)[None], scale

    templates = crop(film[0], config.template_factor, config.template_size)[0][:, None]
    window = torch.from_numpy(np.hanning(config.bins)).float()
    boxes = [state]
    for frame in film[1:]:
        search, scale = crop(frame, config.search_factor, config.search_size)
        told = [box_to_crop(box, state, scale, config.search_size) for box in history]
        told_tensor = torch.from_numpy(np.asarray(told).reshape(1, -1, 4))
        ids = model.generate(model.encode(templates, search), window, history=told_tensor).tokens
        cxcywh = from_order(ids[0].double() / (config.bins - 1), config.order).numpy()
        state = clip_box(crop_to_box(cxcywh, state, scale, config.search_size), (160, 120), 10.0)
        history = [*history[1:], state] if history else []
        boxes.append(state)
    return np.stack(boxes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decode", ["fused", "cached"])
def test_a_switched_model_trains_exports_and_tracks(trained: tuple[SeqTrack, Path], backend: str, decode: str) -> None:
    model, bundle = trained
    if decode == "cached" and model.config.decoding == "bidirectional":
        with pytest.raises(OptionError, match="decodes all tokens at once"):
            edgetrack.Tracker(bundle, backend, decode=decode)
        return
    film = frames(6)
    tracker = edgetrack.Tracker(bundle, backend, threads=1, decode=decode)
    tracker.init(film[0], BOX)
    found = np.asarray([BOX, *(tracker.update(frame).box for frame in film[1:])])
    np.testing.assert_allclose(found, tracked_by_pytorch(model, film), atol=0.5)
    if model.config.order == "corner":
        with pytest.raises(OptionError, match=r"window=0\.5, but 'switched' writes a box as its corners"):
            edgetrack.Tracker(bundle, backend, window=0.5)


def test_a_switch_is_a_setting_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user would: both commands, with a switch by `--set`."""
    from train.cli import app as train

    # Two steps of training find no target, and there is nothing to fit: say that those on the right are found.
    monkeypatch.setattr("train.calibration.iou", lambda boxes, true: (true[:, 0] > 0.5).float())
    small = [f"--set=model.{key}={value}" for key, value in {
        "search_size": 64, "template_size": 32, "encoder_dim": 32, "encoder_depth": 1, "encoder_heads": 2,
        "decoder_dim": 16, "decoder_heads": 2, "decoder_ffn": 16, "bins": 40,
    }.items()]  # fmt: skip
    short = ["--set=steps=2", "--set=batch=2", "--set=decay=1", "--set=frozen=[]", "--workers=0"]
    run = ["fit", "seqtrack-nano", "--out", str(tmp_path / "run"), *small, *short]
    result = CliRunner().invoke(
        train, [*run, "--set=model.decoding=bidirectional", "--set=model.prompt_frames=4", "--set=model.order=corner"]
    )
    assert result.exit_code == 0, result.output
    weights = str(tmp_path / "run" / "model.safetensors")
    # The score of a model of corners is fitted without the window that its bundle cannot have.
    result = CliRunner().invoke(train, ["calibrate", weights, "--pairs", "32"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["export", weights, "--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    tracker = edgetrack.Tracker(tmp_path / "model")
    assert tracker.model.manifest.decoder.prompt_frames == 4
    assert tracker.model.manifest.online.window == 0
