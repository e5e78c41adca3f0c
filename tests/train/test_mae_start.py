"""A SeqTrack begun from MAE's ViT: the encoder filled, its position tables resized, and files that do not fit named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from train.checkpoints import OfficialWeightsError, load_model, read_tensors, seqtrack_from_mae
from train.cli import app
from train.models import registry
from train.models.seqtrack import SeqTrackConfig

CONFIG = SeqTrackConfig(
    search_size=8 * 16,
    template_size=4 * 16,
    encoder_dim=24,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
    decoder_ffn=32,
    bins=20,
)
GRID = 5


def mae(dim: int = 24, depth: int = 2, grid: int = GRID) -> dict[str, Tensor]:
    """What a pretrained MAE's file holds for the encoder, by its own names and shapes."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + grid * grid, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for i in range(depth):
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"blocks.{i}.{name}.weight"] = (rows * dim, columns * dim)
            shapes[f"blocks.{i}.{name}.bias"] = (rows * dim,)
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.weight": (dim,), f"blocks.{i}.{name}.bias": (dim,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def pretraining() -> dict[str, Tensor]:
    """What the file with the decoder holds besides."""
    return {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 1 + GRID * GRID, 8),
        "decoder_embed.weight": torch.zeros(8, 24),
        "decoder_blocks.0.attn.qkv.weight": torch.zeros(24, 8),
        "decoder_norm.weight": torch.zeros(8),
        "decoder_pred.bias": torch.zeros(768),
    }


def cubic(values: np.ndarray, side: int) -> np.ndarray:
    """Keys' cubic convolution with a = -0.75 along the first axis, the first and last samples on each other."""
    n, a = len(values), -0.75
    out = np.zeros((side, *values.shape[1:]))
    for i in range(side):
        place = i * (n - 1) / (side - 1)
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - j)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            weight = near if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            out[i] += weight * values[min(max(j, 0), n - 1)]
    return out


def test_position_tables_are_resized_corner_to_corner_without_the_class_token() -> None:
    state = mae()
    encoder = seqtrack_from_mae(state, CONFIG).encoder
    grid = state["pos_embed"][0, 1:].double().numpy().reshape(GRID, GRID, 24)
    for table, side in ((encoder.search_position, 8), (encoder.template_position, 4)):
        expected = cubic(cubic(grid, side).swapaxes(0, 1), side).swapaxes(0, 1)
        found = table[0].detach().double().numpy().reshape(side, side, 24)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            np.testing.assert_allclose(found[corner], grid[corner], atol=1e-6)


def test_a_grid_of_the_same_size_is_taken_as_it_is() -> None:
    state = mae()
    config = replace(CONFIG, search_size=GRID * 16)
    assert torch.equal(seqtrack_from_mae(state, config).encoder.search_position, state["pos_embed"][:, 1:])


@torch.no_grad()
def test_the_encoder_computes_what_maes_does() -> None:
    """One image through a plain pre-norm ViT written out, on the search tokens alone."""
    state = mae()
    config = replace(CONFIG, search_size=GRID * 16, template_size=GRID * 16, template_attention="isolated", templates=1)
    model = seqtrack_from_mae(state, config)
    image = torch.randn(1, 3, GRID * 16, GRID * 16, generator=torch.Generator().manual_seed(1))
    found = model.template_state(image[:, None]).tokens  # isolated templates see nothing but themselves

    def norm(x: Tensor, name: str) -> Tensor:
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    patches = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(GRID * GRID, -1)
    x = patches @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    x = x + state["pos_embed"][0, 1:]
    for i in range(2):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(24, 1)
        heads = [slice(0, 12), slice(12, 24)]
        mixed = [(q[:, h] @ k[:, h].T / 12**0.5).softmax(1) @ v[:, h] for h in heads]
        x = x + linear(torch.cat(mixed, 1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), f"blocks.{i}.mlp.fc2")
    torch.testing.assert_close(found[0], norm(x, "norm"), rtol=1e-3, atol=1e-3)


