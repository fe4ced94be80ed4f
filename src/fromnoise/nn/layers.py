"""The parts of a U-Net other than attention: time embedding, residual block, down- and upsampling.

Attribute names are those of diffusers, so that weights load in both directions without renaming. What has to be fast is
in `fromnoise.nn.fast`, beside the plain formula that it must equal.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.fast.convolution import convolve
from fromnoise.nn.fast.group_norm import group_norm
from fromnoise.nn.fast.upsampling import upsample

Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """A layer whose weights start at zero: the last one of every residual branch, so that each block starts as ``x``.

    Source: Ho et al. 2020 and Dhariwal and Nichol 2021 (arXiv 2105.05233), their released code.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Embedding(nn.Embedding):
    """A table of vectors, which start small: with a standard deviation of 0.02.

    On the meta device nothing is drawn. Drawing from a normal distribution there would load a compiler, in two seconds.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()
            nn.init.normal_(self.weight, std=0.02)


def timestep_embedding(
    timestep: Tensor, dim: int, *, flip_sin_to_cos: bool = False, freq_shift: float = 0, max_period: float = 10_000
) -> Tensor:
    """A timestep as a vector of sines and cosines of falling frequency. Eq. sinusoid.

    Frequencies are ``max_period ** (-i / (dim/2 - freq_shift))`` for i = 0 .. dim/2 - 1, a geometric
    series. The dot product of two embeddings depends only on the difference of their times.

    Args:
        timestep: ``(B,)``, the index 0..T-1 (fractions allowed), any real dtype.
        dim: length of the vector; an odd one ends in a zero.
        flip_sin_to_cos: cosines first (Stable Diffusion) instead of sines first (DDPM).
        freq_shift: 1 makes the last frequency exactly ``1 / max_period`` (DDPM); 0 stops just short.

    Returns:
        ``(B, dim)``, float32 (float64 for float64 timesteps), entries in [-1, 1].

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, as used by Ho et al. 2020 (arXiv 2006.11239).
    """
    dtype = torch.float64 if timestep.dtype == torch.float64 else torch.float32
    half = dim // 2
    exponent = torch.arange(half, dtype=dtype, device=timestep.device) / (half - freq_shift)
    frequency = torch.exp(-math.log(max_period) * exponent)
    angle = timestep.to(dtype)[:, None] * frequency  # (B, dim/2)
    waves = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    return F.pad(torch.cat(waves, dim=1), (0, dim % 2))  # (B, dim)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with square weights: the same parameters, result and gradients."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(input, self.weight, self.bias, self.stride[0], int(self.padding[0]))  # (B, D, H', W')


class GroupNorm(nn.GroupNorm):
    """``silu((x + offset - mean) / sqrt(variance + eps) * weight + bias)``; offset and SiLU only where asked for.

    Mean and variance are those of one image and one group of channels, over all pixels. Without offset and SiLU this is
    ``nn.GroupNorm``. Shapes: ``(B, C, H, W)`` to the same; offset ``(B, C)``; weight and bias ``(C,)``.

    Source: Wu and He 2018 (arXiv 1803.08494).
    """

    def forward(self, input: Tensor, offset: Tensor | None = None, silu: bool = False) -> Tensor:
        return group_norm(input, offset, self.weight, self.bias, self.num_groups, self.eps, silu)


class TimestepEmbedding(nn.Module):
    """Two linear layers that turn the sinusoids ``(B, in_dim)`` into the vector ``(B, dim)`` every block sees."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, sinusoids: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoids)))  # (B, dim)


class ResidualBlock(nn.Module):
    """``x + f(x, time)``: two times normalise, SiLU, 3x3 convolution, with the time added between them.

    Shapes: ``(B, in_channels, H, W)`` and ``(B, time_dim)`` to ``(B, out_channels, H, W)``.

    With ``scale_shift`` the time scales and shifts the second normalisation instead of being added. A block whose
    ``time_dim`` is None is called without a time, as in the autoencoder.
    Source: Ho et al. 2020, appendix B; scale and shift from Nichol and Dhariwal 2021 (arXiv 2102.09672).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int | None = None,
        *,
        groups: int,
        eps: float,
        scale_shift: bool = False,
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        if time_dim is not None:
            self.time_emb_proj = nn.Linear(time_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = zeroed(Conv2d(out_channels, out_channels, 3, padding=1))
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(self.norm1(x, silu=True))  # (B, C, H, W), C for out_channels
        if time is not None:
            time = self.time_emb_proj(F.silu(time))  # (B, C), or (B, 2C) with scale_shift
        if self.scale_shift and time is not None:
            scale, shift = time[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
            h = F.silu(self.norm2(h) * (1 + scale) + shift)
        else:
            h = self.norm2(h, offset=time, silu=True)
        h = self.conv2(h)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halves height and width with a strided convolution, ``(B, C, H, W)`` to ``(B, C, H/2, W/2)``.

    ``padding=0`` pads one row below and one column to the right first, as the DDPM release does.
    """

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.pad_after = padding == 0
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1)) if self.pad_after else x  # (B, C, H, W) or (B, C, H+1, W+1)
        return self.conv(x)  # (B, C, H/2, W/2)


class Upsample(nn.Module):
    """Doubles the size, ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``: each pixel becomes a 2x2 square, then a convolution.

    A ``size`` that is odd loses the last row or column of the squares.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        if height % 2 == 0 and width % 2 == 0:
            return upsample(x, self.conv.weight, self.conv.bias)  # (B, C, 2H, 2W)
        squares = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # (B, C, 2H, 2W)
        return self.conv(squares[:, :, :height, :width])  # (B, C, height, width)
