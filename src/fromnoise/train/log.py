"""The record of a run."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fromnoise.files import atomic_write, read_bytes
from fromnoise.pictures import grid, save_grid

MAX_BYTES = 2**32


class RunLog:
    """The run's record: one JSON object a line in ``log.jsonl``, and the same for TensorBoard."""

    def __init__(self, folder: Path, resumed_step: int):
        self.folder, self.path = folder, folder / "log.jsonl"
        kept = [json.dumps(line) + "\n" for line in _lines(self.path) if line["step"] <= resumed_step]
        with atomic_write(self.path) as partial:
            partial.write_text("".join(kept))
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, list):
                for i, entry in enumerate(value):
                    self.tensorboard.add_scalar(f"{name}/{i}", entry, step)
            else:
                self.tensorboard.add_scalar(name, value, step)

    def preview(self, step: int, images: Tensor, columns: int) -> None:
        save_grid(self.folder / "previews" / f"step-{step:08d}.png", images, columns)
        pixels = np.asarray(grid(images, columns).convert("RGB"))
        self.tensorboard.add_image("preview", pixels, step, dataformats="HWC")


def validations(folder: Path) -> list[tuple[int, float]]:
    """Step and validation loss of each validation in a run's log."""
    losses = ((line["step"], line.get("validation_loss")) for line in _lines(folder / "log.jsonl"))
    return [(step, loss) for step, loss in losses if isinstance(loss, float)]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that can be read; others were being written when a process or the machine went down."""
    found = []
    for line in read_bytes(path, MAX_BYTES).decode(errors="replace").split("\n")[:-1] if path.exists() else []:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and type(line.get("step")) is int]
