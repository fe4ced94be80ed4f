"""Attention over many positions, for drawing on a CPU: in 0.3 to 0.9 of the time of PyTorch's fused kernel.

PyTorch's multiplies small matrices by a library that is slow on them: 40 numbers a head, as Stable Diffusion has.
`attention.cpp` multiplies them itself, and takes a few queries at a time, so that no matrix of all scores is stored.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.nn.fast.kernels import DOT_PRODUCTS, MATRICES, TYPES, call, library

SOURCE = Path(__file__).with_suffix(".cpp")


def formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What `fused_attention` must equal, by PyTorch's fused kernel.

    Shapes: query and result ``(B, heads, N, head_dim)``; key and value ``(B, heads, M, head_dim)``.
    """
    return F.scaled_dot_product_attention(query, key, value)  # (B, heads, N, head_dim)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula; by the kernel, where there is one for this processor and dtype, and no gradient is asked for."""
    ours = (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and query.dtype in TYPES
        and (query.dtype != torch.bfloat16 or (DOT_PRODUCTS and not MATRICES))
        and query.ndim == 4
        and query.shape[-1] % 2 == 0
    )
    kernel = getattr(library(SOURCE), f"attention_{TYPES[query.dtype]}", None) if ours else None
    if kernel is None:
        return formula(query, key, value)  # (B, heads, N, head_dim)
    query, key, value = (x.transpose(1, 2).contiguous() for x in (query, key, value))  # (B, N or M, heads, head_dim)
    result = torch.empty_like(query)
    batch, queries, heads, size = query.shape
    call(kernel, query, key, value, result, batch, heads, queries, key.shape[1], size)
    return result.transpose(1, 2)  # (B, heads, N, head_dim)
