"""Convolution, fast for channels-last features on a CPU: in bf16 the gradient of the weights, in fp32 the value.

On processors with AVX-512 but without AMX, PyTorch finds that gradient by an older kernel than the rest, and the one of
a transposed convolution at half the speed. There `convolution.cpp` finds it.
Large 3x3 convolutions in fp32 that need no gradient are left to `winograd.py`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.nn.fast.kernels import DOT_PRODUCTS, MATRICES, call, library
from fromnoise.nn.fast.winograd import tile_for, winograd

SOURCE = Path(__file__).with_suffix(".cpp")
WIDE, NARROW = 32, 8  # channels of the two sides come in multiples of these, the kernel's blocks


def formula(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, transposed: bool = False
) -> Tensor:
    """What `convolve` must equal: ``F.conv2d``, or ``F.conv_transpose2d`` where transposed.

    Shapes: x ``(B, C, H, W)``, weight ``(D, C, K, K)`` or, transposed, ``(C, D, K, K)``; bias ``(D,)``.
    """
    return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, stride, padding)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, transposed: bool = False
) -> Tensor:
    """The formula; where a kernel is the faster one, its value or its gradient of the weights is the kernel's."""
    if (stride, padding, transposed) == (1, 1, False) and (tile := tile_for(x, weight, bias)) and bias is not None:
        return winograd(x, weight, bias, tile)
    ours = (
        DOT_PRODUCTS
        and not MATRICES
        and torch.is_grad_enabled()
        and weight.requires_grad
        and bias is not None
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.shape[1] % WIDE == 0
        and weight.shape[0] % NARROW == 0
    )
    result: Tensor = (_Convolution.apply if ours else formula)(x, weight, bias, stride, padding, transposed)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, transposed):  # type: ignore[no-untyped-def]
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.options, ctx.dtypes = (stride, padding, transposed), (weight.dtype, bias.dtype)
        return formula(x, low, bias.to(x.dtype), stride, padding, transposed)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        arguments = (grad.contiguous(memory_format=torch.channels_last), *ctx.saved_tensors, *ctx.options)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _library_gradient(0, *arguments) if of_x else None,
            weight_gradient(*arguments).to(ctx.dtypes[0]) if of_weight else None,
            arguments[0].sum((0, 2, 3), dtype=torch.float32).to(ctx.dtypes[1]) if of_bias else None,
            *[None] * 3,
        )


@torch.library.custom_op("fromnoise::weight_gradient", mutates_args=())
def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
    """The gradient of the weights of the formula, float32 in their shape. Only the shape of ``weight`` matters.

    Features x and the gradient ``grad`` of the result are bf16 and channels-last.
    """
    kernel = getattr(library(SOURCE), "weight_gradient", None)  # an older compiler may not know the instruction
    if kernel is None:
        return _library_gradient(1, grad, x, weight, stride, padding, transposed).float()
    wide, narrow = (grad, x) if transposed else (x, grad)
    result = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
    sizes = (len(x), *wide.shape[2:], wide.shape[1], *narrow.shape[2:], narrow.shape[1])
    call(kernel, wide, narrow, result, *sizes, weight.shape[-1], stride, padding)
    return result


@weight_gradient.register_fake
def _(grad, x, weight, stride, padding, transposed):  # type: ignore[no-untyped-def]
    return torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)


def _library_gradient(of: int, grad, x, weight, stride, padding, transposed):  # type: ignore[no-untyped-def]
    """PyTorch's own gradient of x (0) or of the weights (1)."""
    options = ([stride] * 2, [padding] * 2, [1] * 2, transposed, [0, 0], 1)
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *options, [of == 0, of == 1, False])[of]
