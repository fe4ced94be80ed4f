"""Samplers: from noise at the first time of a list to an image at the last, by a denoiser.

Here are DDPM's and DDIM's, and the lists of times; the faster ones are in `solvers`. Each is a pure function of the
denoiser, the noise, a falling list of times that ends in 0, and a generator. The optional ``callback(step, t, x,
x0_hat)`` sees every intermediate.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser, noise_from_x0
from fromnoise.diffusion.process import (
    Generator,
    forward_jump,
    noise_like,
    per_sample,
    posterior_mean,
    posterior_variance,
)
from fromnoise.diffusion.schedules import NoiseSchedule, Schedule, karras_sigmas, shift

HIGHEST_LEVEL = 80.0
"""Where sampling times spaced by noise level start at most: above it ``sigma / alpha`` shows nothing of the image, and
on the cosine schedule, which reaches 20,000, it would take half of the steps."""

Callback = Callable[[int, float, Tensor, Tensor], None]


class Variance(StrEnum):
    """How much noise ancestral sampling puts back: the two ends of what is right on average, by diffusers' names."""

    SMALL = "fixed_small"
    """the posterior's, beta~: right if x_0 were certain"""
    LARGE = "fixed_large"
    """the forward step's, beta: right if x_0 ~ N(0, 1)"""


class Spacing(StrEnum):
    """Which N times are visited; the first three are whole, by diffusers' names."""

    LEADING = "leading"
    """every (T // N)-th from the clean end: the last time T is missed"""
    TRAILING = "trailing"
    """every (T / N)-th from the noisy end: starts at T"""
    LINSPACE = "linspace"
    """evenly from T to 1, both included"""
    KARRAS = "karras"
    """from T, or the noise level 80, to 1 at the noise levels of `karras_sigmas`, most of them low"""
    LOG_SNR = "log-snr"
    """from T, or the noise level 80, to 1 with equal factors between the noise levels"""


def sampling_times(schedule: Schedule | int, steps: int, spacing: Spacing, offset: int = 0) -> list[float]:
    """The falling list of ``steps`` times in [1, T], and 0 at its end: N + 1 numbers, N steps.

    Args:
        schedule: or its T alone, which is enough for whole times.
        steps: N, 1..T.
        offset: diffusers' ``steps_offset``, added to leading times as far as T allows.

    Raises:
        ValueError: steps outside 1..T, or T alone where the noise levels are needed.

    Source: Lin et al. 2024 (arXiv 2305.08891), table 2, for the whole times; Karras et al. 2022 (arXiv 2206.00364),
    equation 5; Lu et al. 2022 (arXiv 2206.00927) for log-snr.
    """
    num_timesteps = schedule if isinstance(schedule, int) else schedule.num_timesteps
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be between 1 and {num_timesteps}, not {steps}")
    i = torch.arange(steps, dtype=torch.float64)
    match spacing:
        case Spacing.LEADING:
            stride = num_timesteps // steps
            first = 1 + min(offset, num_timesteps - 1 - (steps - 1) * stride)
            times = i.flip(0) * stride + first
        case Spacing.TRAILING:
            times = (num_timesteps - i * num_timesteps / steps).round()
        case Spacing.LINSPACE:
            times = torch.linspace(num_timesteps - 1, 0, steps, dtype=torch.float64).round() + 1
        case Spacing.KARRAS | Spacing.LOG_SNR:
            if isinstance(schedule, int):
                raise ValueError(f"{spacing} spacing needs the schedule, not T alone")
            least, most = schedule.noise_to_signal(torch.tensor([1, num_timesteps], dtype=torch.float64)).tolist()
            most = min(most, HIGHEST_LEVEL)
            if spacing is Spacing.KARRAS:
                levels = karras_sigmas(steps, least, most)
            else:
                levels = torch.linspace(math.log(most), math.log(least), steps, dtype=torch.float64).exp()
            levels[-1], levels[0] = least, most  # not a rounding error off; a single step starts at the noisy end
            times = schedule.time(levels)
    return [*times.tolist(), 0.0]


def flow_times(steps: int, factor: float = 1.0) -> list[float]:
    """Times of `FlowSchedule` from 1 to 0, N + 1 numbers, evenly spaced and then shifted by the factor."""
    return [shift(1 - i / steps, factor) for i in range(steps + 1)]


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    variance: Variance = Variance.SMALL,
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """Ancestral sampling: guess x_0, then draw from the posterior as if the guess were right. Eq. ancestral.

    ``x_u = posterior_mean(x0_hat, x_t) + std z``, and no noise at the step that ends at 0.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Source: Ho et al. 2020 (arXiv 2006.11239), algorithm 2.
    """
    for step, (t, u, time_t, time_u) in enumerate(steps_between(times, x)):
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        x = posterior_mean(denoise.schedule, x0_hat, x, time_u, time_t)
        if u > 0:
            small = posterior_variance(denoise.schedule, time_u, time_t)
            large = forward_jump(denoise.schedule, time_u, time_t)[1].square()
            std = (small if variance is Variance.SMALL else large).sqrt()
            x = x + per_sample(std, x) * noise_like(x, generator)
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    eta: float = 0.0,
    callback: Callback | None = None,
    **condition: Tensor,
) -> Tensor:
    """DDIM: guess x_0 and the noise, and mix them again at the lower noise level. Eq. ddim.

    ``x_u = alpha(u) x0_hat + sqrt(sigma(u)^2 - std^2) noise_hat + std z`` with std of `ddim_std`: deterministic at
    eta = 0, ancestral sampling at eta = 1.

    Args:
        x: ``(B, ...)``, at time ``times[0]``.

    Returns:
        ``(B, ...)``, at time ``times[-1]``.

    Source: Song et al. 2021 (arXiv 2010.02502), equation 12.
    """
    schedule = denoise.schedule
    for step, (t, u, time_t, time_u) in enumerate(steps_between(times, x)):
        x0_hat = denoise(x, time_t, **condition)
        if callback is not None:
            callback(step, t, x, x0_hat)
        noise_hat = noise_from_x0(
            x, x0_hat, per_sample(schedule.alpha(time_t), x), per_sample(schedule.sigma(time_t), x)
        )
        std = ddim_std(schedule, time_u, time_t, eta)
        direction = (schedule.sigma(time_u).square() - std.square()).clamp(min=0).sqrt()
        x = per_sample(schedule.alpha(time_u), x) * x0_hat + per_sample(direction, x) * noise_hat
        if eta > 0 and u > 0:
            x = x + per_sample(std, x) * noise_like(x, generator)
    return x


def ddim_std(schedule: NoiseSchedule, u: Tensor, t: Tensor, eta: float) -> Tensor:
    """How much fresh noise a DDIM step from t to u adds, as a standard deviation ``(B,)``. Eq. ddim-eta.

    ``eta sigma(u) / sigma(t) sqrt(1 - alpha(t)^2 / alpha(u)^2)``: eta times the posterior's standard deviation.

    Source: Song et al. 2021 (arXiv 2010.02502), equation 16.
    """
    return eta * posterior_variance(schedule, u, t).sqrt()


def steps_between(times: Sequence[float], x: Tensor) -> list[tuple[float, float, Tensor, Tensor]]:
    """Each step's two times, the later first, as numbers and as tensors ``(B,)``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    full = [(t, torch.full((len(x),), t, dtype=dtype, device=x.device)) for t in times]
    return [(t, u, time_t, time_u) for (t, time_t), (u, time_u) in pairwise(full)]
