"""How much signal and how much noise there is at each time.

Time runs from t = 0 (the clean image) to the end (almost pure noise, or nothing but noise), and at each time
``x_t = alpha(t) x_0 + sigma(t) noise``. A `Schedule` is fixed by its betas and has ``alpha^2 + sigma^2 = 1``; the path
of flow matching, `FlowSchedule`, is a straight line.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


class NoiseSchedule(ABC):
    """The coefficients ``alpha(t)`` and ``sigma(t)`` at any time in [0, end].

    Times and noise levels are tensors of any shape, floating point; results have their shape, dtype and device.

    Attributes:
        end: the noisiest time.
    """

    end: float

    @abstractmethod
    def noise_to_signal(self, t: Tensor) -> Tensor:
        """The noise level ``sigma(t) / alpha(t)``: how much noise there is when the image is left at scale 1."""

    @abstractmethod
    def time(self, noise_to_signal: Tensor) -> Tensor:
        """The time at which the noise level is this: the inverse of `noise_to_signal`."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of the image in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of the noise in x_t."""

    @abstractmethod
    def scale_and_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The scale by which x is divided to move in a straight line while x0_hat stays, and how far along it is.

        ``(x / scale - x0_hat) / level`` is the direction; the level is 0 at t = 0.
        """

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """What a network is told of the time."""

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``alpha^2 / sigma^2``, infinite at t = 0, falling with t. Eq. snr.

        Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1.
        """
        return self.noise_to_signal(t).pow(-2)

    def log_snr(self, t: Tensor) -> Tensor:
        """``log(alpha / sigma)``, half the logarithm of the signal-to-noise ratio (the lambda of DPM-Solver)."""
        return -self.noise_to_signal(t).log()

    def check_range(self, t: Tensor) -> None:
        """Refuses a time outside [0, end] with a ValueError (on the CPU, where looking is free)."""
        if t.device.type == "cpu" and not bool(((t >= 0) & (t <= self.end)).all()):
            raise ValueError(f"times must lie in [0, {self.end:g}]")


class Schedule(NoiseSchedule):
    """A discrete diffusion process, at any time in [0, T]. Its tables are computed once, in float64.

    Args:
        betas: ``(T,)``, each in (0, 1): ``betas[t - 1]`` is the variance that step t adds. The last may be 1; see
            `zero_terminal_snr`.

    Attributes:
        betas: ``(T,)`` float64.
        alpha_bar: ``(T + 1,)`` float64, the products of ``1 - beta`` up to each time, with ``alpha_bar[0] = 1``. A
            paper's ``alpha_bar`` is ``alpha(t)`` squared.
    """

    def __init__(self, betas: Tensor):
        betas = betas.detach().to("cpu", torch.float64)
        if (
            betas.ndim != 1
            or not len(betas)
            or not bool((betas > 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1)
        ):
            raise ValueError("betas must be a vector of numbers strictly between 0 and 1; only the last may be 1")
        self.betas, self.end = betas, float(len(betas))
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.betas)

    @cached_property
    def _noise_to_signal(self) -> Tensor:
        """``sigma / alpha`` at t = 0..T, ``(T + 1,)``: the noise level when the image is left at scale 1."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def _table(self, like: Tensor) -> Tensor:
        """The noise levels in the dtype and on the device of a tensor, where they stay: a GPU waits for each copy."""
        key = (like.dtype, like.device)
        if key not in self._tables:
            self._tables[key] = self._noise_to_signal.to(dtype=like.dtype).to(like.device)
        return self._tables[key]

    def noise_to_signal(self, t: Tensor) -> Tensor:
        """``sigma(t) / alpha(t)``; between two whole times it is interpolated linearly, as diffusers does.

        Args:
            t: any shape, floating point, in [0, T].

        Returns:
            The same shape, dtype and device as ``t``.

        Raises:
            ValueError: a time outside [0, T] (checked on the CPU, where looking is free).
        """
        self.check_range(t)
        table = self._table(t)
        below = t.floor()
        low, high = table[below.long()], table[(below.long() + 1).clamp(max=self.num_timesteps)]
        return torch.where(t == below, low, low + (t - below) * (high - low))

    def time(self, noise_to_signal: Tensor) -> Tensor:
        """The time at which ``sigma / alpha`` is this: the inverse of `noise_to_signal`, and as linear between times.

        Args:
            noise_to_signal: any shape, from 0 to that of time T.

        Returns:
            The same shape, dtype and device, in [0, T]. If the level of T is infinite, T - 1 for all between.

        Raises:
            ValueError: a noise level outside that range (checked on the CPU).
        """
        table = self._table(noise_to_signal)
        if table.device.type == "cpu" and not bool(((noise_to_signal >= 0) & (noise_to_signal <= table[-1])).all()):
            raise ValueError(f"noise levels must lie in [0, {table[-1]:g}]")
        above = torch.searchsorted(table, noise_to_signal.contiguous()).clamp(min=1)
        low, high = table[above - 1], table[above]
        between = above - 1 + (noise_to_signal - low) / (high - low)
        return torch.where(noise_to_signal == high, above.to(between.dtype), between)

    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of the image in x_t: ``(B,)`` in, ``(B,)`` out, in [0, 1], above 0 unless beta_T is 1."""
        return torch.rsqrt(1 + self.noise_to_signal(t).square())

    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of the noise in x_t: ``(B,)`` in, ``(B,)`` out, in [0, 1], below 1 unless beta_T is 1."""
        return torch.rsqrt(1 + self.snr(t))

    def scale_and_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Divided by alpha, x moves in a straight line, as fast as the noise level ``sigma / alpha``."""
        return self.alpha(t), self.noise_to_signal(t)

    def network_time(self, t: Tensor) -> Tensor:
        """The index t - 1, 0 to T - 1 at whole times."""
        return t - 1

    def respaced(self, timesteps: list[int]) -> "Schedule":
        """The schedule that visits only ``timesteps`` and has the same marginals there. Eq. respace.

        ``beta'_i = 1 - alpha_bar[tau_i] / alpha_bar[tau_(i-1)]`` with ``tau_0 = 0``.

        Args:
            timesteps: rising whole times in 1..T.

        Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), section 4.
        """
        if not timesteps or any(late <= early for early, late in pairwise([0, *timesteps])):
            raise ValueError("timesteps must rise, starting at 1 or later")
        alpha_bar = self.alpha_bar[[0, *timesteps]]
        return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def discrete(schedule: NoiseSchedule) -> Schedule:
    """The schedule, if it has whole steps and betas, as the variational bound needs; a ValueError if not."""
    if not isinstance(schedule, Schedule):
        raise ValueError(f"the variational bound is a sum over whole steps, and {type(schedule).__name__} has none")
    return schedule


