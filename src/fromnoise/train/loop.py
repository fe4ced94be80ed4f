"""The training loop: draw, make noisy, predict, compare, step, average."""

import copy
import json
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from fromnoise.data.images import load_images
from fromnoise.devices import compiler_works, computes_in_bf16, resolve_device
from fromnoise.diffusion.losses import Weighting, training_loss
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.errors import UserError
from fromnoise.files import written_whole
from fromnoise.generate import Request, generate
from fromnoise.models import Model, SchedulerConfig
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.pictures import grid, save_grid
from fromnoise.train.checkpoint import Tensors, load_checkpoint, save_checkpoint
from fromnoise.train.config import TrainingConfig
from fromnoise.train.ema import EMA
from fromnoise.train.memory import keep_freed_memory
from fromnoise.train.optimizer import Optimizer
from fromnoise.train.randomness import batch_indices, generator_for, step_draws

NOISE_BANDS = 4
VALIDATION_IMAGES = 1024
LEARNING_BY_STEP = 10  # branches that start at zero pass no gradient on in the first few steps
COMPILE_FROM_IMAGES = 100_000  # the warm-up is won back after about half of that


def unet_config(config: TrainingConfig, num_classes: int | None) -> UNetConfig:
    """The U-Net of a preset, for data with so many classes (none: unconditional).

    Raises:
        UserError: numbers that do not fit together.
    """
    try:
        return UNetConfig(
            in_channels=config.data.channels,
            out_channels=config.data.channels,
            sample_size=config.data.size,
            channels=config.network.channels,
            attention_levels=config.network.attention_levels,
            layers_per_block=config.network.layers_per_block,
            head_dim=config.network.head_dim or None,
            norm_groups=config.network.norm_groups,
            num_class_embeds=None if num_classes is None else num_classes + 1,
        )
    except ValueError as error:
        raise UserError(f"network: {error}") from error


def scheduler_config(config: TrainingConfig) -> SchedulerConfig:
    """How a model of this preset is sampled."""
    scaled = config.diffusion.schedule == "scaled_linear"
    return SchedulerConfig(
        num_train_timesteps=config.diffusion.num_timesteps,
        beta_schedule=config.diffusion.schedule,
        beta_start=0.00085 if scaled else 1e-4,
        beta_end=0.012 if scaled else 0.02,
        prediction_type=config.diffusion.prediction,
        timestep_spacing="trailing",
    )


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """The learning rate of step number ``step`` (from 0): a linear rise, then half a cosine down."""
    loop = config.train
    if step < loop.warmup_steps:
        return loop.learning_rate * (step + 1) / loop.warmup_steps
    progress = (step - loop.warmup_steps) / max(1, loop.steps - loop.warmup_steps)
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64)).item())
    return loop.learning_rate * (loop.final_learning_rate + (1 - loop.final_learning_rate) * cosine)


