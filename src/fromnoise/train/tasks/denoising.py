"""The diffusion model: images, or latents, are made noisy, and the U-Net learns to tell what they were."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fromnoise.diffusion.losses import Weighting, training_loss
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.models import Model, save_model
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import PartsConfig, TrainingConfig
from fromnoise.train.randomness import Draws, generator_for, step_draws
from fromnoise.train.task import Batch, Network, device_of, on_device
from fromnoise.train.tasks.latents import CaptionedLatents
from fromnoise.train.tasks.pixels import LabelledImages

NOISE_BANDS = 4
VALIDATION_IMAGES = 1024


class Examples(Protocol[Network]):
    """What a diffusion model is trained on, how its network sees that, and what it is told of it."""

    rows: int | None  # how many there are; none: they are drawn without end
    held_out_rows: int | None
    record: DataRecord
    network: Network  # what is trained
    shape: tuple[int, int, int]  # channels, height and width of what the network sees

    def batch(self, indices: Tensor, seed: int, step: int, draws: Draws) -> Batch:
        """Those of a step, on the CPU."""

    def held_out_batch(self, indices: Tensor, number: int) -> Batch:
        """Those at ``indices`` ``(B,)`` of what is held out, by draws that depend on ``number``; nothing is dropped."""

    def inputs(self, batch: Batch) -> Batch:
        """By the names of `training_loss`: ``x0`` ``(B, *shape)``, and what the network is told; on any device."""

    def model(self, network: Network, noise: NoiseConfig) -> Model:
        """A network as a model; shares its weights."""

    def preview(self, model: Model) -> tuple[Tensor, int]:
        """As `Task.preview`, from the same noise each time."""

    def export(self, folder: Path) -> dict[str, str]:
        """Writes what goes with the model; returns what the model card says of the data."""


def is_latent(config: TrainingConfig) -> bool:
    """Whether a preset's network sees latents and is told captions."""
    return config.parts != PartsConfig()


def scheduler_config(config: TrainingConfig) -> NoiseConfig:
    """The noise that a model of this preset is trained on, and how it is sampled."""
    scaled = config.diffusion.schedule == "scaled_linear"
    latent = is_latent(config)  # which no sampler clips, and which is saved with the scheduler of another pipeline
    return NoiseConfig(
        num_train_timesteps=config.diffusion.num_timesteps,
        beta_schedule=config.diffusion.schedule,
        beta_start=0.00085 if scaled else 1e-4,
        beta_end=0.012 if scaled else 0.02,
        prediction_type=config.diffusion.prediction,
        timestep_spacing="trailing",
        clip_sample=None if latent else True,
        steps_offset=1 if latent else 0,
        set_alpha_to_one=None if latent else True,
    )


class DenoisingTask:
    """Trains a U-Net on images, with or without their labels, or on captioned latents.

    Raises:
        UserError: a network or data that does not fit.
    """

    def __init__(self, config: TrainingConfig, source: str):
        self.config = config
        self.data: Examples[Any] = (CaptionedLatents if is_latent(config) else LabelledImages)(config, source)
        self.rows, self.record = self.data.rows, self.data.record
        self.noise = scheduler_config(config)
        self.schedule, self.prediction = self.noise.schedule(), Prediction(self.noise.prediction_type)
        self.weighting = Weighting(config.diffusion.weighting)
        self.objective = f"{self.weighting} weighting, {self.prediction}"
        self.network = self.data.network

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        """What there is to see and to tell, with a time and noise for each."""
        shape, times = (len(indices), *self.data.shape), self.config.diffusion.timestep_sampling
        draws = step_draws(seed, step, shape, self.schedule.num_timesteps, times)
        return self.data.batch(indices, seed, step, draws) | {"t": draws.t, "noise": draws.noise}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        t, noise = batch["t"], batch["noise"]
        inputs = self.data.inputs({name: value for name, value in batch.items() if name not in ("t", "noise")})
        x0, gamma = inputs.pop("x0"), self.config.diffusion.gamma
        schedule, prediction, weighting = self.schedule, self.prediction, self.weighting
        return training_loss(network, schedule, prediction, weighting, x0, t, noise, gamma=gamma, **inputs)

    def validate(self, network: nn.Module) -> dict[str, Any]:
        """The mean loss on what is held out, and in equal bands of time from clean to noisy; nothing is dropped.

        Where there is less than there are bands, it is taken several times.
        """
        rows = self.data.held_out_rows or VALIDATION_IMAGES
        count = max(NOISE_BANDS, min(VALIDATION_IMAGES, rows))
        t = ((torch.arange(count) + 0.5) / count * self.schedule.num_timesteps).floor() + 1
        order = torch.randperm(rows, generator=generator_for(0, 2)).repeat(NOISE_BANDS)[:count]
        losses = []
        for part in torch.arange(count).split(self.config.train.batch_size):
            number = int(part[0])
            noise = torch.randn((len(part), *self.data.shape), generator=generator_for(0, 3, number))
            batch = self.data.held_out_batch(order[part], number) | {"t": t[part], "noise": noise}
            losses.append(self.loss(network, on_device(batch, device_of(network))).cpu())
        every = torch.cat(losses)  # (count,)
        bands = [band.mean().item() for band in every.tensor_split(NOISE_BANDS)]
        return {"validation_loss": every.mean().item(), "validation_loss_by_noise": bands}

    def model(self, network: nn.Module) -> Model:
        """A network as a model; shares its weights."""
        return self.data.model(network, self.noise)

    def preview(self, network: nn.Module) -> tuple[Tensor, int]:
        """A few images, always from the same noise."""
        return self.data.preview(self.model(network))

    def export(self, network: nn.Module, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Makes the folder a model directory."""
        save_model(self.model(network), folder, dtype=dtype)
        return self.data.export(folder)
