"""The one reader of weights: safetensors files, of which nothing is believed that has not been looked at."""

import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.files import open_file

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""in which weights come"""
BY_NAME = dict(zip(("F16", "BF16", "F32", "F64"), DTYPES, strict=True))
"""the same, by their names in a file"""


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. They lie in the file itself until they are changed.

    Each is mapped by itself, and its part of the file leaves the memory with it. Mapped as one, a file of which most
    tensors have been copied into another layout would be in memory twice.

    Args:
        wanted: which names; what else there is may be of any type, and is not looked at.

    Raises:
        UserError: it is no file, is damaged, or holds what cannot be weights, as `check_finite` says.
    """
    with _opened(path), safe_open(path, framework="pt") as checked, path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        kept = [name for name in checked.keys() if wanted(name)]  # noqa: SIM118, which is no dict
        mapped = {name: _mapped(file.fileno(), 8 + length, header[name]) for name in kept}
        tensors = {name: checked.get_tensor(name) if part is None else part for name, part in mapped.items()}
    check_finite(tensors, path)
    return tensors


def _mapped(descriptor: int, start: int, entry: dict[str, Any]) -> Tensor | None:
    """A tensor that lies in a file, given its entry in the header and where the numbers start; none if it cannot."""
    (begin, end), dtype = entry["data_offsets"], BY_NAME.get(entry["dtype"])
    if dtype is None:
        return None
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    within = (start + begin) % mmap.ALLOCATIONGRANULARITY
    page = start + begin - within
    memory = mmap.mmap(descriptor, within + end - begin, access=mmap.ACCESS_COPY, offset=page)
    return torch.frombuffer(memory, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=within).view(
        entry["shape"]
    )


def tensor_names(path: Path) -> list[str]:
    """The names in a safetensors file, of which no tensor is read.

    Raises:
        UserError: it is no file, or is damaged.
    """
    with _opened(path), safe_open(path, framework="pt") as file:
        return list(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Opens a file first in a way that never waits, and refuses in one line what is no safetensors file."""
    with open_file(path):
        try:
            yield
        except (SafetensorError, OSError, RuntimeError) as problem:
            raise UserError(f"{path} is not a complete safetensors file: {problem}") from None


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses what cannot be weights; ``path`` names the file in errors.

    Raises:
        UserError: a tensor is not of a floating-point type, or a number in it is NaN, infinite, or so in float32.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} is of type {kind}, which weights cannot be")
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).float().isfinite().all():  # no copy is made
            raise UserError(f"{path}: {name} has numbers that are not finite: the weights are damaged or diverged")
