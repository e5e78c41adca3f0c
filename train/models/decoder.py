"""SeqTrack's decoder: box coordinates as a sequence of tokens (Chen et al., CVPR 2023, Sec. 3.1-3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetrack.decoding import CENTRE_STEPS
from train.models.attention import attend, merge_heads, split_heads


class Decoding(NamedTuple):
    """A batch of decoded boxes; `edgetrack.decoding.Decoded` is one of them.

    Attributes:
        tokens: (B, 4) int64.
        likelihoods: (B, 4), the windowed probability of each token.
        presence: (B,), 1 - P(END) at the first step.
        probabilities: (B, 4, bins), of all the tokens that each could have been; without the window.
    """

    tokens: Tensor
    likelihoods: Tensor
    presence: Tensor
    probabilities: Tensor


class GrowingCache:
    """Keys and values of the tokens decoded so far, appended to; for a loop whose length is fixed when it is traced."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def visible(self, count: int, device: torch.device) -> Tensor | None:
        """What `count` new tokens see: one alone all that there is, several, which must be the first, those before."""
        return None if count == 1 else causal(count, device)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, N, d) to layer `layer` and return everything it holds, (B, H, n, d)."""
        if layer in self._layers:
            past_k, past_v = self._layers[layer]
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        self._layers[layer] = (k, v)
        return k, v


class SlotCache:
    """The same in buffers of fixed size (L, B, H, P, d), written at a position that is an input of the graph."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor) -> None:
        self._past = (keys, values)
        slots = torch.arange(keys.shape[3], device=keys.device)
        self._here = (slots == position)[:, None]  # (P, 1)
        self._visible = (slots <= position)[None]  # (1, P)
        self._present: list[tuple[Tensor, Tensor]] = []

    def visible(self, count: int, device: torch.device) -> Tensor:
        """What the one new token sees."""
        assert count == 1
        return self._visible

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
    """Post-norm layer: self-attention, cross-attention to the encoder's tokens, feed-forward.

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
    """Tokens in, logits over the vocabulary out. Vocabulary: `bins` coordinate values, END = bins, START = bins + 1.

    `decoding`:

    "autoregressive"  [prompt, START, the coordinates so far]; a token sees itself and those before, and the next one is
                      what its logits are of.
    "bidirectional"   [prompt, START four times]; every token sees every one, and all four coordinates are answered at
                      once (the paper's ablation).

    `prompt` is the number of tokens of the prompt; Sec. 3 leaves room for one, and the paper's temporal one is the
    boxes of the last four frames.
    """

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
        decoding: str = "autoregressive",
        prompt: int = 0,
    ) -> None:
        super().__init__()
        self.bins, self.end, self.start = bins, bins, bins + 1
        self.autoregressive, self.prompt = decoding == "autoregressive", prompt
        self.sequence = prompt + (5 if self.autoregressive else 4)
        """Positions: the prompt, START and four coordinates; or the prompt and four STARTs."""
        self.bottleneck = nn.Linear(memory_dim, dim)
        self.memory_position = nn.Parameter(sinusoid(memory_tokens, dim))
        self.embedding = nn.Embedding(bins + 2, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.zeros(1, self.sequence, dim))
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

    def written(self, coordinates: Tensor, prompt: Tensor) -> Tensor:
        """The sequence to train on: (B, n) coordinates and the prompt (B, P) -> (B, N). Bidirectional decoding is not
        shown the coordinates."""
        starts = 1 if self.autoregressive else 4
        start = torch.full((len(coordinates), starts), self.start, dtype=torch.long, device=coordinates.device)
        return torch.cat([prompt, start, coordinates] if self.autoregressive else [prompt, start], 1)

    def forward(self, sequence: Tensor, cross_keys: Tensor, cross_values: Tensor) -> Tensor:
        """Teacher-forced logits (B, N, V) of token ids (B, N)."""
        count = sequence.shape[1]
        position = self.position[:, :count]
        visible = causal(count, sequence.device) if self.autoregressive else None
        x = self.dropout(self.embedding_norm(self.embedding(sequence)))  # (B, N, D)
        for layer, cross_k, cross_v in zip(self.layers, cross_keys, cross_values, strict=True):
            k, v = layer.self_kv(x, position)
            x = layer(x, position, k, v, visible, cross_k, cross_v)
        return self._vocabulary_logits(x)

    def step(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: GrowingCache | SlotCache,
        cross_keys: Tensor,
        cross_values: Tensor,
    ) -> Tensor:
        """Logits (B, V) after more tokens (B, N) at `positions` (N,), with the earlier ones taken from `cache`."""
        here = self.position[:, positions]  # (1, N, D)
        x = self.dropout(self.embedding_norm(self.embedding(tokens)))  # (B, N, D)
        visible = cache.visible(tokens.shape[1], tokens.device)
        for index, layer in enumerate(self.layers):
            k, v = cache.extend(index, *layer.self_kv(x, here))
            x = layer(x, here, k, v, visible, cross_keys[index], cross_values[index])
        return self._vocabulary_logits(x[:, -1:])[:, 0]

    def generate(
        self,
        cross_keys: Tensor,
        cross_values: Tensor,
        window: Tensor | None = None,
        order: str = "xywh",
        prompt: Tensor | None = None,
    ) -> Decoding:
        """Greedy decoding: four cached steps, or one for all where decoding is bidirectional.

        The probabilities of the two centre tokens are multiplied by `window` (bins,) before the choice (Sec. 3.3), so a
        likelihood is the windowed one, as in the official code. Corners are not penalised.

        Args:
            prompt: (B, P) token ids; may be left out where P is 0.
        """
        batch, device = cross_keys.shape[1], cross_keys.device
        if prompt is None:
            prompt = torch.empty(batch, 0, dtype=torch.long, device=device)
        sequence = self.written(torch.empty(batch, 0, dtype=torch.long, device=device), prompt)
        tokens, likelihoods, probabilities, presence = [], [], [], None
        if self.autoregressive:
            cache, given = GrowingCache(), torch.arange(self.prompt + 1, device=device)
            logits = self.step(sequence, given, cache, cross_keys, cross_values)
        else:
            together = self(sequence, cross_keys, cross_values)[:, self.prompt :]  # (B, 4, V)
        for index in range(4):
            if not self.autoregressive:
                logits = together[:, index]
            elif index:
                position = torch.tensor([self.prompt + index], device=device)
                logits = self.step(tokens[-1][:, None], position, cache, cross_keys, cross_values)
            probability = logits.float().softmax(-1)  # (B, V)
            if presence is None:
                presence = 1 - probability[:, self.end]
            probability = probability[:, : self.bins]
            probabilities.append(probability)
            if window is not None and index in CENTRE_STEPS[order]:
                probability = probability * window
            likelihood, token = probability.max(-1)
            tokens.append(token)
            likelihoods.append(likelihood)
        assert presence is not None
        return Decoding(torch.stack(tokens, 1), torch.stack(likelihoods, 1), presence, torch.stack(probabilities, 1))


def causal(count: int, device: torch.device) -> Tensor:
    """(count, count) bool: a token sees itself and those before."""
    return torch.ones(count, count, dtype=torch.bool, device=device).tril()


def sinusoid(positions: int, dim: int) -> Tensor:
    """The 1-D sinusoidal table (1, positions, dim) of Vaswani et al. 2017, Sec. 3.5."""
    position = torch.arange(positions, dtype=torch.float64)[:, None]
    index = torch.arange(dim)
    angle = position / torch.pow(torch.tensor(10000.0, dtype=torch.float64), 2 * (index // 2) / dim)
    table = torch.where(index % 2 == 0, angle.sin(), angle.cos())
    return table.float()[None]
