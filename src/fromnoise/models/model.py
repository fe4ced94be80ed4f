"""A model: values, not branches."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.models.conditioning import Classes, Conditioner, Unconditional
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
        rows = config.num_class_embeds or 0
        names = tuple(str(i) for i in range(rows)) if class_names is None else class_names
        if len(names) not in (rows, rows - 1):
            raise ValueError(f"{len(names)} class names do not fit a class table of {rows} rows")
        space = Pixels((config.in_channels, config.sample_size, config.sample_size), noise.clip_sample_range)
        return cls(unet, noise, space, Classes(names, len(names) < rows) if rows else Unconditional())

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
        here = next(self.unet.parameters())
        elsewhere = (here.device.type, here.dtype) != (torch.device(device).type, dtype)
        with torch.inference_mode(False):  # weights made in inference mode could not be differentiated any more
            unet: UNet = copy.deepcopy(self.unet) if elsewhere else self.unet
            unet.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def predict(x: Tensor, timestep: Tensor, **condition: Tensor) -> Tensor:
            if progress is not None:
                progress(len(x))
            if rows is None:
                return unet(x.to(dtype), timestep, **condition)
            order = torch.arange(math.ceil(len(x) / rows) * rows, device=x.device) % len(x)
            parts = [
                unet(x[part].to(dtype), timestep[part], **{name: value[part] for name, value in condition.items()})
                for part in order.split(rows)
            ]
            return torch.cat(parts)[: len(x)]

        return NetworkDenoiser(predict, self.noise.schedule(), Prediction(self.noise.prediction_type))
