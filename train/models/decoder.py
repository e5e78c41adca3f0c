"""SeqTrack's causal decoder: box coordinates as a sequence of tokens (Chen et al., CVPR 2023, Sec. 3.1-3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.attention import attend, merge_heads, split_heads


class GrowingCache:
    """Keys and values of the tokens decoded so far, appended to; for a loop whose length is fixed when it is traced."""

    visible: Tensor | None = None

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, 1, d) to layer `layer` and return everything it holds, (B, H, n, d)."""
        if layer in self._layers:
            past_k, past_v = self._layers[layer]
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        self._layers[layer] = (k, v)
        return k, v


class SlotCache:
    """The same in buffers of fixed size (L, B, H, P, d), written at a position that is an input of the graph."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor) -> None:
        self._past = (keys, values)
        slots = torch.arange(keys.shape[3])
        self._here = (slots == position)[:, None]  # (P, 1)
        self.visible: Tensor | None = (slots <= position)[None]  # (1, P)
        self._present: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, 1, d) into its slot of layer `layer` and return the whole buffers, (B, H, P, d)."""
        k, v = torch.where(self._here, k, self._past[0][layer]), torch.where(self._here, v, self._past[1][layer])
        self._present.append((k, v))
        return k, v

    def present(self) -> tuple[Tensor, Tensor]:
        """The buffers after the step, (L, B, H, P, d) each."""
        keys, values = zip(*self._present, strict=True)
        return torch.stack(keys), torch.stack(values)


