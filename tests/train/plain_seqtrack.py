"""SeqTrack once more, written plainly from the paper and the official configuration, on weights under official names.

Nothing of it is shared with the project: attention is torch's own module, positions and norms are spelt out, the prefix
is run again at every step. What it answers is what the project's model must answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attention(state: State, name: str, heads: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    module = nn.MultiheadAttention(q.shape[-1], heads, batch_first=True)
    module.load_state_dict({key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")})
    return module.eval()(q, k, v, attn_mask=mask, need_weights=False)[0]


@torch.no_grad()
def encode(state: State, heads: int, search: Tensor, *templates: Tensor) -> Tensor:
    """Search (B, 3, S, S) and templates of the same size -> tokens (B, N, D): search, then each template."""
    positions = state["encoder.body.pos_embed"].chunk(2, 1)
    tokens = []
    for index, image in enumerate((search, *templates)):
        weight, bias = state["encoder.body.patch_embed.proj.weight"], state["encoder.body.patch_embed.proj.bias"]
        patches = F.conv2d(image, weight, bias, stride=weight.shape[-1])
        tokens.append(patches.flatten(2).transpose(1, 2) + positions[min(index, 1)])
    x = torch.cat(tokens, 1)
    depth = 1 + max(int(name.split(".")[3]) for name in state if ".blocks." in name)
    for i in range(depth):
        block = f"encoder.body.blocks.{i}"
        packed = {f"a.in_proj_{kind}": state[f"{block}.attn.qkv.{kind}"] for kind in ("weight", "bias")} | {
            f"a.out_proj.{kind}": state[f"{block}.attn.proj.{kind}"] for kind in ("weight", "bias")
        }
        y = _norm(state, f"{block}.norm1", x, 1e-6)
        x = x + _attention(packed, "a", heads, y, y, y, None)
        y = _norm(state, f"{block}.norm2", x, 1e-6)
        x = x + _linear(state, f"{block}.mlp.fc2", F.gelu(_linear(state, f"{block}.mlp.fc1", y)))
    return _norm(state, "encoder.body.norm", x, 1e-6)


@torch.no_grad()
def logits(state: State, heads: int, memory: Tensor, sequence: Tensor) -> Tensor:
    """Encoder tokens that the decoder attends to (B, M, D) and token ids (B, N) -> logits (B, N, V)."""
    memory = _linear(state, "bottleneck", memory)
    places = state["pos_embed"]
    x = _norm(state, "decoder.embedding.LayerNorm", state["decoder.embedding.word_embeddings.weight"][sequence], 1e-5)
    query = state["decoder.embedding.position_embeddings.weight"][: sequence.shape[1]]
    hidden = torch.full((sequence.shape[1],) * 2, float("-inf")).triu(1)
    layers = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("decoder.body.layers."))
    for i in range(layers):
        layer = f"decoder.body.layers.{i}"
        y = _attention(state, f"{layer}.self_attn", heads, x + query, x + query, x, hidden)
        x = _norm(state, f"{layer}.norm1", x + y, 1e-5)
        y = _attention(state, f"{layer}.multihead_attn", heads, x + query, memory + places, memory, None)
        x = _norm(state, f"{layer}.norm2", x + y, 1e-5)
        y = _linear(state, f"{layer}.linear2", F.relu(_linear(state, f"{layer}.linear1", x)))
        x = _norm(state, f"{layer}.norm3", x + y, 1e-5)
    x = _norm(state, "decoder.body.norm", x, 1e-5)
    x = F.relu(_linear(state, "vocab_embed.layers.0", x))
    x = F.relu(_linear(state, "vocab_embed.layers.1", x))
    return _linear(state, "vocab_embed.layers.2", x)


def generate(
    state: State, heads: int, memory: Tensor, window: Tensor | None, windowed: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Greedy decoding, the whole prefix at every step -> token ids (B, 4) and their likelihoods."""
    bins = state["vocab_embed.layers.2.weight"].shape[0] - 2
    sequence = torch.full((len(memory), 1), bins + 1)
    likelihoods = []
    for step in range(4):
        probability = logits(state, heads, memory, sequence)[:, -1].softmax(-1)[:, :bins]
        if window is not None and step in windowed:
            probability = probability * window
        best, token = probability.max(-1)
        likelihoods.append(best)
        sequence = torch.cat([sequence, token[:, None]], 1)
    return sequence[:, 1:], torch.stack(likelihoods, 1)
