"""What a checkpoint records beside its tensors: which run it belongs to, and where it was made."""

import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le

from fromnoise import __version__
from fromnoise.configs import Count
from fromnoise.data.images import Images
from fromnoise.devices import processor
from fromnoise.nn.fast import convolution, group_norm
from fromnoise.nn.fast.kernels import library
from fromnoise.train.config import TrainingConfig


@dataclass(frozen=True)
class DataRecord:
    """What was trained on, by checksums: a run goes on with the same."""

    images: int
    pixels: int
    labels: int
    class_names: tuple[str, ...] | None

    @classmethod
    def of(cls, data: Images) -> "DataRecord":
        """The record of these images."""
        pixels, labels = (0 if v is None else zlib.crc32(v.numpy().tobytes()) for v in (data.pixels, data.labels))
        return cls(len(data), pixels, labels, data.class_names)


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
