"""One step after another of whatever is trained: precision, optimiser, averages, checkpoints and processes."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from fromnoise.devices import DTYPES, compiler_works, resolve_device, training_dtype
from fromnoise.errors import UserError
from fromnoise.memory import keep_freed_memory
from fromnoise.train.captured import Captured
from fromnoise.train.checkpoint import (
    Environment,
    Groups,
    State,
    differences,
    load_checkpoint,
    save_checkpoint,
)
from fromnoise.train.config import LOOKED_AT, TrainingConfig, changes, refuse_other_run
from fromnoise.train.ema import EMA
from fromnoise.train.optimizer import Optimizer, learning_rate_at
from fromnoise.train.processes import make_accelerator
from fromnoise.train.randomness import batch_indices
from fromnoise.train.task import Batch, on_device
from fromnoise.train.tasks import TASKS

STEPS_TO_FIRST_GRADIENTS = 10  # behind layers that start at zero, the gradients of the first few steps are zero
COMPILE_FROM_IMAGES = 100_000  # on a CPU, where the warm-up is won back after about half of that


class Step(NamedTuple):
    """What is known of a step: the process's mean loss and the norm of the gradient, both scalars, and the rate."""

    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float


class Trainer:
    """One training run in a folder: its networks, optimiser and data, and how to take a step.

    Runs as one process or as one of several that ``torchrun`` starts; all of them see the same global batch.

    Args:
        data_folder: where a local copy of the data lies; none: ``config.data.source``.

    Attributes:
        dtype: the precision of the run, ``fp32`` or ``bf16``: what ``train.dtype = "auto"`` comes down to here.
        recorded: the preset with that precision written down.
        history: what was changed on the way, in words.
        network, averaged: as it is, and averaged over the steps; their weights are float32.
        state: the network's weights, and the statistics of its normalisations, by name: what is averaged.
    """

    def __init__(self, config: TrainingConfig, folder: Path, data_folder: str | None = None):
        self.config, self.folder = config, folder
        loop = config.train
        self.accelerator, self.device = make_accelerator(resolve_device(loop.device))
        processes = self.accelerator.num_processes
        if loop.batch_size % processes:
            raise UserError(f"train.batch_size {loop.batch_size} cannot be shared evenly by {processes} processes")
        if self.device.type == "cpu":
            keep_freed_memory()
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(loop.seed)
        with self.accelerator.main_process_first():
            self.task = TASKS[config.task](config, data_folder or config.data.source)
        self.dtype = self._decide_dtype()
        self.recorded = config.override({"train.dtype": self.dtype})
        self.compile = self._decide_compile()
        with self.accelerator.main_process_first():  # which builds the kernels
            self.environment = Environment.here(self.device, self.compile, processes)
        network = self.network = self.task.network.to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self.state = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
        self.ema = EMA(self.state.values(), loop.ema_decay)
        self.ema.shadow = [self.averaged.state_dict()[name] for name in self.state]
        self.optimizer = Optimizer(network, loop, DTYPES[self.dtype])
        if self.compile:
            network.compile()
        # moving it to gloo's cpu:0 would copy the weights, and averages and Muon look at those of now
        self.parallel = self.accelerator.prepare_model(network, device_placement=False)
        self.differentiate: Callable[[Batch], tuple[Tensor, Tensor]] = self.compute_gradients
        if self.device.type == "cuda" and processes == 1 and not self.compile:
            self.differentiate = Captured(self.compute_gradients, network)
        self.step = 0
        self.history: tuple[str, ...] = ()

    def _decide_dtype(self) -> str:
        """The precision that is asked for, or the one that the main process finds to be faster."""
        if self.config.train.dtype != "auto":
            return self.config.train.dtype
        found = [training_dtype(self.device) if self.accelerator.is_main_process else ("", "")]
        dtype, reason = broadcast_object_list(found)[0]
        self.accelerator.print(f"training in {dtype}: {reason}")
        return dtype

    def _decide_compile(self) -> bool:
        loop = self.config.train
        worth_it = loop.steps * loop.batch_size >= COMPILE_FROM_IMAGES and self.device.type == "cpu"
        wanted = loop.compile == "yes" or (loop.compile == "auto" and worth_it)
        if not wanted or compiler_works(self.device):
            return wanted
        if loop.compile == "yes":
            raise UserError("torch.compile finds no working C++ compiler: install one, or use --train.compile no")
        self.accelerator.print("no working C++ compiler: training without torch.compile, which is slower")
        return False

    def precision(self) -> AbstractContextManager[Any]:
        """In which the network computes: bf16 autocast, its weights staying float32, or nothing of the kind."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.dtype == "bf16" else nullcontext()

    def take_step(self) -> Step:
        """One optimiser step on the next batch."""
        loop = self.config.train
        task = self.task
        indices = batch_indices(loop.seed, self.step, loop.batch_size, task.rows, task.record.shards)
        batch = self.task.batch(indices, loop.seed, self.step)
        shares, mine = self.accelerator.num_processes, self.accelerator.process_index
        batch = on_device({name: values.chunk(shares)[mine] for name, values in batch.items()}, self.device)
        loss, norm = self.differentiate(batch)
        learning_rate = learning_rate_at(self.step, loop)
        self.optimizer.step(learning_rate)
        self.ema.update(self.state.values())
        self.step += 1
        return Step(loss, norm, learning_rate)

    def compute_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch and the norm of its gradient, which the weights and the optimiser then have."""
        with self.precision():
            losses = self.task.loss(self.parallel, batch)
        loss = losses.mean()
        self.accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.train.gradient_clip)
        self.optimizer.aim()
        return loss.detach(), norm.detach()

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """What to log of the averaged network on held-out data."""
        with self.precision():
            return self.task.validate(self.averaged)

    def check_gradients(self) -> None:
        """Refuses, by a UserError, to go on when some weights have had no gradient, as by a compiler's mistake."""
        if self.step >= STEPS_TO_FIRST_GRADIENTS and (names := self.optimizer.never_had_gradient()):
            hint = "try --train.compile no" if self.compile else "is there a part that the output does not depend on?"
            told = f"{len(names)} weights never had a gradient in {self.step} steps, such as {names[0]}"
            raise UserError(f"{told}: {hint}")

    def groups(self) -> Groups:
        """All tensors that a step changes, by the files of a checkpoint."""
        averages = dict(zip(self.state, self.ema.shadow, strict=True))
        return {"weights": self.network.state_dict(), "ema": averages, "optimizer": self.optimizer.state()}

    def is_finite(self) -> bool:
        """Whether all of these are numbers."""
        return all(tensor.isfinite().all() for group in self.groups().values() for tensor in group.values())

    def save(self, seconds: float) -> Path:
        """Writes a checkpoint of this moment; ``seconds`` were spent until now."""
        record = (self.recorded, self.task.record, self.environment, self.history)
        state = State(self.step, seconds, self.ema.updates, *record)
        return save_checkpoint(self.folder, state, self.groups(), self.config.train.keep_checkpoints)

    @torch.no_grad()
    def load(self, checkpoint: Path) -> State:
        """Goes back to the moment a checkpoint was written, and notes what has been changed since; returns its record.

        Raises:
            UserError: the checkpoint is damaged, or comes from other data or another run; nothing has been changed.
        """
        live = self.groups()
        groups, state = load_checkpoint(checkpoint, live)
        if found := differences(state.data, self.task.record):
            raise UserError(f"{checkpoint} was trained on other data ({found}): give the same, or --out anew")
        refuse_other_run(str(checkpoint), state.config, self.recorded)
        for name, tensors in groups.items():
            for key, tensor in tensors.items():
                live[name][key].copy_(tensor)
        torch.set_num_threads(state.environment.threads)
        self.environment = dataclasses.replace(self.environment, threads=state.environment.threads)
        self.ema.updates, self.step = state.ema_updates, state.step
        before = changes(self.recorded, state.config)
        told = (f"{key} was {old} until step {self.step}" for key, old in before.items() if key not in LOOKED_AT)
        self.history = (*state.history, *told)
        return state
