"""The training objective: a weighted squared error, and the weights.

A weight is defined for an error in the image; `error_scale` carries it to whatever the network predicts, so that
each weight gives the same loss for each parameterisation.
"""

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Prediction, error_scale, training_target
from fromnoise.diffusion.process import forward_marginal, per_sample
from fromnoise.diffusion.schedules import NoiseSchedule, discrete


class Weighting(StrEnum):
    """Which noise levels count how much."""

    SIMPLE = "simple"
    """error in the noise, every time alike: DDPM's simple loss"""
    OUTPUT = "output"
    """error in whatever the network predicts, every time alike (for noise prediction the same as simple)"""
    VLB = "vlb"
    """the variational bound, up to its constants"""
    MIN_SNR = "min-snr"
    """error in the image, times the signal-to-noise ratio capped at gamma"""


def loss_weight(
    weighting: Weighting, prediction: Prediction, schedule: NoiseSchedule, t: Tensor, *, gamma: float = 5.0
) -> Tensor:
    """The factor of the squared error in a network's output at time t, ``(B,)``.

    Args:
        t: ``(B,)``, whole times 1..T.
        gamma: the cap of min-SNR.
    """
    snr = schedule.snr(t)
    scale = error_scale(prediction, snr)
    match weighting:
        case Weighting.SIMPLE:
            return snr / scale
        case Weighting.OUTPUT:
            return torch.ones_like(snr)
        case Weighting.VLB:
            return vlb_weight(schedule, t) / scale
        case Weighting.MIN_SNR:
            return min_snr_weight(snr, gamma) / scale


def min_snr_weight(snr: Tensor, gamma: float) -> Tensor:
    """``min(SNR, gamma)`` for an error in the image, ``(B,)``. Eq. min-snr.

    Divided by `error_scale` it is ``min(SNR, gamma) / SNR`` for noise and ``min(SNR, gamma) / (SNR + 1)`` for v.

    Source: Hang et al. 2023 (arXiv 2303.09556), section 3.4.
    """
    return snr.clamp(max=gamma)


def vlb_weight(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """``(SNR(t-1) - SNR(t)) / 2``, the factor of ``|x_0 - x0_hat|^2`` in the bound's term for time t. Eq. vlb-x0.

    At t = 1, where SNR(0) is infinite, the term is the likelihood of x_0 under ``N(x0_hat, beta_1)``, and the factor
    ``1 / (2 beta_1)``.

    Args:
        t: ``(B,)``, whole times 1..T.

    Raises:
        ValueError: a schedule without betas.

    Source: Kingma et al. 2021 (arXiv 2107.00630), equation 13.
    """
    first = 0.5 / float(discrete(schedule).betas[0])
    weight = 0.5 * (schedule.snr((t - 1).clamp(min=1)) - schedule.snr(t))
    return torch.where(t > 1, weight, torch.full_like(weight, first))


def logit_normal_time(quantile: Tensor, mean: float = 0.6, std: float = 0.8) -> Tensor:
    """The time as a fraction of T, below which a logit-normal law has ``quantile``, of its shape. Eq. logit-normal.

    Its logit ``log(t / (1 - t))`` is normal. Training at times drawn so, instead of uniformly, weighs the loss by the
    law's density: most in the middle, where it is decided what an image shows, and next to nothing at either end.

    Args:
        quantile: in [0, 1], float32 or wider.
        mean, std: of the logit. The default is densest at about two thirds.

    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1.
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(quantile))


def edm_weight(sigma: Tensor, data_std: float) -> Tensor:
    """``(sigma^2 + s^2) / (sigma s)^2`` for an error in the image, of sigma's shape; s = data_std. Eq. edm-weight.

    It is ``1 / c_out^2``: an error of the preconditioned network (`EDMDenoiser`) weighs 1 at each noise level.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """
    return (sigma.square() + data_std**2) / (sigma * data_std).square()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a sample's elements of the squared error, ``(B, ...)`` to ``(B,)``, in float32 or wider. Eq. l-simple.

    Its least possible value is not 0: on data of variance s^2 the best prediction of the noise still leaves
    ``alpha^2 s^2 / (alpha^2 s^2 + sigma^2)``.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 14 (there a sum: D times this).
    """
    high = torch.promote_types(output.dtype, torch.float32)
    return (output.to(high) - target.to(high)).square().flatten(1).mean(1)


def training_loss(
    network: Callable[..., Tensor],
    schedule: NoiseSchedule,
    prediction: Prediction,
    weighting: Weighting,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    gamma: float = 5.0,
    **condition: Tensor,
) -> Tensor:
    """The loss of each sample, ``(B,)``: make it noisy, let the network predict, weigh the squared error. Eq. ldm-loss.

    Of scaled latents and with a text as the condition it is latent diffusion's loss; of images it is DDPM's.

    Args:
        network: called as ``network(x_t, schedule.network_time(t), **condition)``, with t - 1 for a `Schedule`.
        x0, noise: ``(B, ...)``, images or latents; t: ``(B,)``, of a `Schedule` whole times 1..T.

    Source: Rombach et al. 2022 (arXiv 2112.10752), equations 2 and 3.
    """
    x_t = forward_marginal(schedule, x0, t, noise)
    output = network(x_t, schedule.network_time(t), **condition)
    alpha, sigma = per_sample(schedule.alpha(t), x0), per_sample(schedule.sigma(t), x0)
    target = training_target(prediction, x0, noise, alpha, sigma)
    return loss_weight(weighting, prediction, schedule, t, gamma=gamma) * squared_error(output, target)
