"""Official weights under our names: against the official answers, and against weights of our own renamed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_seqtrack
import pytest
import torch
from safetensors import safe_open
from shared import shared
from typer.testing import CliRunner

from train.checkpoints import OfficialWeightsError, load_model, read_state, seqtrack_from_official
from train.cli import app
from train.models.seqtrack import SeqTrack, SeqTrackConfig

SQUARE = SeqTrackConfig(
    search_size=32,
    template_size=32,
    encoder_dim=24,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
    decoder_ffn=32,
    bins=20,
)


def official_names(model: SeqTrack) -> dict[str, torch.Tensor]:
    """Write a model of ours under the official names, layer by layer, without the table that reads them."""
    ours = model.state_dict()
    out = {
        "encoder.body.patch_embed.proj.weight": ours["encoder.stem.proj.weight"],
        "encoder.body.patch_embed.proj.bias": ours["encoder.stem.proj.bias"],
        "encoder.body.pos_embed": torch.cat([ours["encoder.search_position"], ours["encoder.template_position"]], 1),
        "pos_embed": ours["decoder.memory_position"],
        "decoder.embedding.word_embeddings.weight": ours["decoder.embedding.weight"],
        "decoder.embedding.position_embeddings.weight": ours["decoder.position"][0],
    }
    for kind in ("weight", "bias"):
        out[f"encoder.body.norm.{kind}"] = ours[f"encoder.norm.{kind}"]
        out[f"bottleneck.{kind}"] = ours[f"decoder.bottleneck.{kind}"]
        out[f"decoder.embedding.LayerNorm.{kind}"] = ours[f"decoder.embedding_norm.{kind}"]
        out[f"decoder.body.norm.{kind}"] = ours[f"decoder.norm.{kind}"]
        for i in range(model.config.encoder_depth):
            for theirs, mine in (
                ("norm1", "norm1"),
                ("norm2", "norm2"),
                ("attn.qkv", "attn.qkv"),
                ("attn.proj", "attn.proj"),
                ("mlp.fc1", "fc1"),
                ("mlp.fc2", "fc2"),
            ):
                out[f"encoder.body.blocks.{i}.{theirs}.{kind}"] = ours[f"encoder.blocks.{i}.{mine}.{kind}"]
        for i in range(model.config.decoder_layers):
            prefix, layer = f"decoder.body.layers.{i}", f"decoder.layers.{i}"
            for theirs, mine in (("self_attn", "self"), ("multihead_attn", "cross")):
                packed = torch.cat([ours[f"{layer}.{mine}_{part}.{kind}"] for part in "qkv"])
                out[f"{prefix}.{theirs}.in_proj_{kind}"] = packed
                out[f"{prefix}.{theirs}.out_proj.{kind}"] = ours[f"{layer}.{mine}_out.{kind}"]
            for n in (1, 2):
                out[f"{prefix}.linear{n}.{kind}"] = ours[f"{layer}.fc{n}.{kind}"]
            for n in (1, 2, 3):
                out[f"{prefix}.norm{n}.{kind}"] = ours[f"{layer}.norm{n}.{kind}"]
        for i in range(3):
            out[f"vocab_embed.layers.{i}.{kind}"] = ours[f"decoder.head.{i}.{kind}"]
    return out


@pytest.fixture
def model() -> SeqTrack:
    torch.manual_seed(0)
    return SeqTrack(SQUARE).eval()


def test_renamed_weights_give_the_same_model(model: SeqTrack) -> None:
    again = seqtrack_from_official(official_names(model), encoder_heads=2, decoder_heads=2)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bottleneck.bias"), "missing: decoder.bottleneck.bias"),
        (lambda s: s.pop("encoder.body.pos_embed"), "lack 'encoder.body.pos_embed'"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown: net.extra"),
        (lambda s: s.update({"bottleneck.bias": torch.zeros(3)}), r"bottleneck.bias has shape \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(model: SeqTrack, change: object, message: str) -> None:
    state = official_names(model)
    change(state)  # type: ignore[operator]
    with pytest.raises(OfficialWeightsError, match=message):
        seqtrack_from_official(state, encoder_heads=2, decoder_heads=2)


def test_heads_that_do_not_divide_are_refused(model: SeqTrack) -> None:
    with pytest.raises(OfficialWeightsError, match="encoder_heads"):
        seqtrack_from_official(official_names(model), encoder_heads=7, decoder_heads=2)


def test_import_command_writes_a_model_that_loads(model: SeqTrack, tmp_path: Path) -> None:
    torch.save({"net": official_names(model), "epoch": 500}, tmp_path / "official.pth")
    heads = ["--set", "encoder_heads=2", "--set", "decoder_heads=2"]
    arguments = ["import", str(tmp_path / "official.pth"), "--out", str(tmp_path / "ours.safetensors"), *heads]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    again, metadata = load_model(tmp_path / "ours.safetensors")
    assert again.config == model.config
    assert "official.pth" in metadata["source"]
    images = torch.randn(1, 2, 3, 32, 32), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.encode(*images), model.encode(*images))


def test_import_as_another_preset_is_refused(model: SeqTrack, tmp_path: Path) -> None:
    torch.save({"net": official_names(model)}, tmp_path / "official.pth")
    arguments = ["import", str(tmp_path / "official.pth"), "--as", "seqtrack-b256", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "not seqtrack-b256: search_size is 32, expected 256" in result.output
    assert not (tmp_path / "out").exists()


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


class Settings:
    """As the official trainer's: an object with a state, one of another class in it."""

    def __init__(self) -> None:
        self.meters = [Payload(), np.float64(3.0), Path("here")]


