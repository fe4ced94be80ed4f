"""Guidance: how strongly the condition is followed, as a wrapper around a denoiser."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import per_sample


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """``unconditional + s (conditional - unconditional)``, of noise, images or scores alike. Eq. cfg-s.

    s = 0 ignores the condition, s = 1 is the conditional prediction, s > 1 exaggerates it. Ho and Salimans write
    ``(1 + w) conditional - w unconditional``, which is the same with s = 1 + w.

    Both predictions are ``(B, ...)``; s is a number or multiplies them.
    Source: Ho and Salimans 2022 (arXiv 2207.12598), equation 6; in this form Saharia et al. 2022 (arXiv 2205.11487).
    """
    return torch.lerp(unconditional, conditional, guidance_scale)


def rescale_guided(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Takes back the contrast that guidance adds: ``phi guided std(conditional) / std(guided) + (1 - phi) guided``.

    Eq. rescale: at phi = 1 each sample has the standard deviation, over all its elements, of its conditional
    prediction; at phi = 0 nothing changes. diffusers rescales whatever the network predicts, we x0_hat.

    Both are ``(B, ...)`` and not constant within a sample; the share is phi, 0 to 1.
    Source: Lin et al. 2024 (arXiv 2305.08891), section 3.4.
    """
    ratio = conditional.flatten(1).std(1) / guided.flatten(1).std(1)
    return guided * per_sample(torch.lerp(torch.ones_like(ratio), ratio, share), guided)


def guidance_at(noise_to_signal: Tensor, guidance_scale: float, interval: tuple[float, float]) -> Tensor:
    """The guidance scale inside the interval ``low < sigma / alpha <= high``, and 1 outside. Eq. interval.

    With much noise guidance costs variety, with little it changes nothing and costs time. Shapes: ``(B,)``.

    Source: Kynkäänniemi et al. 2024 (arXiv 2404.07724).
    """
    low, high = interval
    inside = (noise_to_signal > low) & (noise_to_signal <= high)
    return torch.where(inside, guidance_scale, torch.ones_like(noise_to_signal))


@dataclass(eq=False)
class GuidedDenoiser:
    """Classifier-free guidance: asks a denoiser with and without the condition, in one batch, and applies `guide`.

    Since x0_hat and the predicted noise are affine in each other at a given x, guiding either is the same. A scale
    of exactly 1 or 0 needs only one of the two answers and costs half; outside the interval it is 1.

    A negative prompt takes the place of the empty one: ``negative + s (conditional - negative)``. Eq. negative. What it
    asks for is led away from, and not forbidden: for two Gaussians of one variance, guidance draws from a third one,
    whose mean lies s times as far from the negative one's as the conditional one's does.

    Args:
        null_condition: by name, what is led away from: scalars or tensors ``(...)`` without the batch dimension, the
            same for all (the null class, the embedding of the empty or a negative prompt), or with it, one for each.
        rescale: phi of `rescale_guided`.
        interval: the noise levels of `guidance_at`.
    """

    denoise: Denoiser
    guidance_scale: float
    null_condition: dict[str, Tensor]
    rescale: float = field(default=0.0, kw_only=True)
    interval: tuple[float, float] = field(default=(0.0, math.inf), kw_only=True)

    def __post_init__(self) -> None:
        self.schedule = self.denoise.schedule

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        scale = guidance_at(self.schedule.noise_to_signal(t), self.guidance_scale, self.interval)
        if bool((scale == 1).all()):
            return self.denoise(x, t, **condition)
        null = {k: v.to(condition[k]).expand_as(condition[k]) for k, v in self.null_condition.items()}
        if self.rescale == 0 and bool((scale == 0).all()):
            return self.denoise(x, t, **condition | null)
        both = {k: torch.cat([(condition | null)[k], condition[k]]) for k in condition}
        unconditional, conditional = self.denoise(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        guided = guide(unconditional, conditional, per_sample(scale, x))
        return rescale_guided(guided, conditional, self.rescale) if self.rescale > 0 else guided


@dataclass(eq=False)
class AutoguidedDenoiser:
    """Autoguidance: leads away from a worse denoiser of the same images, by `guide` with its answer as the reference.

    Both err, the worse one more so and mostly in the same direction; what one differs from the other points back from
    there. It takes no condition, so it guides unconditional models, too.

    Args:
        denoise, worse: with the same schedule; they get the same x, t and condition.
        guidance_scale: s; outside the interval it is 1, which asks ``denoise`` alone.
        rescale: phi of `rescale_guided`.
        interval: the noise levels of `guidance_at`.

    Source: Karras et al. 2024 (arXiv 2406.02507), section 3.
    """

    denoise: Denoiser
    worse: Denoiser
    guidance_scale: float
    rescale: float = field(default=0.0, kw_only=True)
    interval: tuple[float, float] = field(default=(0.0, math.inf), kw_only=True)

    def __post_init__(self) -> None:
        self.schedule = self.denoise.schedule

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        scale = guidance_at(self.schedule.noise_to_signal(t), self.guidance_scale, self.interval)
        if self.rescale == 0 and bool((scale == 0).all()):
            return self.worse(x, t, **condition)
        good = self.denoise(x, t, **condition)
        if bool((scale == 1).all()):
            return good
        guided = guide(self.worse(x, t, **condition), good, per_sample(scale, x))
        return rescale_guided(guided, good, self.rescale) if self.rescale > 0 else guided
