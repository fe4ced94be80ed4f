"""Attention: every position looks at every other, or at the words of a text."""

import torch
from torch import Tensor, nn

from fromnoise.nn.fast.attention import fused_attention
from fromnoise.nn.layers import GroupNorm, zeroed

# Up to so many scores a head, a CPU computes attention as two matrix products: 16x16 positions, the most that a preset
# trains at. There the fused kernel's bf16 backward pass is slow, and its bits are others. Above, it takes 0.3 to 0.8
# of the time (EPYC, AVX2, fp32), and does not store the scores: 1 GiB at 64x64 positions, 8 heads and guidance.
# Where nothing is learned, `nn/fast/attention.py` is faster still.
FEW_SCORES = 256 * 256


def attention(query: Tensor, key: Tensor, value: Tensor, *, upcast: bool = False) -> Tensor:
    """``softmax(Q K^T / sqrt(head_dim)) V``: each query's average of the values, weighted by likeness. Eq. attention.

    Few scores on a CPU are computed as two matrix products. There the scale is shared between query and key, which
    keeps bf16 scores in range and keeps ``torch.compile`` from swapping the fused kernel back in.

    Shapes: query and result ``(..., N, head_dim)``; key and value ``(..., M, head_dim)``.

    Args:
        upcast: scores in float32, whatever the dtype of query and key, as PyTorch's fused kernel has them.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1.
    """
    if upcast or query.device.type != "cpu" or query.shape[-2] * key.shape[-2] > FEW_SCORES:
        return fused_attention(query, key, value)  # (..., N, head_dim)
    scale = query.shape[-1] ** -0.25
    scores = (query * scale) @ (key * scale).transpose(-2, -1)  # (..., N, M)
    return torch.softmax(scores, dim=-1) @ value  # (..., N, head_dim)


class AttentionBlock(nn.Module):
    """``x + attention(normalise(x))`` over all H*W positions of a feature map ``(B, C, H, W)``.

    ``C`` must be a multiple of ``head_dim``; there are ``C / head_dim`` heads. A context is not looked at: it is there
    so that a U-Net calls this block as it calls a `SpatialTransformer`.
    """

    def __init__(self, channels: int, *, head_dim: int, groups: int, eps: float):
        super().__init__()
        self.head_dim = head_dim
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        q, k, v = (self._heads(project(tokens)) for project in (self.to_q, self.to_k, self.to_v))  # as _heads
        merged = attention(q, k, v).transpose(1, 2).flatten(2)  # (B, H*W, C)
        out = self.to_out[0](merged).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
        return x + out

    def _heads(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, heads, N, head_dim)``."""
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, N, head_dim)


class CrossAttention(nn.Module):
    """Tokens look at a context: the queries are made of the tokens, keys and values of the context. Eq. cross-attn.

    With one token in the context, every result is that token's value. A self-attention has the tokens themselves as
    their context.

    Shapes: tokens ``(B, N, channels)`` to the same, context ``(B, M, context_dim)``.
    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.3.
    """

    def __init__(self, channels: int, context_dim: int, *, heads: int, upcast: bool = False):
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        projected = self.to_q(tokens), self.to_k(context), self.to_v(context)  # (B, N, C), (B, M, C), (B, M, C)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)  # (B, heads, N or M, head_dim)
        merged = attention(q, k, v, upcast=self.upcast).transpose(1, 2).flatten(2)  # (B, N, C)
        return self.to_out[0](merged)  # (B, N, C)
