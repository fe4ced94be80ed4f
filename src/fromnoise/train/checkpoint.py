"""Checkpoints: everything a run needs to go on as if it had never stopped, written all or not at all.

A checkpoint is a folder ``step-00001000`` of safetensors and JSON, with a checksum of each file. It is written under
another name, flushed to the disk and renamed, so that a folder of this name is always complete.
"""

import dataclasses
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.configs import MAX_BYTES, load, parse, read
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, read_bytes
from fromnoise.train.folder import CHECKPOINTS, PROVEN, list_checkpoints, remove_checkpoint, step_of
from fromnoise.train.record import State

Groups = dict[str, dict[str, Tensor]]
"""tensors by name, in groups (weights, averages, optimiser) of which each is one file"""

STATE, CHECKSUMS = "state.json", "checksums.json"
HEADER_BYTES = 2**24  # what a safetensors file may have beside the numbers


def save_checkpoint(folder: Path, state: State, groups: Groups, keep: int) -> Path:
    """Writes a checkpoint into a run's folder and removes all but the newest ``keep``, and never the one before.

    For whether the newest is any good only the steps after it show: `mark_proven`.

    Raises:
        UserError: the disk is full, or the folder cannot be written; older checkpoints are untouched.
    """
    final = folder / CHECKPOINTS / f"step-{state.step:08d}"
    with atomic_write(final) as partial:
        partial.mkdir()
        checksums = {STATE: _write(partial / STATE, json.dumps(dataclasses.asdict(state)).encode())}
        for name, tensors in groups.items():
            contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            file = f"{name}.safetensors"
            checksums[file] = _write(partial / file, safetensors.torch.save(contiguous))
        _write(partial / CHECKSUMS, json.dumps(checksums).encode())
        if final.is_dir():
            remove_checkpoint(final)
    with suppress(OSError):  # not every file system can flush a folder
        descriptor = os.open(final.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    older = [path for path in list_checkpoints(folder) if step_of(path) < state.step]
    with suppress(OSError):  # what cannot be tidied is tidied next time
        for path in older[: -max(1, keep - 1)]:
            remove_checkpoint(path)
    return final


def mark_proven(folder: Path) -> None:
    """Notes of the newest checkpoint that steps after it were finite."""
    for path in list_checkpoints(folder)[-1:]:
        (path / PROVEN).touch()


def discard_unproven(folder: Path) -> None:
    """Removes the newest checkpoint if no step after it was finite."""
    for path in list_checkpoints(folder)[-1:]:
        if not (path / PROVEN).exists():
            remove_checkpoint(path)


def load_checkpoint(checkpoint: Path, expected: Groups) -> tuple[Groups, State]:
    """What `save_checkpoint` was given.

    Args:
        expected: tensors of the names, shapes and types that there should be.

    Raises:
        UserError: a file is missing or damaged, or holds something else; names it.
    """
    checksums = load(checkpoint / CHECKSUMS)
    path = checkpoint / STATE
    text = _checked(path, MAX_BYTES, checksums).decode(errors="replace")
    state = read(State, parse(text, "JSON", str(path)), str(path))
    if state.step != step_of(checkpoint):
        raise UserError(f"{path} is of step {state.step}: the folder has got another name")
    groups = {}
    for group, tensors in expected.items():
        path = checkpoint / f"{group}.safetensors"
        largest = HEADER_BYTES + sum(tensor.nbytes for tensor in tensors.values())
        try:
            found = groups[group] = safetensors.torch.load(_checked(path, largest, checksums))
            _check_tensors(found, tensors)
        except (SafetensorError, ValueError, KeyError, RuntimeError) as problem:
            raise UserError(f"{path} is damaged or of another network: {problem}") from None
    return groups, state


def _write(path: Path, content: bytes) -> str:
    """Writes a file that has reached the disk; returns its checksum."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _checked(path: Path, limit: int, checksums: dict[str, Any]) -> bytes:
    """The content of one of the files, if it has its checksum."""
    content = read_bytes(path, limit)
    if hashlib.sha256(content).hexdigest() != checksums.get(path.name):
        raise UserError(f"{path} is damaged: its checksum is another than in {CHECKSUMS}")
    return content


def _check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuses, by a ValueError that names the first, tensors that are not as expected, or not finite."""
    for name in sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"{name} is {'missing' if name in expected else 'not known'}")
    for name, tensor in found.items():
        there, wanted = (f"{t.dtype} {list(t.shape)}".replace("torch.", "") for t in (tensor, expected[name]))
        if there != wanted:
            raise ValueError(f"{name} is {there}, not {wanted}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
