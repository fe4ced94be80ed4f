"""Samplers: from noise at the first time of a list to an image at the last, by asking a denoiser.

Every sampler is a generator function with the same signature, its own options aside::

    sampler(denoise, x, times, generator, *, option=..., **condition) -> Iterator[Moment]

x is ``(B, ...)``, at time ``times[0]``; the times fall; the conditions ``(B, ...)`` are handed to the denoiser. After
each step the sampler yields a `Moment`, N of them for N + 1 times. `final` runs it to the end. Here are DDPM's sampler,
DDIM's and the lists of times; `solvers` has samplers that need fewer steps.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser, noise_from_x0
from fromnoise.diffusion.process import Generator, forward_jump, noise_like, posterior_mean, posterior_variance
from fromnoise.diffusion.schedules import NoiseSchedule, Schedule, karras_sigmas, shift

HIGHEST_LEVEL = 80.0
"""Where sampling times spaced by noise level start at most: above it ``sigma / alpha`` shows nothing of the image, and
on the cosine schedule, which reaches 20,000, it would take half of the steps."""


class Moment(NamedTuple):
    """What a step ends with: x ``(B, ...)`` at time t, and what the denoiser said at the step's start, ``(B, ...)``."""

    t: float
    x: Tensor
    x0_hat: Tensor


def final(moments: Iterable[Moment]) -> Tensor:
    """The sample after the last step, ``(B, ...)``. Earlier moments are not kept.

    Raises:
        ValueError: no step was taken.
    """
    last = deque(moments, maxlen=1)
    if not last:
        raise ValueError("no step was taken: a list of times needs two of them")
    return last[0].x


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


def sampling_times(
    schedule: Schedule | int,
    steps: int,
    spacing: Spacing,
    offset: int = 0,
    ends: tuple[float, float] | None = None,
    *,
    rounded: bool = True,
    spare: int = 0,
) -> list[float]:
    """The falling list of ``steps`` times in [1, T], and 0 at its end: N + 1 numbers, N steps.

    Args:
        schedule: or its T alone, which is enough for whole times.
        steps: N, 1..T.
        offset: diffusers' ``steps_offset``, added to leading times as far as T allows.
        ends: the first and the last time where times are spaced by noise level; none: as `Spacing` says.
        rounded: linspace takes the nearest whole times; diffusers' Euler and Heun do not.
        spare: how many of the cleanest leading or linspace times are left out, of as many more, as far as T allows;
            1 in diffusers' DPM-Solver++.

    Raises:
        ValueError: steps outside 1..T, or T alone where the noise levels are needed.

    Source: Lin et al. 2024 (arXiv 2305.08891), table 2, for the whole times; Karras et al. 2022 (arXiv 2206.00364),
    equation 5; Lu et al. 2022 (arXiv 2206.00927) for log-snr.
    """
    num_timesteps = schedule if isinstance(schedule, int) else schedule.num_timesteps
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be between 1 and {num_timesteps}, not {steps}")
    i, count = torch.arange(steps, dtype=torch.float64), min(steps + spare, num_timesteps)
    match spacing:
        case Spacing.LEADING:
            stride = num_timesteps // count
            first = 1 + min(offset, num_timesteps - 1 - (count - 1) * stride)
            times = (count - 1 - i) * stride + first
        case Spacing.TRAILING:
            times = (num_timesteps - i * num_timesteps / steps).round()
        case Spacing.LINSPACE:
            index = torch.linspace(num_timesteps - 1, 0, count, dtype=torch.float64)[:steps]
            times = (index.round() if rounded else index) + 1
        case Spacing.KARRAS | Spacing.LOG_SNR:
            if isinstance(schedule, int):
                raise ValueError(f"{spacing} spacing needs the schedule, not T alone")
            first_and_last = torch.tensor(ends or (num_timesteps, 1), dtype=torch.float64)
            most, least = schedule.noise_to_signal(first_and_last).tolist()
            most = most if ends else min(most, HIGHEST_LEVEL)
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


