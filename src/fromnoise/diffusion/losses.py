"""The training objective: a weighted squared error, and the weights.

A weight is defined for an error in the image; `error_scale` carries it to whatever the network predicts, so that
each weight gives the same loss for each parameterisation.
"""

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from fromnoise.diffusion.likelihood import discretized_gaussian_log_likelihood, isotropic_kl
from fromnoise.diffusion.parameterization import Prediction, error_scale, to_x0, training_target
from fromnoise.diffusion.process import (
    forward_marginal,
    learned_variance,
    per_sample,
    posterior_coefficients,
    posterior_variance,
)
from fromnoise.diffusion.schedules import NoiseSchedule, Schedule, discrete


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
    law's density: most in the middle, where it is decided what an image shows, and next to nothing at either end. In
    the paper t is flow matching's time, whose logit is ``log(sigma / alpha)``: there the law is one of noise levels.
    With another schedule t / T has another meaning, and the same numbers give other noise levels.

    Args:
        quantile: in [0, 1], float32 or wider.
        mean, std: of the logit. The default is densest at about 0.7.

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

    The simple loss is its average over images, times 1..T and noise, for the noise as the target. `loss_weight` makes
    the same loss of an error in another target. Its least possible value is not 0: on data of variance s^2 the best
    prediction of the noise still leaves ``alpha^2 s^2 / (alpha^2 s^2 + sigma^2)``.

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


def monotone_bound(weight: Tensor, terms: Tensor) -> Tensor:
    """A weighted bound as bounds for noisier data, averaged: ``sum_u (w_{u+1} - w_u) sum_{t>u} L_{t-1}``, ``(B,)``.

    Eq. monotone-elbo: it equals ``sum_t w_t L_{t-1}``, t = 2..T, with w_1 = 0. The inner sum is what the bound costs
    for data that was made noisy up to time u, up to a constant without a network; each counts ``w_{u+1} - w_u``.

    Args:
        weight: ``(T - 1,)``, w_2 to w_T: how many times the bound's own factor each term counts.
        terms: ``(B, T - 1)``, L_1 to L_{T-1}, in nats.

    Raises:
        ValueError: a weight that falls as noise is added, which is no average of bounds.

    Source: Kingma and Gao 2023 (arXiv 2303.00848), section 3.
    """
    share = weight.diff(prepend=torch.zeros_like(weight[:1]))  # (T - 1,)
    if bool((share < 0).any()):
        raise ValueError("the weight falls as noise is added; only one that never falls is an average of bounds")
    bounds = terms.flip(1).cumsum(1).flip(1)  # (B, T - 1), of data noisy up to u = 1..T-1
    return (share * bounds).sum(1)  # (B,)


def learned_vlb_term(
    schedule: Schedule, x0: Tensor, t: Tensor, x0_hat: Tensor, v: Tensor, *, discretized: bool = True
) -> Tensor:
    """The bound's term for time t of a model that also chooses its variance, in nats per element, ``(B,)``.

    L_{t-1} for t > 1 and L_0 for t = 1, divided by D. The variance is `learned_variance` between beta and beta~; at
    t = 1, where beta~ is 0, its lower end is beta~_2, as in the released code of the paper.

    Args:
        x0, x0_hat, v: ``(B, ...)``; v in [0, 1], for each element.
        t: ``(B,)``, whole times 1..T.
        discretized: L_0 is the cost of a grey level; if not, of a point by the density.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), section 3.1.
    """
    later = t.clamp(min=2)
    lower = per_sample(posterior_variance(schedule, later - 1, later), x0)  # (B, 1, ...)
    upper = per_sample(discrete(schedule).betas.to(t.device)[t.long() - 1], x0)  # (B, 1, ...)
    variance = learned_variance(v, upper, lower)  # (B, ...)
    share = per_sample(posterior_coefficients(schedule, t - 1, t)[0], x0)
    squared_distance = (share * (x0 - x0_hat)).square()  # of the two means, (B, ...)
    first = per_sample(t, x0) == 1
    mean = torch.where(first, x0_hat, x0)  # elsewhere L_0 is not asked for, and stays finite
    if discretized:
        last_step = -discretized_gaussian_log_likelihood(x0, mean, variance.sqrt())
    else:
        last_step = 0.5 * (squared_distance / variance + (2 * torch.pi * variance).log())
    return torch.where(first, last_step, isotropic_kl(squared_distance, 1, lower, variance)).flatten(1).mean(1)


def hybrid_loss(
    schedule: Schedule,
    prediction: Prediction,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    output: Tensor,
    v: Tensor,
    *,
    share: float = 0.001,
    discretized: bool = True,
) -> Tensor:
    """The simple loss, and a little of the bound for the variance's sake: ``L_simple + 0.001 L_vlb``. Eq. hybrid.

    ``(B,)``, a sample at one time each: L_vlb is T times the bound's term there, in nats per element (the released code
    counts bits). In it the mean is a constant: the network's output has its gradient from the simple loss alone, and
    the variance from the bound alone.

    Args:
        x0, noise: ``(B, ...)``; t: ``(B,)``, whole times 1..T.
        output: what the network predicts of x_t, of x0's shape; v: where in [0, 1] its variance lies, of x0's shape.
        share: of the bound, 0.001 in the paper.
        discretized: as in `learned_vlb_term`.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 16.
    """
    alpha, sigma = per_sample(schedule.alpha(t), x0), per_sample(schedule.sigma(t), x0)
    target = training_target(prediction, x0, noise, alpha, sigma)
    simple = loss_weight(Weighting.SIMPLE, prediction, schedule, t) * squared_error(output, target)
    x_t = forward_marginal(schedule, x0, t, noise)
    x0_hat = to_x0(prediction, output.detach(), x_t, alpha, sigma)
    vlb = schedule.num_timesteps * learned_vlb_term(schedule, x0, t, x0_hat, v, discretized=discretized)
    return simple + share * vlb
