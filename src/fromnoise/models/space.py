"""The space in which a model's noise is added and removed."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from fromnoise.models.placing import placed
from fromnoise.nn.autoencoder import Autoencoder


class Space(Protocol):
    """How images become what the network sees, and back."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees, at the size that it was trained on."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that these are."""

    @property
    def limit(self) -> float | None:
        """Predictions lie in [-limit, limit] and may be clipped to it; none: they have no such range."""

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] as what the network sees."""

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`, as far as there is one."""

    def placed(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same on a device and in a precision."""


@dataclass(frozen=True)
class Pixels:
    """The network sees the image itself."""

    shape: tuple[int, int, int]
    limit: float | None = 1.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x

    def placed(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        return self


@dataclass(frozen=True)
class Latents:
    """The network sees an autoencoder's latents, multiplied so that their standard deviation is 1.

    Images are encoded as the mean of their latents, ``at_a_time`` of them together. They are decoded one by one,
    and usually encoded so: that fits in memory at 768x768 pixels, and no image depends on its neighbours.
    """

    autoencoder: Autoencoder
    shape: tuple[int, int, int]
    limit: float | None = None
    at_a_time: int = 1  # how many images are encoded together

    @property
    def image_shape(self) -> tuple[int, int, int]:
        factor = self.autoencoder.config.size_multiple
        return self.autoencoder.config.out_channels, self.shape[1] * factor, self.shape[2] * factor

    def encode(self, images: Tensor) -> Tensor:
        dtype, scale = self._dtype, self.autoencoder.config.scaling_factor
        means = [self.autoencoder.encode(part.to(dtype))[0] for part in images.split(self.at_a_time)]
        return torch.cat(means).to(images) * scale  # (B, C, h, w)

    def decode(self, x: Tensor) -> Tensor:
        dtype, scale = self._dtype, self.autoencoder.config.scaling_factor
        images = [self.autoencoder.decode((latent / scale).to(dtype)) for latent in x.split(1)]
        return torch.cat(images).to(x)  # (B, C, H, W)

    def placed(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        return replace(self, autoencoder=placed(self.autoencoder, device, dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype
