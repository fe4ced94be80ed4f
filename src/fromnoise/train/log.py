"""The record of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fromnoise.files import atomic_write
from fromnoise.pictures import grid, save_grid


class RunLog:
    """The run's record: one JSON object a line in ``log.jsonl``, and the same for TensorBoard."""

    def __init__(self, folder: Path, resumed_step: int):
        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= resumed_step]
        with atomic_write(self.path) as partial:
            partial.write_text("".join(kept))
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            tagged = (
                {f"{name}/{i}": entry for i, entry in enumerate(value)} if isinstance(value, list) else {name: value}
            )
            for tag, entry in tagged.items():
                self.tensorboard.add_scalar(tag, entry, step)

    def picture(self, step: int, path: Path, images: Tensor, columns: int) -> None:
        save_grid(path, images, columns)
        pixels = np.asarray(grid(images, columns).convert("RGB"))
        self.tensorboard.add_image("preview", pixels, step, dataformats="HWC")

    @staticmethod
    def validations(folder: Path) -> list[tuple[int, str]]:
        """Step and validation loss of each validation in a run's log."""
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [(line["step"], f"{line['validation_loss']:.4f}") for line in lines if "validation_loss" in line]
