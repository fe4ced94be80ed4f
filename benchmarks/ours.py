"""Our side: the train command's own step and the sample command's own function, on images made up in memory."""

from pathlib import Path
from unittest.mock import patch

import torch

from fromnoise.data.images import Images
from fromnoise.models import Model
from fromnoise.nn.unet import UNet
from fromnoise.train.config import TrainingConfig, load_config
from fromnoise.train.tasks.denoising import scheduler_config
from fromnoise.train.tasks.pixels import unet_config
from fromnoise.train.trainer import Trainer

PRESET = "mnist-conditional"
NUM_CLASSES = 10
IMAGES = {"digits": 1500, "ylecun/mnist": 60_000, "uoft-cs/cifar10": 50_000}  # for training, in each dataset


def synthetic_images(source: str, split: str, *, channels: int, size: int, labelled: bool, **columns: object) -> Images:
    """As many random images as the dataset has, in place of `fromnoise.data.images.load_images`."""
    count = IMAGES[source] if split == "train" else 1024
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    return Images(pixels, torch.randint(NUM_CLASSES, (count,)), tuple("0123456789")) if labelled else Images(pixels)


def configuration(preset: str, *, compiled: bool, dtype: str = "auto", batch_size: int | None = None) -> TrainingConfig:
    """The preset on a CPU."""
    config = load_config(preset)
    changes: dict[str, object] = {"device": "cpu", "dtype": dtype, "compile": "yes" if compiled else "no"}
    changes |= {} if batch_size is None else {"batch_size": batch_size}
    return config.override({f"train.{name}": value for name, value in changes.items()})


def trainer(config: TrainingConfig) -> Trainer:
    """What ``fromnoise train`` builds, whose ``take_step`` is what it calls; nothing is written."""
    with patch("fromnoise.train.task.load_images", synthetic_images):
        return Trainer(config, Path("nowhere"))


def model(preset: str) -> Model:
    """An untrained model of a preset, which takes as long to draw as a trained one."""
    config = load_config(preset)
    network = UNet(unet_config(config, NUM_CLASSES if config.data.conditional else None))
    return Model.of_pixels(network, scheduler_config(config), tuple("0123456789") if config.data.conditional else None)
