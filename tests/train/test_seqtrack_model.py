"""The model's structure: sizes of the paper, caching that changes nothing, gradients that reach everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.models.complexity import complexity
from train.models.decoder import SlotCache
from train.models.seqtrack import PRESETS, SeqTrack, SeqTrackConfig

TINY = SeqTrackConfig(
    search_size=64,
    template_size=32,
    encoder_dim=48,
    encoder_depth=3,
    encoder_heads=4,
    decoder_dim=32,
    decoder_heads=4,
    decoder_ffn=64,
    bins=50,
)


def built(config: SeqTrackConfig) -> SeqTrack:
    torch.manual_seed(0)
    return SeqTrack(config).eval()


def images(config: SeqTrackConfig, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    templates = torch.randn(batch, config.templates, 3, config.template_size, config.template_size, generator=generator)
    return templates, torch.randn(batch, 3, config.search_size, config.search_size, generator=generator)


@pytest.mark.parametrize(
    ("preset", "parameters", "macs"),
    [
        ("seqtrack-b256", 90.6e6, 65.7e9),
        ("seqtrack-b384", 91.2e6, 147.8e9),
        ("seqtrack-l256", 308.2e6, 232.5e9),
        ("seqtrack-l384", 309.0e6, 523.2e9),
    ],
)
def test_presets_weigh_what_the_paper_says(preset: str, parameters: float, macs: float) -> None:
    counted = complexity(PRESETS[preset])
    assert counted.parameters == pytest.approx(parameters, rel=0.01)
    assert counted.macs == pytest.approx(macs, rel=0.01)


def test_macs_are_those_of_the_layers_counted_by_hand() -> None:
    c = TINY
    search, template, d = c.search_tokens, c.template_tokens * c.templates, c.encoder_dim
    block = d * 3 * d + d * d + 2 * d * 4 * d
    encoder = (search + template) * (3 * 16 * 16 * d + c.encoder_depth * block)
    dd = c.decoder_dim
    memory = search * (d * dd + c.decoder_layers * 2 * dd * dd)
    steps = 4 * (c.decoder_layers * (6 * dd * dd + 2 * dd * c.decoder_ffn) + 2 * dd * dd + dd * (c.bins + 2))
    assert complexity(c).macs == encoder + memory + steps


def test_nano_keeps_to_its_budget() -> None:
    assert complexity(PRESETS["seqtrack-nano"]).frame_parameters <= 3_000_000


@pytest.mark.parametrize("memory", ["x", "xz", "token"])
def test_isolated_templates_from_the_cache_equal_those_without(memory: str) -> None:
    """One pass over all tokens in which template queries see no search key is what the cache must reproduce."""
    config = replace(TINY, template_attention="isolated", memory=memory)
    model = built(config)
    templates, search = images(config)
    encoder = model.encoder
    x = torch.cat([encoder.stem(search) + encoder.search_position, encoder.embed_templates(templates)], 1)
    is_template = torch.arange(x.shape[1]) >= config.search_tokens
    visible = ~(is_template[:, None] & ~is_template[None, :])
    with torch.no_grad():
        for block in encoder.blocks:
            q, k, v = (
                part.unflatten(-1, (config.encoder_heads, -1)).transpose(1, 2)
                for part in block.attn.qkv(block.norm1(x)).chunk(3, -1)
            )
            attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            x = x + block.attn.proj(attended.transpose(1, 2).flatten(2))
            x = x + block.fc2(torch.nn.functional.gelu(block.fc1(block.norm2(x))))
        expected = encoder.norm(x)
        found = model.encode(templates, search)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_isolated_templates_do_not_depend_on_the_search_image() -> None:
    config = replace(TINY, template_attention="isolated")
    model, (templates, search) = built(config), images(config)
    with torch.no_grad():
        one, other = model.encode(templates, search), model.encode(templates, search.flip(0) * 2)
    torch.testing.assert_close(one[:, config.search_tokens :], other[:, config.search_tokens :])
    assert not torch.allclose(one[:, : config.search_tokens], other[:, : config.search_tokens])


def test_joint_templates_do_depend_on_the_search_image() -> None:
    model, (templates, search) = built(TINY), images(TINY)
    with torch.no_grad():
        one, other = model.encode(templates, search), model.encode(templates, search.flip(0) * 2)
    assert not torch.allclose(one[:, TINY.search_tokens :], other[:, TINY.search_tokens :], atol=1e-3)


@pytest.mark.parametrize("order", ["xywh", "whxy", "corner"])
@pytest.mark.parametrize("frames", [0, 4])
def test_cached_generation_equals_running_the_whole_prefix_again(order: str, frames: int) -> None:
    """The official decoder re-runs the prefix at every step; so does this, and it is slow and plain."""
    config = replace(TINY, order=order, prompt_frames=frames)
    model = built(config)
    window = torch.from_numpy(np.hanning(config.bins)).float()
    centre = {"xywh": (0, 1), "whxy": (2, 3), "corner": ()}[order]
    history = torch.rand(2, frames, 4)
    with torch.no_grad():
        tokens = model.encode(*images(config))
        sequence = torch.cat([model.prompt(history), torch.full((2, 1), config.bins + 1)], 1)
        likelihoods, probabilities = [], []
        for index in range(4):
            probability = model.logits(tokens, sequence)[:, -1].softmax(-1)[:, : config.bins]
            probabilities.append(probability)
            if index in centre:
                probability = probability * window
            best = probability.max(-1)
            likelihoods.append(best.values)
            sequence = torch.cat([sequence, best.indices[:, None]], 1)
    found = model.generate(tokens, window, history=history)
    assert torch.equal(found.tokens, sequence[:, -4:])
    torch.testing.assert_close(found.likelihoods, torch.stack(likelihoods, 1))
    torch.testing.assert_close(found.probabilities, torch.stack(probabilities, 1))


@pytest.mark.parametrize("frames", [0, 4])
def test_generation_stays_on_the_models_device(frames: int) -> None:
    """PyTorch's meta device stands in for a GPU: it computes nothing, and takes no tensor of the CPU either."""
    config = replace(TINY, prompt_frames=frames)
    model = built(config).to("meta")
    templates, search = (each.to("meta") for each in images(config))
    found = model.generate(model.encode(templates, search), history=torch.rand(2, frames, 4, device="meta"))
    assert found.tokens.is_meta
    assert found.tokens.shape == (2, 4)