class DecoderLayer(nn.Module):
    """Post-norm layer: causal self-attention, cross-attention to the encoder's tokens, feed-forward.

    Positions are added to queries and keys, never to values, as in DETR (Carion et al. 2020).
    """

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.self_q, self.self_k, self.self_v, self.self_out = (nn.Linear(dim, dim) for _ in range(4))
        self.cross_q, self.cross_k, self.cross_v, self.cross_out = (nn.Linear(dim, dim) for _ in range(4))
        self.fc1 = nn.Linear(dim, ffn)
        self.fc2 = nn.Linear(ffn, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def project_memory(self, memory: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention keys and values (B, H, M, d) of memory tokens (B, M, D) at positions (1, M, D)."""
        return split_heads(self.cross_k(memory + position), self.heads), split_heads(self.cross_v(memory), self.heads)

    def self_kv(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention keys and values (B, H, N, d) of sequence tokens (B, N, D)."""
        return split_heads(self.self_k(x + position), self.heads), split_heads(self.self_v(x), self.heads)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        k: Tensor,
        v: Tensor,
        visible: Tensor | None,
        cross_k: Tensor,
        cross_v: Tensor,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D); the sequence's keys and values are (B, H, P, d), the memory's (B, H, M, d)."""
        attended = attend(split_heads(self.self_q(x + position), self.heads), k, v, visible)
        x = self.norm1(x + self.dropout(self.self_out(merge_heads(attended))))
        attended = attend(split_heads(self.cross_q(x + position), self.heads), cross_k, cross_v)
        x = self.norm2(x + self.dropout(self.cross_out(merge_heads(attended))))
        return self.norm3(x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(x))))))


class Decoder(nn.Module):
    """Tokens in, logits over the vocabulary out. Vocabulary: `bins` coordinate values, END = bins, START = bins + 1."""

    def __init__(
        self,
        *,
        bins: int,
        memory_dim: int,
        memory_tokens: int,
        dim: int,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float,
        sequence: int = 5,
    ) -> None:
        super().__init__()
        self.bins, self.end, self.start = bins, bins, bins + 1
        self.sequence = sequence
        self.bottleneck = nn.Linear(memory_dim, dim)
        self.memory_position = nn.Parameter(sinusoid(memory_tokens, dim))
        self.embedding = nn.Embedding(bins + 2, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.zeros(1, sequence, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, bins + 2)])
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name.startswith(("layers", "bottleneck", "head")):
                nn.init.xavier_uniform_(parameter)

    def project_memory(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder tokens (B, M, D_enc) -> every layer's cross-attention keys and values, (L, B, H, M, d) each.

        They do not depend on what is decoded, so one projection serves all steps.
        """
        memory = self.bottleneck(tokens)
        keys, values = zip(*(layer.project_memory(memory, self.memory_position) for layer in self.layers), strict=True)
        return torch.stack(keys), torch.stack(values)

    def _vocabulary_logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for linear in self.head[:-1]:
            x = F.relu(linear(x))
        return self.head[-1](x)

    def forward(self, sequence: Tensor, cross_keys: Tensor, cross_values: Tensor) -> Tensor:
        """Teacher-forced logits (B, N, V) of token ids (B, N); a position sees itself and those before."""
        count = sequence.shape[1]
        position = self.position[:, :count]
        causal = torch.ones(count, count, dtype=torch.bool, device=sequence.device).tril()
        x = self.dropout(self.embedding_norm(self.embedding(sequence)))  # (B, N, D)
        for layer, cross_k, cross_v in zip(self.layers, cross_keys, cross_values, strict=True):
            k, v = layer.self_kv(x, position)
            x = layer(x, position, k, v, causal, cross_k, cross_v)
        return self._vocabulary_logits(x)

    def step(
        self, token: Tensor, position: Tensor, cache: GrowingCache | SlotCache, cross_keys: Tensor, cross_values: Tensor
    ) -> Tensor:
        """Logits (B, V) after one more token (B,) at `position` (1,), with the earlier ones taken from `cache`."""
        here = self.position[:, position]  # (1, 1, D)
        x = self.dropout(self.embedding_norm(self.embedding(token)))[:, None]  # (B, 1, D)
        for index, layer in enumerate(self.layers):
            k, v = cache.extend(index, *layer.self_kv(x, here))
            x = layer(x, here, k, v, cache.visible, cross_keys[index], cross_values[index])
        return self._vocabulary_logits(x)[:, 0]

    def generate(
        self, cross_keys: Tensor, cross_values: Tensor, window: Tensor | None = None, order: str = "xywh"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy decoding in four cached steps.

        The probabilities of the two centre tokens are multiplied by `window` (bins,) before the choice (Sec. 3.3), so a
        likelihood is the windowed one, as in the official code.

        Returns:
            tokens (B, 4) int64, likelihoods (B, 4), presence (B,) = 1 - P(END) at the first step.
        """
        centre = CENTRE_POSITIONS[order]
        batch = cross_keys.shape[1]
        token = torch.full((batch,), self.start, dtype=torch.long, device=cross_keys.device)
        cache = GrowingCache()
        tokens, likelihoods, presence = [], [], None
        for index in range(4):
            position = torch.tensor([index], device=cross_keys.device)
            probability = self.step(token, position, cache, cross_keys, cross_values).float().softmax(-1)  # (B, V)
            if presence is None:
                presence = 1 - probability[:, self.end]
            probability = probability[:, : self.bins]
            if window is not None and index in centre:
                probability = probability * window
            likelihood, token = probability.max(-1)
            tokens.append(token)
            likelihoods.append(likelihood)
        assert presence is not None
        return torch.stack(tokens, 1), torch.stack(likelihoods, 1), presence


CENTRE_POSITIONS = {"xywh": (0, 1), "whxy": (2, 3)}
"""Which of the four tokens are the box's centre, by token order."""


def sinusoid(positions: int, dim: int) -> Tensor:
    """The 1-D sinusoidal table (1, positions, dim) of Vaswani et al. 2017, Sec. 3.5."""
    position = torch.arange(positions, dtype=torch.float64)[:, None]
    index = torch.arange(dim)
    angle = position / torch.pow(torch.tensor(10000.0, dtype=torch.float64), 2 * (index // 2) / dim)
    table = torch.where(index % 2 == 0, angle.sin(), angle.cos())
    return table.float()[None]
