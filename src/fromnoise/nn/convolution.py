"""Convolutions whose weights' gradient is fast where this project trains: bf16, channels-last, on a CPU."""

import ctypes
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.kernels import call, library

SOURCE = Path(__file__).with_name("convolution.cpp")
WIDE, NARROW = 32, 8  # channels of the two sides come in multiples of these, the kernel's blocks
DOT_PRODUCTS = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
MATRICES = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # with these, PyTorch's own gradient is the faster one


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with square weights: the same parameters, result and gradients. See `convolve`."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(input, self.weight, self.bias, stride=self.stride[0], padding=int(self.padding[0]))


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, transposed: bool = False
) -> Tensor:
    """``F.conv2d``, or ``F.conv_transpose2d`` where transposed.

    For bf16 and processors with AVX-512 but without AMX, PyTorch finds the gradient of the weights by an older kernel
    than the rest, and that of a transposed convolution at half the speed. There `convolution.cpp` does it instead.
    Everywhere else this is the library's own operation.

    Shapes: x ``(B, C, H, W)``, weight ``(D, C, K, K)`` or, transposed, ``(C, D, K, K)``; bias ``(D,)``.
    """
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
    operation = _Convolution.apply if ours else _library
    result: Tensor = operation(x, weight, bias, stride, padding, transposed)
    return result


def _library(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, transposed: bool) -> Tensor:
    return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, stride=stride, padding=padding)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, transposed):  # type: ignore[no-untyped-def]
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.options, ctx.dtypes = (stride, padding, transposed), (weight.dtype, bias.dtype)
        return _library(x, low, bias.to(x.dtype), stride, padding, transposed)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_x = _library_backward(grad, x, weight, *ctx.options)[0] if ctx.needs_input_grad[0] else None
        d_weight = weight_gradient(grad, x, weight, *ctx.options).to(ctx.dtypes[0])
        return d_x, d_weight, grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.dtypes[1]), None, None, None


@torch.library.custom_op("fromnoise::weight_gradient", mutates_args=())
def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
    """The gradient of the weights of a convolution of x, float32 in the weights' shape.

    Args:
        grad: that of the result, bf16 like x and channels-last like it.
        weight: is asked for its shape alone.
    """
    kernel = _kernel()
    if kernel is None:
        return _library_backward(grad, x, weight, stride, padding, transposed, of_x=False)[1].float()
    wide, narrow = (grad, x) if transposed else (x, grad)
    result = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
    sizes = (len(x), *wide.shape[2:], wide.shape[1], *narrow.shape[2:], narrow.shape[1])
    call(kernel["weight_gradient"], wide, narrow, result, *sizes, weight.shape[-1], stride, padding)
    return result


@weight_gradient.register_fake
def _(grad, x, weight, stride, padding, transposed):  # type: ignore[no-untyped-def]
    return torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)


def _library_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, *, of_x: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's own gradients, of x alone or of the weights alone."""
    sizes, wanted = ([stride] * 2, [padding] * 2, [1] * 2), [of_x, not of_x, False]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *sizes, transposed, [0, 0], 1, wanted
    )
    return gradients


def _kernel() -> ctypes.CDLL | None:
    """The compiled kernel, if there is a compiler and it knows the instruction."""
    kernel = library(SOURCE)
    return kernel if hasattr(kernel, "weight_gradient") else None