def test_pretrainings_decoder_and_a_classifier_are_left_out() -> None:
    state = mae()
    plain = seqtrack_from_mae(state, CONFIG).encoder.state_dict()
    full = seqtrack_from_mae({**state, **pretraining()}, CONFIG).encoder.state_dict()
    assert all(torch.equal(full[name], plain[name]) for name in plain)
    tuned = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    tuned |= {"fc_norm.weight": torch.full((24,), 3.0), "fc_norm.bias": torch.ones(24)}
    tuned |= {"head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}
    encoder = seqtrack_from_mae(tuned, CONFIG).encoder
    assert torch.equal(encoder.norm.weight, torch.ones(24))  # the classifier's is of the mean token: not taken
    assert torch.equal(encoder.blocks[1].fc2.weight, state["blocks.1.mlp.fc2.weight"])


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (mae(dim=32, depth=3), CONFIG, "encoder_dim is 32, expected 24; encoder_depth is 3, expected 2"),
        (mae(), replace(CONFIG, patch=8), "patch is 16, expected 8"),
        (mae(), replace(CONFIG, mlp_ratio=2.0), "mlp_ratio is 4, expected 2"),
        (mae(), replace(CONFIG, stem_widths=(4, 8, 16)), "without stem_widths"),
        (
            mae() | {"pos_embed": torch.zeros(1, 27, 24)},
            CONFIG,
            "27 positions; expected a class token's and a square's",
        ),
        (mae() | {"blocks.1.gamma": torch.zeros(1)}, CONFIG, "unknown: blocks.1.gamma"),
        ({k: t for k, t in mae().items() if k != "norm.bias"}, CONFIG, "not the .* MAE's encoder: missing: norm.bias"),
        ({k: t for k, t in mae().items() if k != "cls_token"}, CONFIG, "expected the 'model' entry of a MAE"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Tensor], config: SeqTrackConfig, message: str) -> None:
    with pytest.raises(OfficialWeightsError, match=message):
        seqtrack_from_mae(state, config)


def test_import_writes_weights_to_begin_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.PRESETS, "seqtrack-b256", CONFIG)
    torch.save({"model": mae(), "epoch": 1600}, tmp_path / "mae.pth")

    def start(out: str, *more: str) -> object:
        arguments = ["import", str(tmp_path / "mae.pth"), "--out", str(tmp_path / out), *more]
        return CliRunner().invoke(app, arguments)

    result = start("one", "--as", "seqtrack-b256")
    assert result.exit_code == 0, result.output
    model, metadata = load_model(tmp_path / "one")
    assert model.config == CONFIG
    assert torch.equal(model.encoder.blocks[0].attn.qkv.weight, mae()["blocks.0.attn.qkv.weight"])
    assert metadata["source"] == "backbone of mae.pth, else random"
    start("two", "--as", "seqtrack-b256")
    one, two = (read_tensors(tmp_path / name)[0] for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)  # what is random is always the same
    start("two", "--as", "seqtrack-b256", "--set", "bins=30")
    assert load_model(tmp_path / "two")[0].config == replace(CONFIG, bins=30)
    for more, message in (
        ((), "add --as"),
        (("--as", "seqtrack-nano"), "without stem_widths"),
        (("--as", "seqtrack-b384"), "encoder_dim is 24, expected 768"),
        (("--as", "seqtrack-b256", "--set", "depth=3"), "cannot apply --set 'depth=3'"),
    ):
        result = start("three", *more)
        assert result.exit_code == 1
        assert message in result.stderr
    assert not (tmp_path / "three").exists()
    (tmp_path / "folder").mkdir()
    result = start("folder", "--as", "seqtrack-b256")
    assert result.exit_code == 1
    assert f"error: cannot write {tmp_path / 'folder'} (" in result.stderr
    assert not (tmp_path / "folder.partial").exists()
