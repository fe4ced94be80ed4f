"""A model: values, not branches."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.inpainting import joined
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.models.conditioning import Conditioner, by_class
from fromnoise.models.placing import placed
from fromnoise.models.space import Pixels, Space
from fromnoise.nn.unet import UNet


@dataclass
class Model:
    """A network and what is needed to sample from it."""

    unet: UNet
    noise: NoiseConfig  # which noise the network was trained on, and what it predicts
    space: Space  # what the network sees
    conditioner: Conditioner  # how it is told what to draw

    @classmethod
    def of_pixels(cls, unet: UNet, noise: NoiseConfig, class_names: tuple[str, ...] | None = None) -> "Model":
        """A model that sees the images themselves and, if its network has a table of classes, is asked for one.

        Args:
            class_names: without the null class, which has the last row if there is one more; none: numbers.

        Raises:
            ValueError: another number of names than the table has rows.
        """
        config = unet.config
        space = Pixels((config.in_channels, config.sample_size, config.sample_size), noise.clip_sample_range)
        return cls(unet, noise, space, by_class(config.num_class_embeds or 0, class_names))

    @property
    def inpaints(self) -> bool:
        """Whether the network was trained to inpaint: it is told a mask and the picture around it, beside x."""
        return self.unet.config.in_channels != self.space.shape[0]

    def placed(self, device: torch.device | str, dtype: torch.dtype) -> "Model":
        """The same on a device and in a precision. What is there already is not copied; prompts are read on the CPU."""
        return replace(self, unet=placed(self.unet, device, dtype), space=self.space.placed(device, dtype))

    def denoiser(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        rows: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NetworkDenoiser:
        """The network as a denoiser, computing on a device and in a precision.

        The weights stay where they are if they are there already; otherwise they are copied once.

        Args:
            rows: how many rows the network is shown at a time, the last ones filled up from the first. With a fixed
                number an image does not depend on the batch that it is in; none: all at once.
            progress: called with the number of images of each question to the network.
        """
        unet: Callable[..., Tensor] = placed(self.unet, device, dtype)
        if self.inpaints:
            unet = joined(unet)

        def predict(x: Tensor, timestep: Tensor, **condition: Tensor) -> Tensor:
            if progress is not None:
                progress(len(x))
            told = {name: value.to(dtype) if value.is_floating_point() else value for name, value in condition.items()}
            at_a_time = rows or len(x)
            order = torch.arange(math.ceil(len(x) / at_a_time) * at_a_time, device=x.device) % len(x)
            parts = [
                unet(x[part].to(dtype), timestep[part], **{name: value[part] for name, value in told.items()})
                for part in order.split(at_a_time)
            ]
            return torch.cat(parts)[: len(x)]

        return NetworkDenoiser(predict, self.noise.schedule(), Prediction(self.noise.prediction_type))
