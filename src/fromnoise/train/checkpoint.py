"""Checkpoints: everything a run needs to go on as if it had never stopped, written all or not at all.

A checkpoint is a folder ``step-00001000`` of safetensors and JSON, with a checksum of each file. It is written under
another name, flushed to the disk and renamed, so that a folder of this name is always complete.
"""

import hashlib
import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from annotated_types import Ge, Le
from safetensors import SafetensorError
from torch import Tensor

from fromnoise import __version__
from fromnoise.configs import MAX_BYTES, Count, load, parse, read
from fromnoise.data.captions import Captioned
from fromnoise.data.images import Images
from fromnoise.devices import processor
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, read_bytes
from fromnoise.nn.fast import convolution, group_norm
from fromnoise.nn.fast.kernels import library
from fromnoise.train.config import TrainingConfig
from fromnoise.train.folder import CHECKPOINTS, PROVEN, list_checkpoints, remove_checkpoint, step_of

Groups = dict[str, dict[str, Tensor]]
"""tensors by name, in groups (weights, averages, optimiser) of which each is one file"""

STATE, CHECKSUMS = "state.json", "checksums.json"
RECORDED, RECORDED_SHARDS = 256, 8  # captioned pictures by which data is recognised, and of how many shards they are
HEADER_BYTES = 2**24  # what a safetensors file may have beside the numbers


@dataclass(frozen=True)
class DataRecord:
    """What was trained on, by checksums: a run goes on with the same."""

    images: int
    pixels: int
    labels: int
    class_names: tuple[str, ...] | None
    parts: int = 0
    """of the frozen networks that it is encoded by, and of their tokeniser; 0: there are none"""
    shards: tuple[Count, ...] = ()
    """how many images each shard has, if they are read by shards, on which their order depends"""

    @classmethod
    def of(cls, data: Images) -> "DataRecord":
        """The record of these images."""
        pixels, labels = (0 if v is None else zlib.crc32(v.numpy().tobytes()) for v in (data.pixels, data.labels))
        return cls(len(data), pixels, labels, data.class_names)

    @classmethod
    def of_captioned(cls, data: Captioned) -> "DataRecord":
        """The record of captioned pictures; 0 images if they are drawn without end.

        It covers the number of pictures in each shard, and 256 pictures and captions, evenly spread over all, or over 8
        shards if there are more.
        """
        parts = torch.arange(data.rows or RECORDED).split([*data.shards] or (data.rows or RECORDED))
        chosen = [parts[number] for number in _spread(len(parts), RECORDED_SHARDS)]
        indices = torch.cat([part[_spread(len(part), RECORDED // len(chosen))] for part in chosen])
        drawn, captions = data.draw(indices, torch.Generator().manual_seed(0))
        pictures = captioned = 0
        for name in sorted(drawn):
            pictures = zlib.crc32(drawn[name].contiguous().numpy().tobytes(), pictures)
        for caption in captions:
            captioned = zlib.crc32(caption.encode(), captioned)
        return cls(data.rows or 0, pictures, captioned, None, shards=data.shards)


def _spread(count: int, most: int) -> Tensor:
    """The numbers 0 to ``count - 1``, or ``most`` of them, evenly spread."""
    chosen = min(count, most)
    return torch.arange(chosen) * count // chosen


@dataclass(frozen=True)
class Environment:
    """What rounds: where it is another, a run goes on, and its bits may differ."""

    device: str
    processor: str
    instructions: str
    kernels: str
    torch_version: str
    fromnoise_version: str
    compiled: bool
    processes: int
    threads: Annotated[int, Ge(1), Le(4096)]

    @classmethod
    def here(cls, device: torch.device, compiled: bool, processes: int) -> "Environment":
        """That of this process."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
        instructions = " ".join(name for name, there in sorted(torch.cpu.get_capabilities().items()) if there is True)
        sources = (group_norm.SOURCE, convolution.SOURCE) if device.type == "cpu" else ()
        kernels = ", ".join(source.stem for source in sources if library(source)) or "none"
        versions = (torch.__version__, __version__)
        return cls(device.type, name, instructions, kernels, *versions, compiled, processes, torch.get_num_threads())


@dataclass(frozen=True)
class State:
    """A checkpoint's ``state.json``."""

    step: Count
    seconds: Annotated[float, Ge(0)]
    """spent on all steps"""
    ema_updates: Annotated[int, Ge(0)]
    config: TrainingConfig
    data: DataRecord
    environment: Environment
    history: tuple[str, ...] = ()
    """what was changed on the way"""


def differences(before: Any, after: Any) -> str:
    """Where two records differ, in words; nothing where they do not."""
    told = []
    for name, old in vars(before).items():
        if old != (new := getattr(after, name)):
            words = name.replace("_", " ")
            told.append(f"{words} {old} then, {new} now" if len(f"{old}{new}") < 100 else f"other {words}")
    return ", ".join(told)


def save_checkpoint(folder: Path, state: State, groups: Groups, keep: int) -> Path:
    """Writes a checkpoint into a run's folder and removes all but the newest ``keep``, and never the one before.

    For whether the newest is any good only the steps after it show: `mark_proven`.

    Raises:
        UserError: the disk is full, or the folder cannot be written; older checkpoints are untouched.
    """
    final = folder / CHECKPOINTS / f"step-{state.step:08d}"
    with atomic_write(final) as partial:
        partial.mkdir()
        checksums = {STATE: _write(partial / STATE, json.dumps(asdict(state)).encode())}
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
