"""Checkpoints: everything a run needs to go on as if it had never stopped, written all or not at all.

A checkpoint is a folder ``step-00001000`` of safetensors and JSON. It is written under another name, flushed to the
disk and renamed, so that a folder of this name is always complete.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.errors import UserError

Tensors = dict[str, Tensor]


def save_checkpoint(folder: Path, step: int, groups: dict[str, Tensors], state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of ``step`` into ``folder`` and removes all but the newest ``keep``.

    Args:
        groups: by name, what becomes one safetensors file each (weights, averages, optimiser).
        state: everything else, as JSON.

    Raises:
        OSError: the disk is full, or the folder cannot be written; older checkpoints are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-step-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, tensors in groups.items():
            contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            _write_flushed(partial / f"{name}.safetensors", safetensors.torch.save(contiguous))
        _write_flushed(partial / "state.json", json.dumps(state | {"step": step}).encode())
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        with suppress(OSError):  # not every file system can flush a folder
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def newest_checkpoint(folder: Path) -> str:
    """What to do after a run in ``folder`` has stopped, in words."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {checkpoints[-1]}: go on from it with --resume"


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """What `save_checkpoint` was given, and the step.

    Raises:
        UserError: a file is missing or damaged; names it.
    """
    path = checkpoint
    try:
        groups = {}
        for path in sorted(checkpoint.glob("*.safetensors")):
            groups[path.stem] = safetensors.torch.load_file(path)
        path = checkpoint / "state.json"
        state = json.loads(path.read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} is damaged ({error}): remove {checkpoint} to resume from an older one"
        ) from error
    return groups, state


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
