"""The diffusion model: images are made noisy, and the U-Net learns to tell what they were."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.diffusion.losses import Weighting, training_loss
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.errors import UserError
from fromnoise.models import Model, save_model
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import generator_for, step_draws
from fromnoise.train.task import Batch, device_of, load_splits, on_device

NOISE_BANDS = 4
VALIDATION_IMAGES = 1024


def unet_config(config: TrainingConfig, num_classes: int | None) -> UNetConfig:
    """The U-Net of a preset, for data with so many classes (none: unconditional).

    Raises:
        UserError: numbers that do not fit together.
    """
    shared = vars(config.network) | {"head_dim": config.network.head_dim or None}
    rows, colours = None if num_classes is None else num_classes + 1, config.data.channels
    try:
        return UNetConfig(colours, colours, config.data.size, num_class_embeds=rows, **shared)
    except ValueError as error:
        raise UserError(f"network: {error}") from error


def scheduler_config(config: TrainingConfig) -> NoiseConfig:
    """The noise that a model of this preset is trained on, and how it is sampled."""
    scaled = config.diffusion.schedule == "scaled_linear"
    return NoiseConfig(
        num_train_timesteps=config.diffusion.num_timesteps,
        beta_schedule=config.diffusion.schedule,
        beta_start=0.00085 if scaled else 1e-4,
        beta_end=0.012 if scaled else 0.02,
        prediction_type=config.diffusion.prediction,
        timestep_spacing="trailing",
    )


class DenoisingTask:
    """Trains a U-Net on images, with or without their labels.

    Raises:
        UserError: a network or data that does not fit.
    """

    def __init__(self, config: TrainingConfig, source: str):
        unet_config(config, None)  # refuses, before the data is read, what does not fit together
        self.config = config
        self.images, self.held_out = load_splits(config.data, source, labelled=config.data.conditional)
        self.rows: int | None = len(self.images)
        self.record = DataRecord.of(self.images)
        self.class_names = self.images.class_names
        self.noise = scheduler_config(config)
        self.schedule, self.prediction = self.noise.schedule(), Prediction(self.noise.prediction_type)
        self.weighting = Weighting(config.diffusion.weighting)
        self.objective = f"{self.weighting} weighting, {self.prediction}"
        self.network = UNet(unet_config(config, None if self.class_names is None else len(self.class_names)))

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        """Images with a time and noise for each; some are mirrored, and some labels dropped, as the preset says."""
        images, labels = self.images.batch(indices)
        data, times = self.config.data, self.config.diffusion.timestep_sampling
        shape = (len(indices), data.channels, data.size, data.size)
        draws = step_draws(seed, step, shape, self.schedule.num_timesteps, times)
        if data.flip:
            images = torch.where(draws.flip[:, None, None, None], images.flip(-1), images)
        if labels is not None and self.class_names is not None:
            labels = torch.where(draws.drop < self.config.train.class_dropout, len(self.class_names), labels)
        return _batch(images, draws.t, draws.noise, labels)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        gamma = self.config.diffusion.gamma
        return training_loss(network, self.schedule, self.prediction, self.weighting, gamma=gamma, **batch)

    def validate(self, network: UNet) -> dict[str, Any]:
        """The mean loss on held-out images, and in equal bands of time from clean to noisy; no label is dropped.

        Where there are fewer images than bands, they are taken several times.
        """
        count = max(NOISE_BANDS, min(VALIDATION_IMAGES, len(self.held_out)))
        t = ((torch.arange(count) + 0.5) / count * self.schedule.num_timesteps).floor() + 1
        order = torch.randperm(len(self.held_out), generator=generator_for(0, 2)).repeat(NOISE_BANDS)[:count]
        losses = []
        for part in torch.arange(count).split(self.config.train.batch_size):
            images, labels = self.held_out.batch(order[part])
            noise = torch.randn(images.shape, generator=generator_for(0, 3, int(part[0])))
            batch = _batch(images, t[part], noise, labels)
            losses.append(self.loss(network, on_device(batch, device_of(network))).cpu())
        bands = [band.mean().item() for band in torch.cat(losses).tensor_split(NOISE_BANDS)]
        return {"validation_loss": sum(bands) / len(bands), "validation_loss_by_noise": bands}

    def model(self, network: UNet) -> Model:
        """A network as a model; shares its weights."""
        return Model.of_pixels(network, self.noise, self.class_names)

    def preview(self, network: UNet) -> tuple[Tensor, int]:
        """A few images, always from the same noise."""
        columns = 10 if self.class_names is None else min(10, len(self.class_names))
        classes = None if self.class_names is None else tuple(range(columns))
        request = Request(n=4 * columns, classes=classes, device=device_of(network).type)
        return generate(self.model(network), request), columns

    def export(self, network: UNet, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Makes the folder a model directory."""
        save_model(self.model(network), folder, dtype=dtype)
        facts = {} if self.class_names is None else {"classes": f"{', '.join(self.class_names)}, and none"}
        return facts | ({"changed to fit": self.images.changes} if self.images.changes else {})


def _batch(x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None) -> Batch:
    """By the names of `training_loss`."""
    return {"x0": x0, "t": t, "noise": noise} | ({} if labels is None else {"class_labels": labels})