def test_the_prompt_is_the_boxes_of_the_last_frames_and_changes_the_answer() -> None:
    config = replace(TINY, prompt_frames=2)
    model = built(config)
    history = torch.tensor([[[0.5, 0.5, 0.2, 0.3], [0.1, 0.9, -0.2, 1.7]]])
    expected = [int(v * (config.bins - 1)) for v in (0.5, 0.5, 0.2, 0.3, 0.1, 0.9, 0, 1)]
    assert model.prompt(history).tolist() == [expected]
    with torch.no_grad():
        tokens = model.encode(*images(config, 1))
        ids = torch.tensor([[1, 2, 3, 4]])
        one, other = (model.answers(tokens, ids, h) for h in (history, history.flip(1)))
    assert one.shape == (1, 5, config.bins + 2)
    assert not torch.allclose(one, other)


def test_bidirectional_decoding_answers_all_at_once() -> None:
    """Unlike step by step, nothing that was answered is looked at: the likeliest tokens are those of one run, each of
    which sees all others."""
    config = replace(TINY, decoding="bidirectional")
    model = built(config)
    with torch.no_grad():
        tokens = model.encode(*images(config))
        logits = model.logits(tokens, torch.full((2, 4), config.bins + 1))
        none = torch.empty(2, 0, 4)
        for ids in ([[1, 2, 3, 4]] * 2, [[9, 8, 7, 6]] * 2):
            torch.testing.assert_close(model.answers(tokens, torch.tensor(ids), none), logits)
        found, likelihoods, presence, told = model.generate(tokens)
        probabilities = logits.softmax(-1)
        best = probabilities[..., : config.bins].max(-1)
        assert torch.equal(found, best.indices)
        torch.testing.assert_close(likelihoods, best.values)
        torch.testing.assert_close(told, probabilities[..., : config.bins])
        torch.testing.assert_close(presence, 1 - probabilities[:, 0, config.bins])
        model.decoder.position[:, 3] += torch.randn(config.decoder_dim)
        assert not torch.allclose(model.logits(tokens, torch.full((2, 4), config.bins + 1))[:, 0], logits[:, 0])


