"""A 3x3 convolution in less than half the multiplications, for drawing with wide networks in fp32 on a CPU.

The result is made in tiles of 2x2 or 4x4 positions, which take 4 or 2.25 multiplications a position instead of 9.
`winograd.cpp` has the formulas, and what is done before and after the matrix products, which are the library's.

Source: Lavin and Gray 2015 (arXiv 1509.09308), after Winograd 1980.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.nn.fast.kernels import call, library

SOURCE = Path(__file__).with_suffix(".cpp")
LANES = 8  # channels of both sides come in multiples of these
LARGE = 3e9  # multiplications of the formula, from which on it is used: Stable Diffusion's, and none of digits
ROOM = 2**24  # floats that the weights of a block of channels may take, and the features of a group of tiles


def formula(x: Tensor, weight: Tensor, bias: Tensor, scale: int = 1) -> Tensor:
    """What `winograd` must equal: each position becomes scale x scale positions, then comes a 3x3 convolution.

    Shapes: x ``(B, C, H, W)``, weight ``(D, C, 3, 3)``, bias ``(D,)``; to ``(B, D, scale H, scale W)``.
    """
    squares = x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)  # (B, C, scale H, scale W)
    return F.conv2d(squares, weight, bias, padding=1)  # (B, D, scale H, scale W)


def tile_for(x: Tensor, weight: Tensor, bias: Tensor | None, scale: int = 1) -> int:
    """The size of tiles, 2 or 4, that is the fastest for such features; 0 where the library's own convolution is.

    Large tiles save more multiplications, but make more weights of each: 4 times as many numbers instead of 1.8. That
    pays where there are enough positions to use them for.
    """
    positions = len(x) * scale**2 * x.shape[2] * x.shape[3]
    ours = (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and bias is not None
        and weight.shape[2:] == (3, 3)
        and weight.shape[0] % LANES == weight.shape[1] % LANES == 0
        and weight.numel() * positions >= LARGE
        and all(value.is_contiguous(memory_format=torch.channels_last) for value in (x, weight))
        and library(SOURCE) is not None
    )
    return 0 if not ours or positions < 512 else 2 if positions < 2048 else 4


def winograd(x: Tensor, weight: Tensor, bias: Tensor, tile: int, scale: int = 1) -> Tensor:
    """The formula, where `tile_for` gives a size of tiles; features and weights are channels-last.

    The weights are transformed in each call, one block of channels after the other: kept, they would take up to four
    times the memory of the model.
    """
    kernels, n = library(SOURCE), (tile + 2) ** 2
    assert kernels is not None
    transform, spread, collect = (kernels[f"{name}_{tile}"] for name in ("weights", "features", "tiles"))
    (batch, channels, *size), out = x.shape, len(weight)
    height, width = (scale * side for side in size)
    total = batch * -(-height // tile) * -(-width // tile)
    group, block = (min(most, max(1, ROOM // (n * channels * LANES)) * LANES) for most in (total, out))
    y = x.new_empty(batch, height, width, out)
    for d in range(0, out, block):
        rows = weight[d : d + block]  # (block, C, 3, 3)
        transformed = x.new_empty(n, len(rows), channels)
        call(transform, rows, transformed, len(rows), channels)
        for first in range(0, total, group):
            count = min(group, total - first)
            spread_out = x.new_empty(n, count, channels)
            call(spread, x, spread_out, first, count, height, width, channels, scale)
            products = spread_out @ transformed.transpose(1, 2)  # (n, count, block)
            call(collect, products, bias[d:], y[..., d:], first, count, height, width, len(rows), out)
    return y.permute(0, 3, 1, 2)  # (B, D, scale H, scale W), channels-last
