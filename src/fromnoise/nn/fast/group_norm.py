"""Group normalisation with an offset before it and SiLU after it, fast for channels-last features on a CPU.

PyTorch's CPU kernel is some thirty times slower on bf16 channels-last features than their size warrants, and was two
thirds of a training step. `group_norm.cpp` does all three in one pass, inside torch.compile too. Where it cannot be
built, or is not made for the dtype or the number of channels, the same steps run in torch.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.nn.fast.kernels import TYPES, call, library

SOURCE = Path(__file__).with_suffix(".cpp")
LANES = 16  # the kernel takes this number of channels side by side


def formula(
    x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> Tensor:
    """What `group_norm` must equal: add the offset, normalise each group of channels, apply SiLU.

    Shapes: x ``(B, C, H, W)`` to the same; offset ``(B, C)``; weight and bias ``(C,)``.
    """
    x = x if offset is None else x + offset[:, :, None, None]  # (B, C, H, W)
    x = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(x) if silu else x


def group_norm(
    x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> Tensor:
    """The formula, in one pass for the features that PyTorch's kernel is slow on."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if x.device.type != "cpu" or not channels_last:
        return formula(x, offset, weight, bias, groups, eps, silu)
    high = torch.promote_types(x.dtype, torch.float32)
    offset = None if offset is None else offset.to(high).contiguous()
    plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    # Called as an operation of torch's, it would first load a compiler, which takes as long as torch itself.
    function = _normalized if plain else _normalize
    return function(x, offset, weight.to(high), bias.to(high), groups, eps, silu)[0]


def _normalized(
    x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula; also the means and ``1 / std`` of the groups ``(B, G)``. All but x is float32, or float64 like x."""
    batch, channels, height, width = x.shape
    if kernel := _kernel("forward", x):
        y, mean, rstd = torch.empty_like(x), *(weight.new_empty(batch, groups) for _ in range(2))
        sizes = (batch, height * width, channels, groups)
        call(kernel, x, offset, weight, bias, y, mean, rstd, *sizes, eps, silu)
        return y, mean, rstd
    centred = x.to(weight.dtype) if offset is None else x + offset[:, :, None, None]
    mean = _group_mean(centred.mean((2, 3)), groups)
    centred = centred - _by_channel(mean, x)
    rstd = _group_mean(centred.square().mean((2, 3)), groups).add(eps).rsqrt()
    z = torch.addcmul(bias[:, None, None], centred, _by_channel(rstd, x) * weight[:, None, None])
    return (F.silu(z) if silu else z).to(x.dtype), mean, rstd


_normalize = torch.library.custom_op("fromnoise::group_norm", _normalized, mutates_args=())


@torch.library.custom_op("fromnoise::group_norm_backward", mutates_args=())
def _differentiate(
    grad: Tensor, x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, and of offset, weight and bias for each sample, ``(B, C)``."""
    batch, channels, height, width = x.shape
    groups, pixels = mean.shape[1], height * width
    grad = grad.contiguous(memory_format=torch.channels_last)
    if kernel := _kernel("backward", x):
        dx, d_offset, d_weight, d_bias = torch.empty_like(x), *(mean.new_empty(batch, channels) for _ in range(3))
        arguments = (grad, x, offset, weight, bias, mean, rstd, dx, d_offset, d_weight, d_bias)
        call(kernel, *arguments, batch, pixels, channels, groups, silu)
        return dx, d_offset, d_weight, d_bias
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
    mean_g, mean_gn = (_by_channel(_group_mean(d * weight, groups) / pixels, x) for d in (d_bias, d_weight))
    dx = std * (g * scale - mean_g - n * mean_gn)
    return dx.to(x.dtype), dx.sum((2, 3)), d_weight, d_bias


@_normalize.register_fake
def _(x, offset, weight, bias, groups, eps, silu):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), *(weight.new_empty(len(x), groups) for _ in range(2))


@_differentiate.register_fake
def _(grad, x, offset, weight, bias, mean, rstd, silu):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), *(mean.new_empty(x.shape[:2]) for _ in range(3))


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:4], *output[1:])
    ctx.silu = inputs[-1]


def _backward(ctx, grad, _mean, _rstd):  # type: ignore[no-untyped-def]
    dx, d_offset, d_weight, d_bias = _differentiate(grad, *ctx.saved_tensors, ctx.silu)
    d_offset = d_offset if ctx.needs_input_grad[1] else None
    return dx, d_offset, d_weight.sum(0), d_bias.sum(0), None, None, None


_normalize.register_autograd(_backward, setup_context=_save)


def _kernel(direction: str, x: Tensor) -> Any:
    """The compiled function, where there is one for such features."""
    built = library(SOURCE) if x.dtype in TYPES and x.shape[1] % LANES == 0 else None
    return built and built[f"{direction}_{TYPES[x.dtype]}"]


def _group_mean(per_channel: Tensor, groups: int) -> Tensor:
    """The mean over the channels of each group, ``(B, C)`` to ``(B, G)``."""
    return per_channel.unflatten(1, (groups, -1)).mean(-1)


def _by_channel(per_group: Tensor, x: Tensor) -> Tensor:
    """``(B, G)`` as ``(B, C, 1, 1)``, to multiply x."""
    return per_group.repeat_interleave(x.shape[1] // per_group.shape[1], dim=1)[:, :, None, None]
