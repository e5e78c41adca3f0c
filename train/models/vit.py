"""SeqTrack's encoder: a plain ViT over search and template tokens (Chen et al., CVPR 2023, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from train.models.attention import Attend, merge_heads, split_heads
from train.models.backbones import BACKBONES, build_backbone, check_backbone

TEMPLATE_ATTENTION = ("joint", "isolated", "separate")


class PatchStem(nn.Module):
    """Non-overlapping `patch` x `patch` linear projection (Dosovitskiy et al. 2021)."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, N, D)


class ConvStem(nn.Module):
    """Four 3x3 convolutions of stride 2, for models too small to learn locality from data (Xiao et al. 2021).

    Without normalisation: at four layers it trains as well, and there is nothing to fold before quantisation.
    """

    def __init__(self, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels = [3, *widths, dim]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        return self.convs[-1](x).flatten(2).transpose(1, 2)  # (B, N, D)


class BackboneStem(nn.Module):
    """A convolutional network, whose features may come from elsewhere, and a projection of each cell."""

    def __init__(self, dim: int, name: str) -> None:
        super().__init__()
        self.features = build_backbone(name)
        self.proj = nn.Conv2d(BACKBONES[name].channels, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.features(images)).flatten(2).transpose(1, 2)  # (B, N, D)


class Attention(nn.Module):
    """Self-attention whose keys and values can be extended by those of another, cached set of tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attend = Attend()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cached: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, H, N, d)
        if cached is None:
            return self.proj(merge_heads(self.attend(q, k, v))), k, v
        all_k, all_v = torch.cat([k, cached[0]], 2), torch.cat([v, cached[1]], 2)  # (B, H, N + M, d)
        return self.proj(merge_heads(self.attend(q, all_k, all_v))), k, v


class Block(nn.Module):
    """Pre-norm transformer block. Returns its tokens and the keys and values they were projected to."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.fc2 = nn.Linear(int(dim * mlp_ratio), dim)

    def forward(self, x: Tensor, cached: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        attended, k, v = self.attn(self.norm1(x), cached)
        x = x + attended
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x, k, v


class TemplateState(NamedTuple):
    """What the encoder needs of the templates, computed at init and at template updates alone.

    Joint attention: `tokens` are the embedded patches (B, T * Nt, D) and there is nothing to cache.
    Isolated attention: `keys` and `values` (L, B, H, T * Nt, d) hold every layer's projections; `tokens` are the
    encoder's output for the templates. Separate attention: the latter alone.
    """

    tokens: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None


class ViT(nn.Module):
    """The encoder. `template_attention`:

    "joint"     every token attends to every token, as in the paper.
    "isolated"  template tokens attend to templates alone, search tokens to all. What the templates contribute to each
                layer then does not depend on the frame, and is computed once.
    "separate"  neither attends to the other: two runs of one encoder, whose outputs meet in the decoder (the paper's
                ablation).

    `template_slots`: how many templates are told apart by an embedding of each slot; 0 for none, as in the paper.
    """

    def __init__(
        self,
        *,
        search_size: int,
        template_size: int,
        patch: int,
        stem_widths: Sequence[int],
        backbone: str,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        template_attention: str,
        template_slots: int = 0,
    ) -> None:
        super().__init__()
        if template_attention not in TEMPLATE_ATTENTION:
            raise ValueError(
                f"template_attention is {template_attention!r}; expected one of {', '.join(TEMPLATE_ATTENTION)}"
            )
        if stem_widths and patch != 2 ** (len(stem_widths) + 1):
            raise ValueError(
                f"stem_widths {stem_widths} make a patch of {2 ** (len(stem_widths) + 1)}, but patch is {patch}"
            )
        if backbone:
            if stem_widths:
                raise ValueError(f"got a backbone, {backbone!r}, and stem_widths {stem_widths}; expected one of them")
            check_backbone(backbone)
            if patch != BACKBONES[backbone].stride:
                raise ValueError(f"{backbone} has stride {BACKBONES[backbone].stride}, but patch is {patch}")
        for name, size in (("search_size", search_size), ("template_size", template_size)):
            if size % patch:
                raise ValueError(f"{name} is {size}; expected a multiple of the patch size {patch}")
        self.template_attention = template_attention
        self.search_tokens = (search_size // patch) ** 2
        self.template_tokens = (template_size // patch) ** 2
        self.stem: nn.Module
        if backbone:
            self.stem = BackboneStem(dim, backbone)
        else:
            self.stem = ConvStem(dim, stem_widths) if stem_widths else PatchStem(dim, patch)
        self.search_position = nn.Parameter(torch.zeros(1, self.search_tokens, dim))
        self.template_position = nn.Parameter(torch.zeros(1, self.template_tokens, dim))
        self.template_slot = nn.Parameter(torch.zeros(template_slots, 1, dim)) if template_slots else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.recompute = False
        """Set to keep no activations inside blocks and compute them again for the gradient: less memory, more time."""
        nn.init.trunc_normal_(self.search_position, std=0.02)
        nn.init.trunc_normal_(self.template_position, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _run(self, block: nn.Module, x: Tensor, *cached: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if self.recompute and self.training:
            return checkpoint(block, x, *cached, use_reentrant=False)
        return block(x, *cached)

    def embed_templates(self, templates: Tensor) -> Tensor:
        """(B, T, 3, St, St) -> (B, T * Nt, D), template by template; all templates share one position table."""
        batch, count = templates.shape[:2]
        tokens = self.stem(templates.flatten(0, 1)) + self.template_position
        if self.template_slot is not None:
            tokens = tokens.unflatten(0, (batch, count)) + self.template_slot
        return tokens.reshape(batch, count * self.template_tokens, -1)

    def template_state(self, templates: Tensor) -> TemplateState:
        """(B, T, 3, St, St) -> what `encode` needs of the templates."""
        x = self.embed_templates(templates)
        if self.template_attention == "joint":
            return TemplateState(x)
        keys, values = [], []
        for block in self.blocks:
            x, k, v = self._run(block, x)
            keys.append(k)
            values.append(v)
        if self.template_attention == "separate":
            return TemplateState(self.norm(x))
        return TemplateState(self.norm(x), torch.stack(keys), torch.stack(values))

    def forward(self, search: Tensor, state: TemplateState) -> Tensor:
        """(B, 3, S, S) and the templates' state -> tokens (B, Ns + T * Nt, D), ordered [search, templates]."""
        x = self.stem(search) + self.search_position
        if self.template_attention == "isolated":
            assert state.keys is not None
            assert state.values is not None
            for block, k, v in zip(self.blocks, state.keys, state.values, strict=True):
                x, _, _ = self._run(block, x, (k, v))
            return torch.cat([self.norm(x), state.tokens], 1)
        joint = self.template_attention == "joint"
        x = torch.cat([x, state.tokens], 1) if joint else x
        for block in self.blocks:
            x, _, _ = self._run(block, x)
        return self.norm(x) if joint else torch.cat([self.norm(x), state.tokens], 1)
