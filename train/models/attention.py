"""Multi-head scaled dot-product attention (Vaswani et al. 2017, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What may compute attention on a GPU. Not cuDNN: with a mask over a number of keys that is 64 more than a multiple of
128, such as vtt-nano's 448, the gradients that it gives torch 2.11 in bfloat16 on an H100 are not numbers."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    batch, tokens, dim = x.shape
    return x.view(batch, tokens, heads, dim // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    Args:
        q: (B, H, N, d).
        k, v: (B, H, M, d).
        visible: bool, broadcastable to (B, H, N, M); False hides a key. None shows all.

    Returns:
        (B, H, N, d).
    """
    if q.is_cuda:
        with sdpa_kernel(FUSED):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    # Written out on the CPU: the fused kernel's backward takes twice as long as all the rest at these lengths, and
    # in an exported graph the two matrix products must stand free, so that they can be quantised.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if visible is not None:
        scores = hide(scores, visible)
    return scores.softmax(-1) @ v


def hide(scores: Tensor, visible: Tensor) -> Tensor:
    """Scores (B, H, N, M), those of keys that are not visible minus infinity; `visible` as in `attend`.

    A sum, which ONNX Runtime computes faster than a choice between two tensors: 4% of vtt-nano's search.
    """
    return scores + torch.where(visible, 0.0, float("-inf")).to(scores.dtype)


class Attend(nn.Module):
    """`attend` as a module without parameters: a place where quantisation can put one that rounds the operands."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, H, N, d), (B, H, M, d) twice, `visible` as in `attend` -> (B, H, N, d)."""
        return attend(q, k, v, visible)
