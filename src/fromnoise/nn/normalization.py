"""Group normalisation, written so that it is fast where this project trains: channels-last, on a CPU."""

import ctypes
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.kernels import call, library

SOURCE = Path(__file__).with_name("group_norm.cpp")
LANES = 16  # as many channels the kernel takes side by side
TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}  # that it is there for


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` with the same parameters and result, optionally with an offset before it and SiLU after it.

    PyTorch's CPU kernel is some thirty times slower on bf16 channels-last features than their size warrants, and was
    two thirds of a training step. There `group_norm.cpp` does all three in one go, compiled or not. Everywhere else
    the library's own operations run.

    Shapes: ``(B, C, H, W)`` to the same; offset ``(B, C)``. Source: Wu and He 2018 (arXiv 1803.08494).
    """

    def forward(self, input: Tensor, offset: Tensor | None = None, silu: bool = False) -> Tensor:
        slow_kernel = (
            input.device.type == "cpu"
            and self.affine
            and not input.is_contiguous()
            and input.is_contiguous(memory_format=torch.channels_last)
        )
        if slow_kernel:
            return _normalize(input, offset, self.weight, self.bias, self.num_groups, self.eps, silu)[0]
        x = input if offset is None else input + offset[:, :, None, None]
        x = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(x) if silu else x


@torch.library.custom_op("fromnoise::group_norm", mutates_args=())
def _normalize(
    x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``silu((x + offset - mean) / std * weight + bias)``, and the means and ``1 / std`` of the groups ``(B, G)``."""
    high = torch.promote_types(x.dtype, torch.float32)
    weight, bias, offset = weight.to(high), bias.to(high), _prepared(offset, high)
    kernel = _kernel(x)
    if kernel is not None:
        batch, channels, height, width = x.shape
        y, mean, rstd = torch.empty_like(x), *(x.new_empty(batch, groups, dtype=high) for _ in range(2))
        sizes = (batch, height * width, channels, groups)
        run = kernel[f"forward_{TYPES[x.dtype]}"]
        call(run, x, offset, weight, bias, y, mean, rstd, *sizes, ctypes.c_float(eps), silu)
        return y, mean, rstd
    centred = x.to(high) if offset is None else x + offset[:, :, None, None]
    mean = _by_group(centred.mean((2, 3)), groups).mean(-1)
    centred = centred - _by_channel(mean, x)
    rstd = _by_group(centred.square().mean((2, 3)), groups).mean(-1).add(eps).rsqrt()
    z = torch.addcmul(bias[:, None, None], centred, _by_channel(rstd, x) * weight[:, None, None])
    return (F.silu(z) if silu else z).to(x.dtype), mean, rstd


@torch.library.custom_op("fromnoise::group_norm_backward", mutates_args=())
def _differentiate(
    grad: Tensor,
    x: Tensor,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, and of offset, weight and bias for each sample, ``(B, C)``."""
    batch, channels, height, width = x.shape
    groups, pixels = mean.shape[1], height * width
    grad = grad.contiguous(memory_format=torch.channels_last)
    weight, bias, offset = weight.to(mean.dtype), bias.to(mean.dtype), _prepared(offset, mean.dtype)
    kernel = _kernel(x)
    if kernel is not None:
        dx, d_offset, d_weight, d_bias = torch.empty_like(x), *(mean.new_empty(batch, channels) for _ in range(3))
        results = (dx, d_offset, d_weight, d_bias)
        run = kernel[f"backward_{TYPES[x.dtype]}"]
        call(run, grad, x, offset, weight, bias, mean, rstd, *results, batch, pixels, channels, groups, silu)
        return results
    # With n = (x - mean) * rstd the normalised x, g the gradient before SiLU times weight, and averages over a group:
    # dx = rstd * (g - mean(g) - n * mean(g * n)).
    std, scale = _by_channel(rstd, x), weight[:, None, None]
    n = ((x if offset is None else x + offset[:, :, None, None]) - _by_channel(mean, x)) * std
    g = grad.to(mean.dtype)
    if silu:
        z = n * scale + bias[:, None, None]
        s = torch.sigmoid(z)
        g = g * (s + z * s * (1 - s))
    d_bias, d_weight = g.sum((2, 3)), (g * n).sum((2, 3))
    mean_g, mean_gn = (
        _by_channel(_by_group(values * weight, groups).mean(-1) / pixels, x) for values in (d_bias, d_weight)
    )
    dx = std * (g * scale - mean_g - n * mean_gn)
    return dx.to(x.dtype), dx.sum((2, 3)), d_weight, d_bias


@_normalize.register_fake
def _(x, offset, weight, bias, groups, eps, silu):  # type: ignore[no-untyped-def]
    statistics = x.new_empty(len(x), groups, dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


@_differentiate.register_fake
def _(grad, x, offset, weight, bias, mean, rstd, silu):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), *(mean.new_empty(x.shape[:2]) for _ in range(3))


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, offset, weight, bias, _, _, ctx.silu = inputs
    ctx.save_for_backward(x, offset, weight, bias, *output[1:])


def _backward(ctx, grad, _mean, _rstd):  # type: ignore[no-untyped-def]
    x, offset, weight, bias, _, _ = ctx.saved_tensors
    dx, d_offset, d_weight, d_bias = _differentiate(grad, *ctx.saved_tensors, ctx.silu)
    d_offset = None if offset is None else d_offset.to(offset.dtype)
    return dx, d_offset, d_weight.sum(0).to(weight.dtype), d_bias.sum(0).to(bias.dtype), None, None, None


_normalize.register_autograd(_backward, setup_context=_save)


def _prepared(offset: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if offset is None else offset.to(dtype).contiguous()


def _kernel(x: Tensor) -> ctypes.CDLL | None:
    """The compiled kernel, where there is one for such features."""
    return library(SOURCE) if x.dtype in TYPES and x.shape[1] % LANES == 0 else None


def _by_group(per_channel: Tensor, groups: int) -> Tensor:
    """``(B, C)`` as ``(B, G, C / G)``."""
    return per_channel.unflatten(1, (groups, -1))


def _by_channel(per_group: Tensor, x: Tensor) -> Tensor:
    """``(B, G)`` as ``(B, C, 1, 1)``, to multiply x."""
    return per_group.repeat_interleave(x.shape[1] // per_group.shape[1], dim=1)[:, :, None, None]
