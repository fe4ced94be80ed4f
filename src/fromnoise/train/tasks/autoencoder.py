"""The KL autoencoder: the first stage of latent diffusion, in which pictures become small."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.data.captions import Captioned, Drawn, load_captioned
from fromnoise.data.images import to_pixels
from fromnoise.diffusion.latents import kl_to_standard_normal, scaling_factor
from fromnoise.diffusion.reconstruction import absolute_error, edge_error, psnr
from fromnoise.errors import UserError
from fromnoise.models.saving import save_autoencoder
from fromnoise.nn.autoencoder import Autoencoder, AutoencoderConfig
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import generator_for, shuffled
from fromnoise.train.task import Batch, device_of, on_device

VALIDATION_IMAGES = 512
SCALE_IMAGES = 1024  # whose latents have the standard deviation that is scaled to 1
MEASURED_TOGETHER = 64  # pictures in a batch that nothing is learned from
PREVIEW_COLUMNS = 10
FOLDER = "vae"  # as in a model directory
NOISE = "posterior_noise"  # beside what pictures are drawn from


def autoencoder_config(config: TrainingConfig) -> AutoencoderConfig:
    """The autoencoder of a preset; its scale is not known yet.

    Raises:
        UserError: numbers that do not fit together.
    """
    settings, data = vars(config.autoencoder).copy(), config.data
    for weight in ("kl_weight", "edge_weight"):
        del settings[weight]
    if data.channels != 3:
        raise UserError(f"data.channels is {data.channels}: captioned pictures are in colour, set it to 3")
    try:
        network = AutoencoderConfig(data.channels, data.channels, sample_size=data.size, **settings)
    except ValueError as error:
        raise UserError(f"autoencoder: {error}") from error
    if data.size < 4 or data.size % network.size_multiple:
        levels = f"{len(network.channels)} levels of autoencoder.channels halve it {len(network.channels) - 1} times"
        raise UserError(f"data.size is {data.size}, and the {levels}: set it to a multiple of {network.size_multiple}")
    return network


class AutoencoderTask:
    """Trains an `Autoencoder` on captioned pictures, whose captions it never sees.

    The loss of a picture is the mean absolute error of its values, plus `edge_error` and the divergence of its latents
    from a standard normal, each with its weight. The divergence is summed over the latents, as in Stable Diffusion, but
    the errors are means and not sums over the pixels.

    Raises:
        UserError: a network or data that does not fit.
    """

    objective = "error of pixels and edges, divergence of the latents"

    def __init__(self, config: TrainingConfig, source: str):
        network = autoencoder_config(config)  # refuses, before the data is read, what does not fit together
        self.config = config
        self.pictures, self.held_out = load_captioned(config.data, source)
        self.rows = self.pictures.rows
        self.record = DataRecord.of_captioned(self.pictures)
        side = config.data.size // network.size_multiple
        self.latent_shape = (network.latent_channels, side, side)
        self.network = Autoencoder(network)

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        """What the pictures are made from, and the noise of their latents."""
        drawn, _ = self.pictures.draw(indices, generator_for(seed, 5, step))
        return drawn | {NOISE: self._noise(len(indices), generator_for(seed, 6, step))}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        images = _images(self.pictures, batch)  # (B, 3, S, S)
        reconstruction, mean, log_variance = network(images, batch[NOISE])
        settings = self.config.autoencoder
        error = absolute_error(reconstruction, images) + settings.edge_weight * edge_error(reconstruction, images)
        return error + settings.kl_weight * kl_to_standard_normal(mean.float(), log_variance.float())  # (B,)

    def validate(self, network: Autoencoder) -> dict[str, Any]:
        """The mean loss on held-out pictures, and the mean peak signal-to-noise ratio of them by the latents' mean."""
        losses, ratios = [], []
        for number, drawn in enumerate(self._batches(self.held_out, VALIDATION_IMAGES)):
            noise = self._noise(len(next(iter(drawn.values()))), generator_for(0, 7, number))
            batch = on_device(drawn | {NOISE: noise}, device_of(network))
            losses.append(self.loss(network, batch).cpu())
            images = _images(self.held_out, batch)
            ratios.append(psnr(network.decode(network.encode(images)[0]), images).cpu())
        return {"validation_loss": torch.cat(losses).mean().item(), "validation_psnr": torch.cat(ratios).mean().item()}

    @torch.no_grad()
    def preview(self, network: Autoencoder) -> tuple[Tensor, int]:
        """A few held-out pictures in rows, and below each row what becomes of them."""
        rows = []
        for drawn in self._batches(self.held_out, 2 * PREVIEW_COLUMNS, PREVIEW_COLUMNS):
            images = _images(self.held_out, on_device(drawn, device_of(network)))
            rows += [images, network.decode(network.encode(images)[0])]
        return torch.cat([to_pixels(row).cpu() for row in rows]), PREVIEW_COLUMNS

    @torch.no_grad()
    def export(self, network: Autoencoder, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Writes the autoencoder into ``vae``, with the scale of its latents."""
        stored = copy.deepcopy(network).to(dtype).float()  # what is measured is what is saved
        moments = [
            stored.encode(_images(self.pictures, on_device(drawn, device_of(network))))
            for drawn in self._batches(self.pictures, SCALE_IMAGES)
        ]
        mean, log_variance = (torch.cat(parts) for parts in zip(*moments, strict=True))  # (N, C, h, w) each
        scale = scaling_factor(mean).item()
        stored.config = dataclasses.replace(stored.config, scaling_factor=scale)
        save_autoencoder(stored, folder / FOLDER, dtype=dtype)
        found = self.validate(stored)["validation_psnr"]
        spread = scale * (log_variance / 2).exp().mean().item()
        return {
            "latents": f"{' x '.join(map(str, self.latent_shape))}, multiplied with {scale:.4f} for a U-Net",
            "spread of a latent": f"{spread:.3f} of the standard deviation of all",
            "peak signal-to-noise ratio of reconstructions": f"{found:.1f} dB",
        }

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn((count, *self.latent_shape), generator=generator)

    def _batches(self, pictures: Captioned, count: int, size: int = MEASURED_TOGETHER) -> Iterator[Drawn]:
        """What up to ``count`` pictures are made from, always the same ones, in batches."""
        count = count if pictures.rows is None else min(count, pictures.rows)
        order = shuffled(pictures.rows or count, pictures.shards, generator_for(0, 8))[:count]
        for number, part in enumerate(order.split(size)):
            yield pictures.draw(part, generator_for(0, 9, number))[0]


@torch.no_grad()
def _images(pictures: Captioned, batch: Batch) -> Tensor:
    """The pictures of a batch ``(B, 3, S, S)``, channels-last, in float32 whatever the network computes in."""
    drawn = {name: values for name, values in batch.items() if name != NOISE}
    with torch.autocast(next(iter(drawn.values())).device.type, enabled=False):
        return pictures.images(drawn).contiguous(memory_format=torch.channels_last)