class Trainer:
    """One training run in a folder: its networks, optimiser and data, and how to take a step.

    Runs as one process or as one of several under ``accelerate launch``; all of them see the same global batch.

    Args:
        config: the preset. The precision that ``train.dtype = "auto"`` comes down to here stands in ``self.config``.
        folder: where the run's files go.
        data_folder: where a local copy of the data lies; none: ``config.data.source``.
    """

    def __init__(self, config: TrainingConfig, folder: Path, data_folder: str | None = None):
        device = resolve_device(config.train.device)
        if config.train.dtype == "auto":
            config = config.override({"train.dtype": "bf16" if computes_in_bf16(device) else "fp32"})
        self.config, self.folder = config, folder
        loop, data = config.train, config.data
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        processes = self.accelerator.num_processes
        if loop.batch_size % processes:
            raise UserError(f"train.batch_size {loop.batch_size} cannot be shared evenly by {processes} processes")

        options: dict[str, Any] = {"channels": data.channels, "size": data.size, "labelled": data.conditional}
        columns: dict[str, Any] = {"image_column": data.image_column, "label_column": data.label_column}
        source = data_folder or data.source
        with self.accelerator.main_process_first():
            self.images = load_images(source, "train", **options, **columns)
            self.validation = load_images(source, "test", **options, **columns)
        self.class_names = self._class_names()

        self.compile = self._decide_compile()
        if self.device.type == "cpu":
            keep_freed_memory()
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(loop.seed)
        self.scheduler = scheduler_config(config)
        self.schedule = self.scheduler.schedule()
        num_classes = None if self.class_names is None else len(self.class_names)
        network = UNet(unet_config(config, num_classes)).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self.ema = EMA(network.parameters(), loop.ema_decay)
        for parameter, shadow in zip(self.averaged.parameters(), self.ema.shadow, strict=True):
            parameter.data = shadow
        self.network = network
        self.optimizer = Optimizer(network, loop)
        if self.compile:
            network.compile()
        self.parallel = self.accelerator.prepare_model(network)
        self.step = 0

    def _class_names(self) -> tuple[str, ...] | None:
        if self.images.labels is None:
            return None
        count = int(self.images.labels.max()) + 1
        return self.images.class_names or tuple(str(i) for i in range(count))

    def _decide_compile(self) -> bool:
        loop = self.config.train
        worth_it = loop.steps * loop.batch_size >= COMPILE_FROM_IMAGES and self.device.type != "mps"
        wanted = loop.compile == "yes" or (loop.compile == "auto" and worth_it)
        if wanted and not compiler_works(self.device):
            if loop.compile == "yes":
                raise UserError("torch.compile finds no working C++ compiler: install one, or use --train.compile no")
            self.accelerator.print("no working C++ compiler: training without torch.compile, which is slower")
            return False
        return wanted

    # ---------------------------------------------------------------- one step

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """The loss of each sample, ``(B,)`` float32, of a network in the run's precision."""
        diffusion = self.config.diffusion
        bf16 = self.config.train.dtype == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            return training_loss(
                network,
                self.schedule,
                Prediction(diffusion.prediction),
                Weighting(diffusion.weighting),
                images,
                t,
                noise,
                gamma=diffusion.gamma,
                **({} if labels is None else {"class_labels": labels}),
            )

    def take_step(self) -> tuple[Tensor, Tensor]:
        """One optimiser step on the next batch; the process's mean loss and the gradient's norm, both scalars."""
        loop, data = self.config.train, self.config.data
        indices = batch_indices(loop.seed, self.step, loop.batch_size, len(self.images))
        shape = (loop.batch_size, data.channels, data.size, data.size)
        diffusion = self.config.diffusion
        draws = step_draws(loop.seed, self.step, shape, diffusion.num_timesteps, diffusion.times)
        share = loop.batch_size // self.accelerator.num_processes
        mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)

        images, labels = self.images.batch(indices[mine])
        if data.flip:
            images = torch.where(draws.flip[mine, None, None, None], images.flip(-1), images)
        if labels is not None and self.class_names is not None:
            labels = torch.where(draws.drop[mine] < loop.class_dropout, len(self.class_names), labels)
        batch = (images, labels, draws.t[mine], draws.noise[mine])
        loss = self.loss(self.parallel, *map(self._place, batch)).mean()
        self.accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), loop.gradient_clip)
        self.optimizer.step(learning_rate_at(self.step, self.config))
        self.ema.update(self.network.parameters())
        self.step += 1
        return loss.detach(), norm.detach()

    def _place(self, values: Any) -> Any:
        if values is None:
            return None
        values = values.to(self.device, non_blocking=True)
        return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values

    # ---------------------------------------------------------------- what is looked at

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Mean loss of the averaged network on held-out images, in equal bands of time from clean to noisy.

        The images, times and noise are the same each time; no label is dropped.
        """
        count = min(VALIDATION_IMAGES, len(self.validation))
        total = self.config.diffusion.num_timesteps
        losses = torch.zeros(count)
        t = ((torch.arange(count) + 0.5) / count * total).floor() + 1
        order = torch.randperm(len(self.validation), generator=generator_for(0, 2))[:count]
        for place in torch.arange(count).split(self.config.train.batch_size):
            images, labels = self.validation.batch(order[place])
            noise = torch.randn(images.shape, generator=generator_for(0, 3, int(place[0])))
            batch = (images, labels, t[place], noise)
            losses[place] = self.loss(self.averaged, *map(self._place, batch)).cpu()
        return [band.mean().item() for band in losses.tensor_split(NOISE_BANDS)]

    def check_that_all_learn(self) -> None:
        """Refuses to go on when some weights have had no gradient at all, which a compiler's mistake can bring about.

        Raises:
            UserError: their number and the first of them.
        """
        idle = self.optimizer.idle() if self.step >= LEARNING_BY_STEP else []
        if idle:
            hint = "try --train.compile no" if self.compile else "is there a part that the output does not depend on?"
            raise UserError(f"{len(idle)} weights never had a gradient in {self.step} steps, such as {idle[0]}: {hint}")

    def model(self) -> Model:
        """The averaged network as a model; shares its weights."""
        return Model(self.averaged, self.scheduler, self.class_names)

    def preview(self) -> tuple[Tensor, int]:
        """A few images of the averaged network, uint8 ``(n, C, H, W)``, always from the same noise; and the columns."""
        columns = 10 if self.class_names is None else min(10, len(self.class_names))
        classes = None if self.class_names is None else tuple(range(columns))
        request = Request(n=4 * columns, classes=classes, device=str(self.device))
        return generate(self.model(), request), columns

    # ---------------------------------------------------------------- checkpoints

    def save(self, **extra: Any) -> Path:
        """Writes a checkpoint of this moment."""
        names = [name for name, _ in self.network.named_parameters()]
        groups: dict[str, Tensors] = {
            "weights": dict(self.network.named_parameters()),
            "ema": dict(zip(names, self.ema.shadow, strict=True)),
            "optimizer": self.optimizer.state(),
        }
        state = {"ema_updates": self.ema.updates, "environment": self._environment(), **extra}
        keep = self.config.train.keep_checkpoints
        return save_checkpoint(self.folder / "checkpoints", self.step, groups, state, keep)

    @torch.no_grad()
    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Goes back to the moment a checkpoint was written; returns what `save` was given as extra.

        Raises:
            UserError: the checkpoint is damaged, or comes from other data, precision or mode.
        """
        groups, state = load_checkpoint(checkpoint)
        found = state["environment"]
        torch.set_num_threads(found["threads"])
        for key, value in self._environment().items():
            if found[key] != value:
                raise UserError(f"{checkpoint} was trained with {key} {found[key]}, not {value}: resume it alike")
        for name, parameter in self.network.named_parameters():
            parameter.copy_(groups["weights"][name])
        self.optimizer.load_state(groups["optimizer"])
        for (name, _), shadow in zip(self.network.named_parameters(), self.ema.shadow, strict=True):
            shadow.copy_(groups["ema"][name])
        self.ema.updates = state["ema_updates"]
        self.step = state["step"]
        return state

    def _environment(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        return {
            "dtype": self.config.train.dtype,
            "threads": torch.get_num_threads(),
            "compiled": self.compile,
            "device": self.device.type,
            "processes": self.accelerator.num_processes,
            "images": len(self.images),
            "images_checksum": zlib.crc32(self.images.pixels.numpy().tobytes()),
        }


class RunLog:
    """The run's record: one JSON object a line in ``log.jsonl``, and the same for TensorBoard."""

    def __init__(self, folder: Path, resumed_step: int):
        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= resumed_step]
        with written_whole(self.path) as partial:
            partial.write_text("".join(kept))
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            entries = enumerate(value) if isinstance(value, list) else [("", value)]
            for index, entry in entries:
                self.tensorboard.add_scalar(f"{name}/{index}" if index != "" else name, entry, step)

    def picture(self, step: int, path: Path, images: Tensor, columns: int) -> None:
        save_grid(path, images, columns)
        pixels = np.asarray(grid(images, columns).convert("RGB"))
        self.tensorboard.add_image("preview", pixels, step, dataformats="HWC")

    @staticmethod
    def validations(folder: Path) -> list[tuple[int, str]]:
        """Step and validation loss of each validation in a run's log."""
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [(line["step"], f"{line['validation_loss']:.4f}") for line in lines if "validation_loss" in line]

    def close(self) -> None:
        self.tensorboard.close()
