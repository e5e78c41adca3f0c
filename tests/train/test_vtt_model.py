"""VTT equation by equation, against plain NumPy and loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import TINY_VTT
from torch.nn import functional as F

from train.models.complexity import complexity
from train.models.vtt import PRESETS, VTT, Layer, MultiHeadAttention, VTTConfig, sine_positions

TINY = replace(TINY_VTT, encoder_layers=2, decoder_layers=3, ffn=24, queries=5)


@pytest.fixture(scope="module")
def model() -> VTT:
    torch.manual_seed(0)
    return VTT(TINY).eval()


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(w: dict[str, np.ndarray], prefix: str, q, k, v, visible) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Multi-head attention of one example, head by head and query by query."""
    heads = TINY.heads
    q, k, v = linear(w, f"{prefix}q", q), linear(w, f"{prefix}k", k), linear(w, f"{prefix}v", v)
    width = q.shape[1] // heads
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(q)):
            scores = [q[i, part] @ k[j, part] / math.sqrt(width) if visible[j] else -math.inf for j in range(len(k))]
            odds = np.exp(np.asarray(scores) - max(scores))
            out[i, part] = (odds / odds.sum()) @ v[:, part]
    return linear(w, f"{prefix}out", out)


def norm(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def layer(w: dict[str, np.ndarray], x, position, memory, memory_position, visible) -> np.ndarray:  # type: ignore[no-untyped-def]
    x = norm(w, "norm1", x + attention(w, "attention.", x + position, memory + memory_position, memory, visible))
    return norm(w, "norm2", x + linear(w, "fc2", np.maximum(linear(w, "fc1", x), 0)))


def test_attention_is_the_formula() -> None:
    module = MultiHeadAttention(TINY.dim, TINY.heads)
    q, k, v = torch.randn(1, 3, 16), torch.randn(1, 7, 16), torch.randn(1, 7, 16)
    visible = torch.tensor([True, True, False, True, False, True, True])
    found = module(q, k, v, visible[None, None, None])[0]
    expected = attention(arrays(module), "", *(t[0].double().numpy() for t in (q, k, v)), visible.numpy())
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def test_encoder_and_decoder_layers_are_the_formula() -> None:
    module = Layer(TINY).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # normalisations that are not the identity
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    x, px, m, pm = (torch.randn(1, n, 16, generator=generator) for n in (3, 3, 6, 6))
    visible = np.asarray([True] * 5 + [False])
    for memory, memory_position, seen in ((m, pm, visible), (x, px, visible[:3])):
        mask = torch.from_numpy(seen)[None, None, None]
        found = module(x, px, memory + memory_position, memory, mask)[0]
        values = (t[0].double().numpy() for t in (x, px, memory, memory_position))
        np.testing.assert_allclose(found.detach().numpy(), layer(arrays(module), *values, seen), atol=1e-4)


def test_positions_are_detrs_sines() -> None:
    rows, columns, dim = 3, 5, 12
    table = sine_positions(rows, columns, dim)[0]
    for r in range(rows):
        for c in range(columns):
            expected = []
            for place, length in ((r + 1, rows), (c + 1, columns)):
                for i in range(dim // 2):
                    angle = place / length * 2 * math.pi / 10000 ** (2 * (i // 2) / (dim // 2))
                    expected.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
            assert table[r * columns + c].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_folding_the_kernel_is_correlating_and_reducing(model: VTT) -> None:
    templates, search = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 96)
    found = model.correlate(model.features(search).flatten(1, 2), model.fold(model.kernel(templates)))
    for b in range(2):
        features = model.backbone(search[b : b + 1])  # (1, C, h, w)
        kernel = model.phi(model.backbone(templates[b : b + 1]))  # (1, C, 1, 1)
        assert kernel.shape == (1, 128, 1, 1)
        correlated = F.conv2d(features, kernel.transpose(0, 1), groups=128)
        reduced = F.conv2d(correlated, model.reduce.weight[..., None, None], model.reduce.bias)
        torch.testing.assert_close(found[b], reduced.flatten(2)[0].t(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_kernel_is_linear_in_the_features(model: VTT) -> None:
    templates = torch.randn(1, 3, 32, 32)
    features, w = model.backbone(templates)[0].double(), model.phi.weight.double()
    expected = [(w[o] * features).sum().item() + model.phi.bias[o].item() for o in range(8)]
    assert model.kernel(templates)[0, :8].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_all_of_it_is_the_formulas_in_order(model: VTT) -> None:
    templates, search, extent = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 64, 96), torch.tensor([[0.8, 0.7]])
    states, memory, *_ = model(templates, search, extent)
    answers = model.answer(states)
    x = model.correlate(model.features(search).flatten(1, 2), model.fold(model.kernel(templates)))[0].double().numpy()
    position, queries = model.position[0].double().numpy(), model.queries[0].detach().double().numpy()
    # 96 x 0.8 = 76.8 pixels show 5 of 6 columns, 64 x 0.7 = 44.8 show 3 of 4 rows.
    visible = np.asarray([r < 3 and c < 5 for r in range(4) for c in range(6)])
    for each in model.encoder:
        x = layer(arrays(each), x, position, x, position, visible)
    np.testing.assert_allclose(memory[0].numpy(), x, atol=1e-3)
    state, w = queries, arrays(model)
    for index, each in enumerate(model.decoder):
        state = layer(arrays(each), state, queries, x, position, visible)
        hidden = np.maximum(linear(w, "box.1", np.maximum(linear(w, "box.0", state), 0)), 0)
        boxes = 1 / (1 + np.exp(-linear(w, "box.2", hidden)))
        np.testing.assert_allclose(answers.boxes[index, 0].numpy(), boxes, atol=1e-3)
        np.testing.assert_allclose(answers.logits[index, 0].numpy(), linear(w, "score", state), atol=1e-3)
    boxes, scores = model.find(search, extent, model.fold(model.kernel(templates)))
    torch.testing.assert_close(boxes, answers.boxes[-1])
    torch.testing.assert_close(scores, answers.logits[-1].softmax(-1)[..., 1])


@torch.no_grad()
def test_padding_is_not_attended_to(model: VTT) -> None:
    tokens, extent = torch.randn(1, 24, 16), torch.tensor([[0.5, 1.0]])
    visible = model.visible(extent)
    assert visible.view(4, 6).tolist() == [[True] * 3 + [False] * 3] * 4
    changed = torch.where(visible[0, 0, 0, :, None], tokens, torch.randn(1, 24, 16))
    one, other = (model.decode(model.encode(t, visible), visible)[-1] for t in (tokens, changed))
    torch.testing.assert_close(one, other)


@torch.no_grad()
def test_queries_do_not_see_each_other(model: VTT) -> None:
    other = VTT(TINY).eval()
    other.load_state_dict(model.state_dict())
    other.queries[0, 0] += 1
    memory, visible = torch.randn(1, 24, 16), torch.ones(1, 1, 1, 24, dtype=torch.bool)
    one, two = model.decode(memory, visible)[-1], other.decode(memory, visible)[-1]
    assert not torch.allclose(one[0, 0], two[0, 0])
    torch.testing.assert_close(one[0, 1:], two[0, 1:])


@pytest.mark.parametrize("encoder", [0, 3, 6])
@pytest.mark.parametrize("decoder", [1, 3, 6])
def test_depth_is_a_matter_of_configuration(encoder: int, decoder: int) -> None:
    model = VTT(replace(TINY, encoder_layers=encoder, decoder_layers=decoder)).eval()
    states, memory, *_ = model(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 96), torch.ones(2, 2))
    answers = model.answer(states)
    assert answers.boxes.shape == (decoder, 2, 5, 4)
    assert answers.logits.shape == (decoder, 2, 5, 2)
    assert memory.shape == (2, 24, 16)


def test_presets_have_the_sizes_they_promise() -> None:
    paper, nano = complexity(PRESETS["vtt-r50"]), complexity(PRESETS["vtt-nano"])
    with torch.device("meta"):
        model = VTT(PRESETS["vtt-r50"])
    assert model.phi.weight.numel() == 2048 * 2048 * 4 * 4  # a 128 px template, at init alone
    assert paper.parameters - paper.frame_parameters > 67e6
    # An encoder layer's 4 d^2 + 2 d f weights: as many MACs per token.
    config = PRESETS["vtt-r50"]
    shallower = complexity(replace(config, encoder_layers=5))
    tokens = config.grid[0] * config.grid[1]
    assert paper.frame_macs - shallower.frame_macs == tokens * (4 * 256**2 + 2 * 256 * 2048)
    assert nano.frame_parameters <= 4e6
    assert PRESETS["vtt-nano"].search_width > PRESETS["vtt-nano"].search_height


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg'; expected one of resnet50"),
        ({"search_width": 100}, "search_width is 100; expected a multiple of the backbone's 16"),
        ({"heads": 3}, "expected a multiple of heads"),
        ({"decoder_layers": 0}, "expected at least 0 and 1"),
    ],
)
def test_impossible_configurations_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
    assert VTTConfig.from_dict(TINY.to_dict()) == TINY


def test_normalised_features_do_not_depend_on_how_strongly_the_backbone_answers() -> None:
    torch.manual_seed(0)
    model = VTT(replace(TINY, normalised=True)).eval()
    images = torch.randn(2, 3, TINY.search_height, TINY.search_width)
    folded = torch.randn(2, model.phi.in_channels, TINY.dim)
    features = model.features(images).flatten(1, 2)
    tokens = model.correlate(features, folded)
    torch.testing.assert_close(features.mean(-1), torch.zeros(features.shape[:-1]), atol=1e-5, rtol=0)
    backbone = model.backbone.forward
    model.backbone.forward = lambda x: 7 * backbone(x)  # type: ignore[method-assign]
    torch.testing.assert_close(
        model.correlate(model.features(images).flatten(1, 2), folded), tokens, rtol=1e-2, atol=0.1
    )  # but for the epsilon


def test_a_normalised_model_begins_with_the_likeness_of_template_and_cell() -> None:
    torch.manual_seed(0)
    model = VTT(replace(TINY, normalised=True)).eval()
    templates = torch.randn(2, 3, TINY.template_size, TINY.template_size)
    mean = model.features(templates).mean((1, 2))
    torch.testing.assert_close(model.kernel(templates), mean + model.phi.bias, rtol=1e-4, atol=1e-5)