class FlowSchedule(NoiseSchedule):
    """The path of flow matching, a straight line: ``x_t = (1 - t) x_0 + t noise``, t from 0 to 1. Eq. interp.

    Liu et al. count time the other way, from noise at 0 to the image at 1.

    Source: Liu et al. 2023 (arXiv 2209.03003), equation 1.
    """

    end = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        self.check_range(t)
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        self.check_range(t)
        return t

    def noise_to_signal(self, t: Tensor) -> Tensor:
        return self.sigma(t) / self.alpha(t)

    def time(self, noise_to_signal: Tensor) -> Tensor:
        return 1 / (1 + 1 / noise_to_signal)

    def scale_and_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma(t)

    def network_time(self, t: Tensor) -> Tensor:
        """1000 t, as Stable Diffusion 3's network is told."""
        return 1000 * t


def shift(t: Number, factor: float) -> Number:
    """A time of `FlowSchedule` moved towards noise, so that the noise level t / (1 - t) is factor times as high.

    Eq. shift: ``k t / (1 + (k - 1) t)``. Large images show more at the same noise level, and need more noise.

    Args:
        t: in [0, 1]; factor: k, above 0; 1 changes nothing.

    Source: Esser et al. 2024 (arXiv 2403.03206), section 5.3.2.
    """
    return factor * t / (1 + (factor - 1) * t)


def linear_betas(num_timesteps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """DDPM's schedule: betas in equal steps, ``(T,)`` float64. Eq. linear.

    Source: Ho et al. 2020 (arXiv 2006.11239), section 4.
    """
    return torch.linspace(start, end, num_timesteps, dtype=torch.float64)


def scaled_linear_betas(num_timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Stable Diffusion's schedule: the square roots of the betas in equal steps, ``(T,)`` float64. Eq. scaled-linear.

    Source: Rombach et al. 2022 (arXiv 2112.10752), the released code.
    """
    return torch.linspace(math.sqrt(start), math.sqrt(end), num_timesteps, dtype=torch.float64).square()


def cosine_betas(num_timesteps: int = 1000, max_beta: float = 0.999) -> Tensor:
    """The betas whose ``alpha_bar(t) = f(t) / f(0)``, ``f(t) = cos^2((t/T + 0.008) / 1.008 * pi/2)``. Eq. cosine.

    Returns ``(T,)`` float64, each capped at ``max_beta`` (the last ones would be 1).

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17.
    """
    t = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """The betas of the nearest schedule that ends in nothing but noise, ``(T,)`` float64, the last 1. Eq. zero-snr.

    Alpha is shifted and stretched: ``alpha'(t) = (alpha(t) - alpha(T)) alpha(1) / (alpha(1) - alpha(T))``, 0 at T and
    as before at 1. At T the level ``sigma / alpha`` is infinite, and the noise says nothing of the image: a network
    must predict the image or the velocity, which is minus the image there. `ddpm`, `ddim` and the DPM-Solvers start at
    T with either; Euler's and Heun's methods, which divide by alpha, do not.

    Args:
        betas: ``(T,)``, T at least 2.

    Source: Lin et al. 2024 (arXiv 2305.08891), algorithm 1.
    """
    alpha = Schedule(betas).alpha_bar[1:].sqrt()
    alpha_bar = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).square()
    return 1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Falling noise levels ``sigma / alpha``, ever closer together towards the clean end, ``(steps,)`` float64.

    Eq. karras: equal steps of ``sigma^(1/rho)`` from sigma_max to sigma_min, both included.

    Args:
        sigma_min, sigma_max: above 0; rho: 1 spaces them evenly, more puts more of them at low noise.

    Source: Karras et al. 2022 (arXiv 2206.00364), equation 5, there followed by 0.
    """
    most, least = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.linspace(most, least, steps, dtype=torch.float64).pow(rho)