def test_separate_encoders_do_not_look_at_each_other() -> None:
    config = replace(TINY, template_attention="separate", memory="xz")
    model, (templates, search) = built(config), images(config)
    count = config.search_tokens
    with torch.no_grad():
        one = model.encode(templates, search)
        torch.testing.assert_close(model.encode(templates.flip(0), search)[:, :count], one[:, :count])
        torch.testing.assert_close(model.encode(templates, search.flip(0))[:, count:], one[:, count:])
        assert one.shape[1] == count + config.templates * config.template_tokens


def test_steps_over_fixed_buffers_ignore_what_lies_beyond_the_position() -> None:
    model = built(TINY)
    with torch.no_grad():
        cross = model.project_memory(model.encode(*images(TINY, 1)))
        sequence = torch.tensor([[51, 7, 30, 12, 44]])
        expected = model.decoder(sequence, *cross)
        # Garbage in the buffers: every slot is either written before it is read, or hidden.
        keys = torch.full((2, 1, 4, 5, 8), 1e3)
        values = torch.full((2, 1, 4, 5, 8), -1e3)
        for index in range(5):
            cache = SlotCache(keys, values, torch.tensor([index]))
            logits = model.decoder.step(sequence[:, index : index + 1], torch.tensor([index]), cache, *cross)
            keys, values = cache.present()
            torch.testing.assert_close(logits, expected[:, index])


def test_decoding_is_causal() -> None:
    model = built(TINY)
    with torch.no_grad():
        tokens = model.encode(*images(TINY, 1))
        one = model.logits(tokens, torch.tensor([[51, 3, 9, 20]]))
        other = model.logits(tokens, torch.tensor([[51, 3, 40, 1]]))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2:], other[:, 2:])


@pytest.mark.parametrize("attention", ["joint", "isolated"])
def test_only_slots_tell_templates_apart(attention: str) -> None:
    for slots in (False, True):
        config = replace(TINY, template_attention=attention, templates=2, template_slots=slots)
        model, (templates, search) = built(config), images(config)
        if slots:
            torch.nn.init.normal_(model.encoder.template_slot, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            one, other = (model.memory(model.encode(t, search)) for t in (templates, templates.flip(1)))
        assert torch.allclose(one, other, atol=1e-4) != slots


@pytest.mark.parametrize("slots", [False, True])
def test_every_parameter_learns(slots: bool) -> None:
    config = replace(PRESETS["seqtrack-nano"], search_size=64, template_size=32, templates=2, template_slots=slots)
    model = SeqTrack(config)
    templates, search = images(config)
    model.logits(model.encode(templates, search), torch.tensor([[401, 1, 2, 3, 4]] * 2)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": "z"}, "memory"),
        ({"order": "yxwh"}, "order"),
        ({"encoder_heads": 5}, "encoder_dim is 48"),
        ({"search_size": 100}, "multiple of the patch"),
        ({"template_attention": "none"}, "one of joint, isolated, separate"),
        ({"template_attention": "separate"}, "memory is 'x' with separate"),
        ({"decoding": "parallel"}, "decoding is 'parallel'"),
        ({"prompt_frames": -1}, "prompt_frames is -1"),
        ({"templates": 1, "template_slots": True}, "template_slots is true with one template"),
        ({"stem_widths": (8, 16)}, "patch"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeqTrack(replace(TINY, **change))
