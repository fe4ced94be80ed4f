"""Stand-ins: models that have learned nothing, and folders of noise in the layout of a dataset."""

import numpy as np
import torch
from PIL import Image

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.models import Model
from fromnoise.nn.unet import UNet, UNetConfig


def untrained(shape, *, classes=0, **noise):
    """A network that has learned nothing, of 20 times."""
    torch.manual_seed(0)
    config = UNetConfig(
        shape[0],
        shape[0],
        shape[1],
        channels=(8, 8),
        attention_levels=(False, False),
        middle_attention=False,
        norm_groups=4,
        num_class_embeds=classes + 1 if classes else None,
    )
    return Model.of_pixels(
        UNet(config), NoiseConfig(num_train_timesteps=20, **noise), tuple("0123456789"[:classes]) if classes else None
    )


def save_noise(folder, shape, **splits):
    """Writes images of noise: for each split their number, or the number for each class."""
    random = np.random.default_rng(0)
    for split, counts in splits.items():
        for label, count in enumerate(counts if isinstance(counts, tuple) else (counts,)):
            place = folder / split / str(label) if isinstance(counts, tuple) else folder / split
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(place / f"{i}.png")
    return str(folder)
