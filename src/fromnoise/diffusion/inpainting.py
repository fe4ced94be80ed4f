"""Drawing from a picture instead of noise alone: image to image, and inpainting.

A picture ``z`` is what the network sees, ``(B, C, H, W)``: the latents of a picture, or the picture itself. A mask is
``(B, 1, H, W)``, or of the shape of z. It is 1 where the picture is painted anew and 0 where it is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import forward_marginal, per_sample
from fromnoise.diffusion.schedules import NoiseSchedule


def cut_times(times: Sequence[float], strength: float) -> list[float]:
    """The last ``int(N strength)`` of the N steps of a list of times, as diffusers' pipelines take them.

    Args:
        times: N + 1 falling times.
        strength: how much of the way from noise to image is walked again, 0 to 1.

    Returns:
        as many times as steps, and one more. At a strength of less than 1/N there is no step: the list is ``[0.0]``.
    """
    steps = len(times) - 1
    kept = min(int(steps * strength), steps)
    return list(times[steps - kept :]) if kept else [0.0]


def start_from(schedule: NoiseSchedule, z: Tensor, t: float, noise: Tensor) -> Tensor:
    """Where image to image starts: the picture at time t, ``alpha(t) z + sigma(t) noise``. Eq. img2img.

    At t = 0 it is the picture, bit for bit. At the noisiest time ``alpha(T) z`` is left of it, which is not nothing:
    Stable Diffusion's ``alpha(T)`` is 0.068. If the data are ``N(mean, std^2)``, a sampler without fresh noise ends in
    ``mean + k (z - mean) + k r noise``, where ``r = sigma / alpha`` and ``k = std / sqrt(std^2 + r^2)``.

    Shapes: z, noise and result ``(B, ...)``.
    Source: Meng et al. 2022 (arXiv 2108.01073), section 3.
    """
    return forward_marginal(schedule, z, torch.full((len(z),), t, dtype=torch.float64), noise)


def put_back(known: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """``(1 - m) known + m x``: x where the mask is 1, what is known where it is 0, bit for bit."""
    return (1 - mask) * known + mask * x


@dataclass(eq=False)
class InpaintingDenoiser:
    """A denoiser that knows a part of the picture: ``x0_hat <- (1 - m) known + m x0_hat``. Eq. inpaint.

    With this x0_hat every sampler ends with the known part itself, up to rounding, if its last time is 0.

    Below the first time, the denoiser inside is shown the known part as the forward process makes it of the picture
    and the noise of the start. In a sampler without fresh noise that begins with `start_from`, x is that already. For
    all others it is what diffusers' pipeline does, which writes it into x after each step: at strength 1 it begins
    with noise alone, from which x would keep an offset.

    This is not a draw from the conditional distribution. At high noise the denoiser sees the known part as noisy as
    the rest, and what it then decides for the rest is not revised by later, clearer steps: the two parts fit together
    less well than they should. RePaint adds noise again and repeats steps for that reason.

    Args:
        known: the picture, ``(B, ...)``; what it has where the mask is 1 does not matter if it is finite.
        mask: 0 and 1, as x or so that it multiplies x.
        noise: that of the start, ``(B, ...)``.
        start: the first of the sampler's times. There x is left as it is.

    Source: Lugmayr et al. 2022 (arXiv 2201.09865), section 4.
    """

    denoise: Denoiser
    known: Tensor
    mask: Tensor
    noise: Tensor
    start: float

    def __post_init__(self) -> None:
        self.schedule = self.denoise.schedule

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        kept = torch.maximum(self.mask, per_sample(t >= self.start, x))  # as the mask, and 1 everywhere at the start
        shown = put_back(forward_marginal(self.schedule, self.known, t, self.noise), x, kept)  # (B, ...)
        return put_back(self.known, self.denoise(shown, t, **condition), self.mask)  # (B, ...)


def binarised(mask: Tensor) -> Tensor:
    """1 where a mask of 0 to 1 is at least one half, which is repainted, and 0 elsewhere."""
    return (mask >= 0.5).to(mask)


def mask_to_latents(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask ``(B, 1, H, W)`` at the size of the latents: each takes the value of the nearest pixel, as in diffusers.

    That is the pixel in the upper left corner of the square that a latent stands for.
    """
    return F.interpolate(mask, size=size, mode="nearest")


def joined(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network that was trained to inpaint, told its mask and masked picture by name, as it is told a text.

    It sees ``(x, mask, masked)`` joined in this order along the channels: 4 + 1 + 4 in Stable Diffusion. The masked
    picture is the latents of a picture whose repainted pixels are 0, which is grey. No noise is added to it.
    """

    def told(x: Tensor, timestep: Tensor, *, mask: Tensor, masked: Tensor, **condition: Tensor) -> Tensor:
        return network(torch.cat([x, mask.to(x), masked.to(x)], dim=1), timestep, **condition)  # (B, C, H, W)

    return told
