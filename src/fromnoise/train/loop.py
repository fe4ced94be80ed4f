"""The steps of a run, what is due when, and the log of it."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fromnoise import signals
from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.pictures import grid, save_grid
from fromnoise.train.checkpoint import discard_unproven, mark_proven
from fromnoise.train.folder import LOG, read_log
from fromnoise.train.trainer import Step, Trainer


class RunLog:
    """The run's record: one JSON object a line in ``log.jsonl``, and the same for TensorBoard."""

    def __init__(self, folder: Path, resumed_step: int):
        self.folder, self.path = folder, folder / LOG
        kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= resumed_step]
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


class Loop:
    """Takes all steps that are left; every so many, writes to the log, validates, draws a preview and saves.

    Args:
        seconds: spent on the steps before a resumption.
    """

    def __init__(self, trainer: Trainer, seconds: float):
        self.trainer, self.config, self.before = trainer, trainer.config.train, seconds
        self.log = RunLog(trainer.folder, trainer.step) if trainer.accelerator.is_main_process else None
        self.window: list[Step] = []  # the steps since anything was due
        self.start = self.window_start = time.monotonic()
        total, done = (steps * self.config.batch_size for steps in (self.config.steps, trainer.step))
        quiet = self.log is None
        self.bar = tqdm(total=total, initial=done, unit="img", smoothing=0.05, disable=quiet, dynamic_ncols=True)

    def run(self) -> float:
        """Takes the steps; the seconds that all took. A loss that diverges is a UserError, as are weights that stay."""
        trainer, config = self.trainer, self.config
        actions = [
            (config.log_every, self.write_summary),
            (config.validate_every, self.validate),
            (config.preview_every, self.preview),
            (config.checkpoint_every, self.save),
        ]
        with self.bar:
            while trainer.step < config.steps:
                signals.check()
                self.window.append(trainer.take_step())
                self.bar.update(config.batch_size)
                last = trainer.step == config.steps
                if due := [action for every, action in actions if trainer.step % every == 0 or last]:
                    self.sum_up()  # in all processes at once, though the main one alone does what is due
                    if self.save in due:
                        trainer.check_gradients()
                    if self.log is not None:
                        for action in due:
                            action(self.log)
                    trainer.accelerator.wait_for_everyone()
                    self.window_start = time.monotonic()
        if self.log is not None:
            self.log.tensorboard.close()
        return self.seconds()

    def seconds(self) -> float:
        """Spent so far."""
        return self.before + time.monotonic() - self.start

    def sum_up(self) -> None:
        """Closes the window; all processes have to do it together."""
        losses = torch.stack([step.loss for step in self.window]).float()
        norms = torch.stack([step.gradient_norm for step in self.window]).float()
        loss = self.trainer.accelerator.reduce(losses.mean(), "mean").item()
        if not math.isfinite(loss + norms.sum().item()):
            raise self.diverged("the loss is")
        if self.log is not None:
            mark_proven(self.trainer.folder)
        self.summary = {
            "loss": loss,
            "gradient_norm": norms.mean().item(),
            "learning_rate": self.window[-1].learning_rate,
            "images_per_second": len(self.window) * self.config.batch_size / (time.monotonic() - self.window_start),
            "seconds": self.seconds(),
        }
        self.window = []

    def diverged(self, what: str) -> UserError:
        """What to say when ``what`` is no longer finite; the newest checkpoint goes if it has led to nothing else."""
        trainer = self.trainer
        if self.log is not None:
            discard_unproven(trainer.folder)
        fp32 = " or --train.dtype fp32" if trainer.dtype == "bf16" else ""
        advice = f"give a lower --train.learning-rate than {self.config.learning_rate:g}{fp32}"
        return UserError(f"{what} no longer finite at step {trainer.step}: {advice}")

    def write_summary(self, log: RunLog) -> None:
        self.bar.set_postfix(loss=f"{self.summary['loss']:.4f}")
        log.write(self.trainer.step, **self.summary)

    def validate(self, log: RunLog) -> None:
        step, found = self.trainer.step, self.trainer.validate()
        if not math.isfinite(found["validation_loss"]):
            raise self.diverged("the validation loss is")
        log.write(step, **found)
        expected = self.trainer.config.expect.get(str(step))
        note = "" if expected is None else f" (to expect: {expected})"
        self.bar.write(f"step {step}: validation loss {found['validation_loss']:.4f}{note}", file=sys.stderr)

    def preview(self, log: RunLog) -> None:
        log.preview(self.trainer.step, *self.trainer.task.preview(self.trainer.averaged))

    def save(self, log: RunLog) -> None:
        if not self.trainer.is_finite():
            raise self.diverged("the weights are")
        log.tensorboard.flush()  # here alone: a signal may have left its queue in a state in which this takes minutes
        self.trainer.save(self.seconds())


def validations(folder: Path) -> list[tuple[int, float]]:
    """Step and validation loss of each validation in a run's log."""
    losses = ((line["step"], line.get("validation_loss")) for line in read_log(folder))
    return [(step, loss) for step, loss in losses if isinstance(loss, float)]
