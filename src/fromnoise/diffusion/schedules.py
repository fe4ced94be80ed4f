"""How much signal and how much noise there is at each time.

A schedule is fixed by its betas. Time runs from t = 0 (the clean image) to t = T (almost pure noise), and at each
time ``x_t = alpha(t) x_0 + sigma(t) noise`` with ``alpha^2 + sigma^2 = 1``. Everything is computed once in float64.
"""

import math
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


class Schedule:
    """The coefficients ``alpha(t)`` and ``sigma(t)`` of a discrete diffusion process, at any time in [0, T].

    Args:
        betas: ``(T,)``, each in (0, 1): ``betas[t - 1]`` is the variance that step t adds.

    Attributes:
        betas: ``(T,)`` float64.
        alpha_bar: ``(T + 1,)`` float64, the products of ``1 - beta`` up to each time, with ``alpha_bar[0] = 1``. A
            paper's ``alpha_bar`` is ``alpha(t)`` squared.
    """

    def __init__(self, betas: Tensor):
        betas = betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be a vector of numbers strictly between 0 and 1")
        self.betas = betas
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.betas)

    @cached_property
    def _noise_to_signal(self) -> Tensor:
        """``sigma / alpha`` at t = 0..T, ``(T + 1,)``: the noise level when the image is left at scale 1."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def noise_to_signal(self, t: Tensor) -> Tensor:
        """``sigma(t) / alpha(t)``; between two whole times it is interpolated linearly, as diffusers does.

        Args:
            t: any shape, floating point, in [0, T].

        Returns:
            The same shape, dtype and device as ``t``.

        Raises:
            ValueError: a time outside [0, T] (checked on the CPU, where looking is free).
        """
        if t.device.type == "cpu" and not bool(((t >= 0) & (t <= self.num_timesteps)).all()):
            raise ValueError(f"times must lie in [0, {self.num_timesteps}]")
        table = self._noise_to_signal.to(dtype=t.dtype).to(t.device)
        below = t.floor().clamp(max=self.num_timesteps - 1)
        index = below.long()
        return torch.lerp(table[index], table[index + 1], t - below)

    def time(self, noise_to_signal: Tensor) -> Tensor:
        """The time at which ``sigma / alpha`` is this: the inverse of `noise_to_signal`, and as linear between times.

        Args:
            noise_to_signal: any shape, from 0 to that of time T.

        Returns:
            The same shape, dtype and device, in [0, T].

        Raises:
            ValueError: a noise level outside that range (checked on the CPU).
        """
        table = self._noise_to_signal.to(dtype=noise_to_signal.dtype).to(noise_to_signal.device)
        if table.device.type == "cpu" and not bool(((noise_to_signal >= 0) & (noise_to_signal <= table[-1])).all()):
            raise ValueError(f"noise levels must lie in [0, {table[-1]:g}]")
        above = torch.searchsorted(table, noise_to_signal.contiguous()).clamp(min=1)
        low, high = table[above - 1], table[above]
        return above - (high - noise_to_signal) / (high - low)

    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of the image in x_t: ``(B,)`` in, ``(B,)`` out, in (0, 1]."""
        return torch.rsqrt(1 + self.noise_to_signal(t).square())

    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of the noise in x_t: ``(B,)`` in, ``(B,)`` out, in [0, 1)."""
        ratio = self.noise_to_signal(t)
        return ratio * torch.rsqrt(1 + ratio.square())

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``alpha^2 / sigma^2``, infinite at t = 0, falling with t. Eq. snr.

        Source: Kingma et al. 2021 (arXiv 2107.00630), section 3.1.
        """
        return self.noise_to_signal(t).pow(-2)

    def log_snr(self, t: Tensor) -> Tensor:
        """``log(alpha / sigma)``, half the logarithm of the signal-to-noise ratio (the lambda of DPM-Solver)."""
        return -self.noise_to_signal(t).log()

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


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Falling noise levels ``sigma / alpha``, ever closer together towards the clean end, ``(steps,)`` float64.

    Eq. karras: equal steps of ``sigma^(1/rho)`` from sigma_max to sigma_min, both included.

    Args:
        sigma_min, sigma_max: above 0; rho: 1 spaces them evenly, more puts more of them at low noise.

    Source: Karras et al. 2022 (arXiv 2206.00364), equation 5, there followed by 0.
    """
    most, least = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.linspace(most, least, steps, dtype=torch.float64).pow(rho)
