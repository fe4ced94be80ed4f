"""Checkpoints: everything a run needs to go on as if it had never stopped, written all or not at all.

A checkpoint is a folder ``step-00001000`` of safetensors and JSON. It is written under another name, flushed to the
disk and renamed, so that a folder of this name is always complete.
"""

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.errors import UserError

Tensors = dict[str, Tensor]


def save_checkpoint(folder: Path, step: int, groups: dict[str, Tensors], state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of ``step`` into ``folder`` and removes all but the newest ``keep``.

    Args:
        groups: by name, what becomes one safetensors file each (weights, EMA, optimiser).
        state: all else, as JSON.

    Raises:
        OSError: the disk is full, or the folder cannot be written; older checkpoints are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-step-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, tensors in (groups | {"random": _random_tensors()}).items():
            contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            _write_flushed(partial / f"{name}.safetensors", safetensors.torch.save(contiguous))
        state = state | {"step": step, "python_random": random.getstate()}
        _write_flushed(partial / "state.json", json.dumps(state).encode())
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _flush_folder(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """What `save_checkpoint` was given, and puts the global random states back.

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
        _restore_random(groups.pop("random"), state.pop("python_random"))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        advice = f"remove {checkpoint} to resume from an older one"
        raise UserError(f"checkpoint {path} is damaged ({error}): {advice}") from error
    return groups, state


def _random_tensors() -> Tensors:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(np.asarray(keys, np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Tensors, python_state: list[Any]) -> None:
    torch.set_rng_state(states["torch"])
    position, has_gauss, gauss = states["numpy_rest"].tolist()
    keys = states["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    version, internal, gauss_next = python_state
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
