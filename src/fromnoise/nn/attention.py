"""Attention: every position looks at every other."""

import torch
from torch import Tensor, nn

from fromnoise.nn.layers import GroupNorm, zeroed


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(head_dim)) V``: each query's average of the values, weighted by likeness. Eq. attention.

    Written as two matrix products: on a CPU, PyTorch's fused kernel is slower for heads this small, and its bf16
    backward pass much slower. The scale is shared between query and key, which keeps bf16 scores in range and keeps
    ``torch.compile`` from swapping the fused kernel back in.

    Shapes: query and result ``(..., N, head_dim)``; key and value ``(..., M, head_dim)``.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1.
    """
    scale = query.shape[-1] ** -0.25
    scores = (query * scale) @ (key * scale).transpose(-2, -1)  # (..., N, M)
    return torch.softmax(scores, dim=-1) @ value  # (..., N, head_dim)


class AttentionBlock(nn.Module):
    """``x + attention(normalise(x))`` over all H*W positions of a feature map ``(B, C, H, W)``.

    ``C`` must be a multiple of ``head_dim``; there are ``C / head_dim`` heads.
    """

    def __init__(self, channels: int, *, head_dim: int, groups: int, eps: float):
        super().__init__()
        self.head_dim = head_dim
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        q, k, v = (self._heads(project(tokens)) for project in (self.to_q, self.to_k, self.to_v))  # as _heads
        merged = attention(q, k, v).transpose(1, 2).flatten(2)  # (B, H*W, C)
        out = self.to_out[0](merged).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
        return x + out

    def _heads(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, heads, N, head_dim)``."""
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, N, head_dim)
