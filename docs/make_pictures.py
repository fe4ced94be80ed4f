"""Draws the README's picture ``from-noise.png`` with the shipped model: ``python docs/make_pictures.py``."""

from pathlib import Path

import torch

from fromnoise.data.images import to_pixels
from fromnoise.diffusion.guidance import GuidedDenoiser
from fromnoise.diffusion.parameterization import ClippedDenoiser
from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.samplers import Spacing, ddpm, sampling_times
from fromnoise.models import open_model
from fromnoise.pictures import save_grid

DIGITS = [3, 7, 2, 8]
SHOWN = [0, 6, 10, 13, 16, 18, 20, 22, 24, 27, 30]  # of 30 steps


@torch.inference_mode()
def from_noise(path: Path) -> None:
    """A row for each digit: x_t after some of the 30 steps, from the noise to the image."""
    model = open_model("mnist-conditional")
    denoise = ClippedDenoiser(GuidedDenoiser(model.denoiser(), 3.0, {"class_labels": torch.tensor(10)}))
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(DIGITS))]
    noise = noise_like(torch.empty(len(DIGITS), 1, 28, 28), generators)
    times = sampling_times(1000, 30, Spacing.TRAILING)
    walk = ddpm(denoise, noise, times, generators, class_labels=torch.tensor(DIGITS))
    frames = [noise, *(moment.x for moment in walk)]
    columns = torch.stack([frames[step] for step in SHOWN], dim=1)  # (digits, shown, 1, 28, 28)
    save_grid(path, to_pixels(columns.flatten(0, 1)), len(SHOWN))


if __name__ == "__main__":
    target = Path(__file__).with_name("from-noise.png")
    from_noise(target)
    print(target)
