"""The spatial transformer: a feature map read as tokens, which look at each other and at the words of a text.

Attribute names are those of diffusers.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.attention import CrossAttention
from fromnoise.nn.layers import GroupNorm, zeroed


class GEGLU(nn.Module):
    """``(x W) * gelu(x V)``: half of what a linear layer says gates the other half. Eq. geglu.

    Shapes: ``(..., channels)`` to ``(..., width)``.
    Source: Shazeer 2020 (arXiv 2002.05202), equation 6, with biases.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)  # (..., width) each
        return value * F.gelu(gate)  # (..., width)


class FeedForward(nn.Module):
    """What each token makes of itself: GEGLU to four times the channels, and a linear layer back."""

    def __init__(self, channels: int):
        super().__init__()
        middle = nn.Identity()  # the place of diffusers' dropout
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), middle, nn.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)  # (B, N, C)


class TransformerBlock(nn.Module):
    """Tokens look at each other, then at the context, then each at itself; every time normalised first, then added.

    Shapes: tokens ``(B, N, channels)`` to the same, context ``(B, M, context_dim)``.
    """

    def __init__(self, channels: int, context_dim: int, *, heads: int, upcast: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = CrossAttention(channels, channels, heads=heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads=heads, upcast=upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        normal = self.norm1(tokens)  # (B, N, C), as all that follows
        tokens = tokens + self.attn1(normal, normal)
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        return tokens + self.ff(self.norm3(tokens))


class PixelLinear(nn.Conv2d):
    """A linear layer whose weights are stored as a 1x1 convolution's, ``(D, C, 1, 1)``; tokens ``(B, N, C)`` in."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.flatten(1), self.bias)  # (B, N, D)


class SpatialTransformer(nn.Module):
    """``x + transformer(normalise(x))`` over all H*W positions of a feature map ``(B, C, H, W)``.

    Args:
        linear_projection: how the layers at both ends are stored: as linear ones (Stable Diffusion 2) or as 1x1
            convolutions (1). They compute the same.

    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.3 and their released code.
    """

    def __init__(
        self, channels: int, context_dim: int, *, heads: int, groups: int, linear_projection: bool, upcast: bool
    ):
        super().__init__()
        projection = nn.Linear if linear_projection else PixelLinear
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_dim, heads=heads, upcast=upcast)])
        self.proj_out = zeroed(projection(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        tokens = self.proj_in(tokens)  # (B, H*W, C)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)  # (B, H*W, C)
        tokens = self.proj_out(tokens)  # (B, H*W, C)
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