def test_the_trainers_own_objects_are_passed_over_and_not_run(
    model: SeqTrack, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = official_names(model)
    torch.save({"epoch": 500, "net": state, "stats": {"loss": Payload()}, "settings": Settings()}, tmp_path / "o.pth")
    found = read_state(tmp_path / "o.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert "run" not in capfd.readouterr().out


def test_heads_are_never_guessed(model: SeqTrack, tmp_path: Path) -> None:
    torch.save({"net": official_names(model)}, tmp_path / "official.pth")
    arguments = ["import", str(tmp_path / "official.pth"), "--out", str(tmp_path / "out.safetensors")]
    result = CliRunner().invoke(app, [*arguments, "--set", "encoder_heads=2"])
    assert result.exit_code == 1
    assert "--set decoder_heads=N" in result.output
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", {"net": Payload()}, {"model": {}}, {"net": 3}, [1, 2]])
def test_files_that_are_no_checkpoint_are_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(OfficialWeightsError):
        read_state(path)


@pytest.mark.parametrize("memory", ["x", "xz", "token"])
def test_answers_are_those_of_the_plain_model(memory: str) -> None:
    torch.manual_seed(3)
    model = SeqTrack(replace(SQUARE, memory=memory)).eval()
    state = official_names(model)
    generator = torch.Generator().manual_seed(4)
    for name, tensor in state.items():  # norms and biases too: at their initial ones and zeros they hide mistakes
        state[name] = tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
    again = seqtrack_from_official(state, encoder_heads=2, decoder_heads=2, memory=memory)
    search, *templates = torch.randn(3, 2, 3, 32, 32, generator=generator)
    expected = plain_seqtrack.encode(state, 2, search, *templates)
    with torch.no_grad():
        tokens = again.encode(torch.stack(templates, 1), search)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    seen = {"x": expected[:, :4], "xz": expected, "token": expected.mean(1, keepdim=True)}[memory]
    sequence = torch.tensor([[21, 3, 19, 7, 11], [21, 0, 5, 5, 2]])
    with torch.no_grad():
        found = again.logits(tokens, sequence)
    torch.testing.assert_close(found, plain_seqtrack.logits(state, 2, seen, sequence), rtol=1e-4, atol=1e-4)
    hanning = torch.from_numpy(np.hanning(20)).float()
    for window, order, windowed in ((None, "xywh", ()), (hanning, "xywh", (0, 1)), (hanning, "whxy", (2, 3))):
        ids, likelihoods, *_ = again.generate(tokens, window=window, order=order)
        expected_ids, expected_likelihoods = plain_seqtrack.generate(state, 2, seen, window, windowed)
        assert torch.equal(ids, expected_ids)
        torch.testing.assert_close(likelihoods, expected_likelihoods, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory", ["x", "xz", "token"])
def test_answers_are_the_official_ones(memory: str) -> None:
    with safe_open(shared("parity", f"public_{memory}.safetensors"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = {name.removeprefix("state_dict."): t for name, t in tensors.items() if name.startswith("state_dict.")}
    model = seqtrack_from_official(state, encoder_heads=4, decoder_heads=4, memory=memory)
    templates = torch.stack([tensors["input.template_0"], tensors["input.template_1"]], 1)
    with torch.no_grad():
        tokens = model.encode(templates, tensors["input.search"])
        logits = model.logits(tokens, tensors["input.sequence"])
    torch.testing.assert_close(tokens, tensors["output.encoder_tokens"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, tensors["output.logits"], rtol=0, atol=1e-4)
    hanning = torch.from_numpy(np.hanning(model.config.bins)).float()
    for name, window, order in (
        ("greedy", None, "xywh"),
        ("window_xywh", hanning, "xywh"),
        ("window_whxy", hanning, "whxy"),
    ):
        ids, likelihoods, *_ = model.generate(tokens, window=window, order=order)
        assert torch.equal(ids, tensors[f"output.{name}.tokens"])
        torch.testing.assert_close(likelihoods, tensors[f"output.{name}.confidence"], rtol=0, atol=1e-5)
