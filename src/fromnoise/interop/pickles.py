"""The ``.ckpt`` and ``.pt`` files of PyTorch, which are pickles: read without executing anything that is in them."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from fromnoise.errors import UserError
from fromnoise.files import open_file
from fromnoise.tensors import check_finite

INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""what Lightning leaves beside the weights: the class of a callback, and its best loss as a number of NumPy"""


class Inert:
    """Stands for all of these. It takes whatever it is given, keeps nothing, and does nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def unpickled(path: Path) -> dict[str, Any]:
    """What a checkpoint has by name: its ``state_dict`` where there is one. The tensors lie in the file where they can.

    Only PyTorch's own tensors and plain values are made (``weights_only``), and `Inert` for the names above.

    Raises:
        UserError: it is no file, is damaged, or asks for anything else.
    """
    with open_file(path), safe_globals([(Inert, name) for name in INERT]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as problem:  # what is wrong with a pickle is said by errors of many classes
            code = re.search(r"GLOBAL ([\w.]+)", str(problem))
            if code is not None:
                does = f"asks for {code[1]}, which is code, and is refused"
            else:
                does = "is damaged, or no checkpoint that can be read without running what is in it"
            raise UserError(f"{path} {does}: take the model as safetensors") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights by name, as a checkpoint does")
    return {str(name): value for name, value in state.items()}


def read_pickled(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The wanted tensors of a checkpoint by name, on the CPU.

    Raises:
        UserError: it cannot be read, as `unpickled` says, or holds what cannot be weights, as `check_finite` says.
    """
    values = {name: value for name, value in unpickled(path).items() if wanted(name)}
    for name, value in values.items():
        if not _is_stored(value):
            raise UserError(f"{path}: {name} is no tensor that is stored whole, which weights are")
    tensors = {name: value.detach() for name, value in values.items()}
    check_finite(tensors, path)
    return tensors


def _is_stored(value: Any) -> bool:
    """Whether this is a tensor with all of its numbers there: not sparse, nested, without memory, or one repeated."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    return value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes()
