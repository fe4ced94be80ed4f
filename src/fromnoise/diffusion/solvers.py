"""Fast samplers: solvers of a differential equation that take long steps, with the signature of `samplers.ddim`.

Without fresh noise a sample moves along a curve from noise to image. Left at the scale of the image, ``x / alpha`` at
the noise level ``sigma / alpha``, its direction is the noise in it (`edm_ode`), and a sampler is a way to follow it. On
the path of `FlowSchedule` nothing need be rescaled: the direction is the flow's velocity and the level the time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import (
    Generator,
    forward_jump,
    noise_like,
    per_sample,
    posterior_mean,
    posterior_variance,
)
from fromnoise.diffusion.samplers import Callback, steps_between
from fromnoise.diffusion.schedules import NoiseSchedule


def euler(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """Euler's method: follow the direction at the start of each step to its end. Eq. euler.

    ``x + (sigma_u - sigma_t) (x - x0_hat) / sigma_t``, with x and sigma divided by alpha. It is `samplers.ddim` at
    eta = 0, up to rounding, and its error falls like 1/N.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Raises:
        ValueError: an infinite noise level at the start.

    Source: Karras et al. 2022 (arXiv 2206.00364), section 3.
    """
    schedule = denoise.schedule
    check_start(schedule, times[0])
    for step, (t, _, time_t, time_u) in enumerate(steps_between(times, x)):
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        x = move(schedule, x, edm_ode(schedule, x, x0_hat, time_t), time_t, time_u)
    return x


def heun(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    churn: float = 0.0,
    churn_levels: tuple[float, float] = (0.0, math.inf),
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """Heun's method: follow the mean of the directions at a step's start and at the end that Euler reaches. Eq. heun.

    Each step asks the denoiser twice, the one that ends at 0, where there is no direction, once. The error falls like
    1/N^2, if no step lowers the noise level by a large factor: the times should be spaced by noise level, as `karras`
    does. With ``churn`` each step first goes back up to more noise (`add_noise`), which makes it stochastic.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.
        churn: how much the noise level is raised in all steps together, 0 not at all; in one by 41 percent at most.
        churn_levels: the lowest and the highest noise level ``sigma / alpha`` that is raised.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Raises:
        ValueError: an infinite noise level at the start.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithms 1 and 2 (the latter's S_noise is 1 here).
    """
    schedule = denoise.schedule
    check_start(schedule, times[0])
    share = min(churn / (len(times) - 1), math.sqrt(2) - 1)
    for step, (t, u, time_t, time_u) in enumerate(steps_between(times, x)):
        level = float(schedule.noise_to_signal(torch.tensor(t)))
        if churn > 0 and churn_levels[0] <= level <= churn_levels[1] and t < schedule.end:
            x, time_t = add_noise(schedule, x, time_t, share, generator)
            t = float(time_t[0])
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        direction = edm_ode(schedule, x, x0_hat, time_t)
        if u > 0:
            end = move(schedule, x, direction, time_t, time_u)
            direction_there = edm_ode(schedule, end, denoise(end, time_u, **condition), time_u)
            direction = (direction + direction_there) / 2
        x = move(schedule, x, direction, time_t, time_u)
    return x


def dpmpp_2m(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """DPM-Solver++(2M): DDIM with the x0_hat that the last two promise for the middle of the step. Eq. dpmpp2m.

    ``sigma_u / sigma_t x - alpha_u (exp(-h) - 1) ((1 + 1/2r) x0_hat - 1/2r before)``, where h is the step in log-SNR
    and ``r = h_before / h``. The first step and the one that ends at 0 are DDIM's. The denoiser is asked once a step,
    and the error falls like 1/N^2.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.
    """
    schedule, before = denoise.schedule, None
    for step, (t, u, time_t, time_u) in enumerate(steps_between(times, x)):
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        h = schedule.log_snr(time_u) - schedule.log_snr(time_t)
        guess = x0_hat if before is None or u == 0 else extrapolate(x0_hat, *before, h)
        x = exponential_step(schedule, x, guess, time_t, time_u)
        before = x0_hat, h
    return x


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """DPM-Solver++(2M) with fresh noise: ancestral sampling with the x0_hat of `dpmpp_2m`.

    ``x_u = posterior_mean(x0_hat, x_t) + std z`` as `samplers.ddpm` has it, and no noise at the step that ends at 0.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Source: Lu et al. 2022 (arXiv 2211.01095), the SDE solver, as in k-diffusion and diffusers.
    """
    schedule, before = denoise.schedule, None
    for step, (t, u, time_t, time_u) in enumerate(steps_between(times, x)):
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        h = schedule.log_snr(time_u) - schedule.log_snr(time_t)
        guess = x0_hat if before is None or u == 0 else extrapolate(x0_hat, *before, h)
        x = posterior_mean(schedule, guess, x, time_u, time_t)
        if u > 0:
            std = posterior_variance(schedule, time_u, time_t).sqrt()
            x = x + per_sample(std, x) * noise_like(x, generator)
        before = x0_hat, h
    return x


def edm_ode(schedule: NoiseSchedule, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    """Where the curve of a sample leads: ``dx/dsigma = (x - x0_hat) / sigma`` at the scale of the image. Eq. edm-ode.

    It is the noise in x; on the path of `FlowSchedule`, noise minus image.

    Args:
        x, x0_hat: ``(B, ...)``; x is at time t and is divided by the scale here. t: ``(B,)``, above 0.

    Source: Karras et al. 2022 (arXiv 2206.00364), equations 1 and 3.
    """
    scale, level = (per_sample(value, x) for value in schedule.scale_and_level(t))
    return (x / scale - x0_hat) / level


def move(schedule: NoiseSchedule, x: Tensor, direction: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """x, at time t, straight along a direction of `edm_ode` to time u, ``(B, ...)``."""
    (scale_t, level_t), (scale_u, level_u) = schedule.scale_and_level(t), schedule.scale_and_level(u)
    scaled = x / per_sample(scale_t, x) + per_sample(level_u - level_t, x) * direction
    return per_sample(scale_u, x) * scaled


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


def exponential_step(schedule: NoiseSchedule, x: Tensor, x0_hat: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """x at time u, exactly, if x0_hat stays the same on the way from t. Eq. exp-int.

    The solution is ``sigma_u / sigma_t x + sigma_u int exp(lambda) x0_hat d lambda`` over the log-SNR lambda; for a
    constant x0_hat the integral gives ``alpha_u (1 - exp(-h)) x0_hat``, with h the step in lambda.

    Source: Lu et al. 2022 (arXiv 2211.01095), proposition 4.1.
    """
    gained = schedule.alpha(u) * -torch.expm1(schedule.log_snr(t) - schedule.log_snr(u))
    return per_sample(schedule.sigma(u) / schedule.sigma(t), x) * x + per_sample(gained, x) * x0_hat


def extrapolate(x0_hat: Tensor, before: Tensor, h_before: Tensor, h: Tensor) -> Tensor:
    """Where x0_hat will be in the middle of the coming step, drawn on along the line from the one before, ``(B, ...)``.

    ``(1 + 1/2r) x0_hat - 1/2r before`` with ``r = h_before / h``.

    Args:
        h_before, h: ``(B,)``, the last and the coming step in log-SNR.
    """
    half = per_sample(h / (2 * h_before), x0_hat)
    return (1 + half) * x0_hat - half * before
