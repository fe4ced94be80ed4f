"""The one reader of weights: safetensors files, of which nothing is believed that has not been looked at."""

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.files import open_file

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""in which weights come"""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. They lie in the file itself until they are changed.

    Raises:
        UserError: it is no file or damaged, a tensor is not of a floating-point type, or a number in it is NaN,
            infinite, or so in float32.
    """
    with open_file(path):
        try:
            tensors = safetensors.torch.load_file(path)
        except (SafetensorError, OSError, RuntimeError) as problem:
            raise UserError(f"{path} is not a complete safetensors file: {problem}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} is of type {kind}, which weights cannot be")
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).float().isfinite().all():  # no copy is made
            raise UserError(f"{path}: {name} has numbers that are not finite: the weights are damaged or diverged")
    return tensors
