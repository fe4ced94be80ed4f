"""Samplers that need few steps: solvers of a differential equation, with the signature described in `samplers`.

Without fresh noise a sample moves along a curve from noise to image. At the scale of the image, where it is
``x / alpha`` at the noise level ``sigma / alpha``, the curve's direction is the noise in the sample (`edm_ode`), and a
sampler is a way to follow the curve. On the path of `FlowSchedule` nothing is rescaled: the direction is the flow's
velocity and the level is the time. `samplers.Time` has the scale and the level.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import Generator, forward_jump, noise_like, per_sample
from fromnoise.diffusion.samplers import Moment, Time, ancestral_step, steps
from fromnoise.diffusion.schedules import NoiseSchedule


def euler(
    denoise: Denoiser, x: Tensor, times: Sequence[float], generator: Generator, **condition: Tensor
) -> Iterator[Moment]:
    """Euler's method: follow the direction at the start of each step to its end. Eq. euler.

    ``y + (level_u - level_t) (y - x0_hat) / level_t`` for ``y = x / scale``. It is `samplers.ddim` at eta = 0, up to
    rounding, and its error falls like 1/N.

    Raises:
        ValueError: an infinite noise level at the start.

    Source: Karras et al. 2022 (arXiv 2206.00364), section 3.
    """
    check_start(denoise.schedule, times[0])
    for t, u in steps(denoise.schedule, times, x):
        x0_hat = denoise(x, t.batch, **condition)
        y = x / t.scale
        y = y + (u.level - t.level) * edm_ode(y, x0_hat, t.level)
        x = (u.scale * y).to(x)
        yield Moment(u.value, x, x0_hat)


def heun(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    churn: float = 0.0,
    churn_levels: tuple[float, float] = (0.0, math.inf),
    **condition: Tensor,
) -> Iterator[Moment]:
    """Heun's method: follow the mean of the directions at a step's start and at the end that Euler reaches. Eq. heun.

    Each step asks the denoiser twice; the one that ends at 0, where there is no direction, asks once. The error falls
    like 1/N^2, if no step lowers the noise level by a large factor: the times should be spaced by noise level, as
    `karras` does. With ``churn`` each step first goes back up to more noise (`add_noise`), which makes it stochastic.

    Args:
        churn: by how much the noise level is raised in all steps together. 0 does not raise it; no step raises it by
            more than 41 percent.
        churn_levels: the lowest and the highest noise level ``sigma / alpha`` that is raised.

    Raises:
        ValueError: an infinite noise level at the start.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithms 1 and 2 (the latter's S_noise is 1 here).
    """
    schedule, (low, high) = denoise.schedule, churn_levels
    check_start(schedule, times[0])
    share = min(churn / (len(times) - 1), math.sqrt(2) - 1)
    for t, u in steps(schedule, times, x):
        if churn > 0 and t.value < schedule.end and low <= float(schedule.noise_to_signal(t.batch[0])) <= high:
            x, raised = add_noise(schedule, x, t.batch, share, generator)
            t = Time(schedule, float(raised[0]), x)
        x0_hat = denoise(x, t.batch, **condition)
        y = x / t.scale
        direction = edm_ode(y, x0_hat, t.level)
        if u.value > 0:
            end = y + (u.level - t.level) * direction
            x0_hat_there = denoise((u.scale * end).to(x), u.batch, **condition)
            direction = (direction + edm_ode(end, x0_hat_there, u.level)) / 2
        x = (u.scale * (y + (u.level - t.level) * direction)).to(x)
        yield Moment(u.value, x, x0_hat)


def dpmpp_2m(
    denoise: Denoiser, x: Tensor, times: Sequence[float], generator: Generator, **condition: Tensor
) -> Iterator[Moment]:
    """DPM-Solver++(2M): DDIM with the x0_hat that the last two promise for the middle of the step. Eq. dpmpp2m.

    ``sigma_u / sigma_t x - alpha_u (exp(-h) - 1) (x0_hat + h / (2 h_before) (x0_hat - before))``, where h is the step
    in log-SNR. The first step and the one that ends at 0 are DDIM's. The denoiser is asked once a step, and the error
    falls like 1/N^2.

    Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.
    """
    before: tuple[Tensor, Tensor] | None = None
    for t, u in steps(denoise.schedule, times, x):
        x0_hat = denoise(x, t.batch, **condition)
        h = u.log_snr - t.log_snr
        ahead = x0_hat if before is None or u.value == 0 else extrapolate(x0_hat, *before, h)
        x, before = exponential_step(x, ahead, t, u).to(x), (x0_hat, h)
        yield Moment(u.value, x, x0_hat)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Tensor, times: Sequence[float], generator: Generator, **condition: Tensor
) -> Iterator[Moment]:
    """DPM-Solver++(2M) with fresh noise: ancestral sampling, `samplers.ddpm`, with the x0_hat of `dpmpp_2m`.

    ``sigma_u / sigma_t exp(-h) x + alpha_u (1 - exp(-2h)) ahead + sigma_u sqrt(1 - exp(-2h)) z``, where h is the step
    in log-SNR and ``ahead`` is x0_hat in the middle of the step, by `extrapolate`. Eq. dpmpp2m-sde. The first step and
    the one that ends at 0 are those of `samplers.ddpm`. The error of the result's variance falls like 1/N^2.

    Source: Lu et al. 2022 (arXiv 2211.01095), section 5 and appendix B, as in k-diffusion and diffusers.
    """
    before: tuple[Tensor, Tensor] | None = None
    for t, u in steps(denoise.schedule, times, x):
        x0_hat = denoise(x, t.batch, **condition)
        h = u.log_snr - t.log_snr
        ahead = x0_hat if before is None or u.value == 0 else extrapolate(x0_hat, *before, h)
        x, before = ancestral_step(x, ahead.to(x), t, u, generator), (x0_hat, h)
        yield Moment(u.value, x, x0_hat)


def edm_ode(y: Tensor, x0_hat: Tensor, level: Tensor) -> Tensor:
    """Where the curve of a sample leads: ``dy/dlevel = (y - x0_hat) / level``, for ``y = x / scale``. Eq. edm-ode.

    It is the noise in x; on the path of `FlowSchedule` it is the noise minus the image.

    Args:
        y, x0_hat: ``(B, ...)``.
        level: above 0, shaped to multiply y.

    Source: Karras et al. 2022 (arXiv 2206.00364), equations 1 and 3.
    """
    return (y - x0_hat) / level


def check_start(schedule: NoiseSchedule, t: float) -> None:
    """Refuses a first time at which nothing is left of the image, and x cannot be brought to its scale."""
    if not bool(schedule.scale_and_level(torch.tensor(t, dtype=torch.float64))[1].isfinite()):
        raise ValueError(f"sigma / alpha is infinite at time {t:g}: start later, or take ddim or dpmpp_2m")


def add_noise(
    schedule: NoiseSchedule, x: Tensor, t: Tensor, share: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Raises the noise level ``sigma / alpha`` of x by a share of itself, as far as the schedule goes. Eq. churn.

    ``x + sqrt(raised^2 - sigma^2) z`` at the scale of the image: a jump of the forward process.

    Returns:
        x ``(B, ...)`` and its new time ``(B,)``.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 2.
    """
    most = schedule.noise_to_signal(torch.full_like(t, schedule.end))
    raised = schedule.time(torch.minimum((1 + share) * schedule.noise_to_signal(t), most))
    alpha_jump, sigma_jump = forward_jump(schedule, t, raised)
    return per_sample(alpha_jump, x) * x + per_sample(sigma_jump, x) * noise_like(x, generator), raised


def exponential_step(x: Tensor, x0_hat: Tensor, t: Time, u: Time) -> Tensor:
    """x at time u, exactly, if x0_hat stays the same on the way from t, ``(B, ...)``. Eq. exp-int.

    The solution is ``sigma_u / sigma_t x + sigma_u int exp(lambda) x0_hat d lambda`` over the log-SNR lambda. For a
    constant x0_hat the second term is ``alpha_u (1 - exp(-h)) x0_hat``, where h is the step in lambda.

    Source: Lu et al. 2022 (arXiv 2211.01095), proposition 4.1.
    """
    return u.sigma / t.sigma * x - u.alpha * torch.expm1(t.log_snr - u.log_snr) * x0_hat


def extrapolate(x0_hat: Tensor, before: Tensor, h_before: Tensor, h: Tensor) -> Tensor:
    """Where x0_hat will be in the middle of the coming step, on a line through it and the one before, ``(B, ...)``.

    ``x0_hat + h / (2 h_before) (x0_hat - before)``.

    Args:
        h_before, h: the last and the coming step in log-SNR, shaped to multiply x0_hat.
    """
    return x0_hat + h / (2 * h_before) * (x0_hat - before)