class Time:
    """A time of a sampler's list, and the coordinates there, each ``(B, 1, ...)`` so that it multiplies x.

    They are float32 or wider; what a sampler computes with them is cast to x's dtype at the end of a step.

    Attributes:
        value: the time itself; batch: the same as a denoiser is told it, ``(B,)``.
        alpha, sigma: of ``x = alpha x_0 + sigma noise``; log_snr: ``log(alpha / sigma)``.
        scale, level: ``x / scale`` moves in a straight line, as fast as the level, while x0_hat stays. The schedule
            chooses them, and where alpha is 0 the level may be infinite.
    """

    def __init__(self, schedule: NoiseSchedule, value: float, x: Tensor):
        self.schedule, self.value = schedule, value
        self.batch = torch.full((len(x),), value, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        t = self.batch.view(-1, *[1] * (x.ndim - 1))
        self.alpha, self.sigma, self.log_snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)
        self.scale, self.level = schedule.scale_and_level(t)


def steps(schedule: NoiseSchedule, times: Sequence[float], x: Tensor) -> Iterator[tuple[Time, Time]]:
    """The two times of each step, the one it starts at first."""
    return pairwise(Time(schedule, t, x) for t in times)


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    variance: Variance = Variance.SMALL,
    **condition: Tensor,
) -> Iterator[Moment]:
    """Ancestral sampling: guess x_0, then draw from the posterior as if the guess were right (`ancestral_step`).

    Source: Ho et al. 2020 (arXiv 2006.11239), algorithm 2.
    """
    for t, u in steps(denoise.schedule, times, x):
        x0_hat = denoise(x, t.batch, **condition)
        x = ancestral_step(x, x0_hat, t, u, generator, variance)
        yield Moment(u.value, x, x0_hat)


def ancestral_step(
    x: Tensor, x0_hat: Tensor, t: Time, u: Time, generator: Generator, variance: Variance = Variance.SMALL
) -> Tensor:
    """x at time u, drawn from the posterior of x at time t and the guess x0_hat, ``(B, ...)``. Eq. ancestral.

    ``x_u = posterior_mean(x0_hat, x_t) + std z``, and no noise where u is 0.

    Source: Ho et al. 2020 (arXiv 2006.11239), algorithm 2.
    """
    mean = posterior_mean(t.schedule, x0_hat, x, u.batch, t.batch)
    small = posterior_variance(t.schedule, u.batch, t.batch).sqrt()
    large = forward_jump(t.schedule, u.batch, t.batch)[1]
    std = (small if variance is Variance.SMALL else large).view_as(u.sigma)
    return mean if u.value == 0 else (mean + std * noise_like(x, generator)).to(x)


def ddim(
    denoise: Denoiser, x: Tensor, times: Sequence[float], generator: Generator, *, eta: float = 0.0, **condition: Tensor
) -> Iterator[Moment]:
    """DDIM: guess x_0 and the noise, and mix them again at the lower noise level. Eq. ddim.

    ``x_u = alpha(u) x0_hat + sqrt(sigma(u)^2 - std^2) noise_hat + std z`` with std of `ddim_std`: deterministic at
    eta = 0, ancestral sampling at eta = 1.

    Source: Song et al. 2021 (arXiv 2010.02502), equation 12.
    """
    for t, u in steps(denoise.schedule, times, x):
        x0_hat = denoise(x, t.batch, **condition)
        noise_hat = noise_from_x0(x, x0_hat, t.alpha, t.sigma)
        std = ddim_std(denoise.schedule, u.batch, t.batch, eta).view_as(u.sigma)
        kept = (u.sigma.square() - std.square()).clamp(min=0).sqrt()
        z = noise_like(x, generator) if eta > 0 and u.value > 0 else 0
        x = (u.alpha * x0_hat + kept * noise_hat + std * z).to(x)
        yield Moment(u.value, x, x0_hat)


def ddim_std(schedule: NoiseSchedule, u: Tensor, t: Tensor, eta: float) -> Tensor:
    """How much fresh noise a DDIM step from t to u adds, as a standard deviation ``(B,)``. Eq. ddim-eta.

    ``eta sigma(u) / sigma(t) sqrt(1 - alpha(t)^2 / alpha(u)^2)``: eta times the posterior's standard deviation.

    Source: Song et al. 2021 (arXiv 2010.02502), equation 16.
    """
    return eta * posterior_variance(schedule, u, t).sqrt()
