"""Guidance: how strongly the condition is followed, as a wrapper around a denoiser."""

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """``unconditional + s (conditional - unconditional)``, of noise, images or scores alike. Eq. cfg-s.

    s = 0 ignores the condition, s = 1 is the conditional prediction, s > 1 exaggerates it. Ho and Salimans write
    ``(1 + w) conditional - w unconditional``, which is the same with s = 1 + w.

    Args:
        unconditional, conditional: ``(B, ...)``.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), equation 6; in this form Saharia et al. 2022 (arXiv 2205.11487).
    """
    return torch.lerp(unconditional, conditional, guidance_scale)


class GuidedDenoiser:
    """Classifier-free guidance: asks a denoiser with and without the condition, in one batch, and applies `guide`.

    Since x0_hat and the predicted noise are affine in each other at a given x, guiding either is the same. A scale
    of exactly 1 or 0 needs only one of the two answers and costs half.

    Args:
        null_condition: by name, what stands for no condition: scalars or tensors ``(...)`` without the batch
            dimension (the null class, the empty prompt's embedding).
    """

    def __init__(self, denoise: Denoiser, guidance_scale: float, null_condition: dict[str, Tensor]):
        self.denoise = denoise
        self.schedule = denoise.schedule
        self.guidance_scale = guidance_scale
        self.null_condition = null_condition

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if self.guidance_scale == 1:
            return self.denoise(x, t, **condition)
        null = {k: v.to(condition[k]).expand_as(condition[k]) for k, v in self.null_condition.items()}
        if self.guidance_scale == 0:
            return self.denoise(x, t, **condition | null)
        both = {k: torch.cat([(condition | null)[k], condition[k]]) for k in condition}
        unconditional, conditional = self.denoise(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        return guide(unconditional, conditional, self.guidance_scale)
