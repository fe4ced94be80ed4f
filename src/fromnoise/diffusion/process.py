"""The forward process, which adds noise, and its exact reversal when the clean image is known.

Times are float tensors ``(B,)`` in the schedule's own time, 0 to its end; images are ``(B, ...)``. ``u`` is always the
earlier of two times, ``u < t``. Subscripts as in the book: ``alpha_{t|u}``, ``sigma_{t|u}`` lead from time u to t.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import NoiseSchedule

Generator = torch.Generator | Sequence[torch.Generator]


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Shapes ``(B,)`` so that it multiplies ``x`` ``(B, ...)`` sample by sample, in x's dtype and device."""
    return values.to(x).reshape(-1, *[1] * (x.ndim - 1))


def noise_like(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise of the shape of ``x``, ``(B, ...)``, in float32 or wider, then in x's dtype.

    Args:
        generator: one for the batch, or one for each sample, so that a sample's noise does not depend on its
            neighbours. Drawn where the generator lives, then moved.
    """
    if isinstance(generator, torch.Generator):
        noise = torch.randn(x.shape, generator=generator, device=generator.device)
    else:
        noise = torch.cat([torch.randn((1, *x.shape[1:]), generator=g, device=g.device) for g in generator])
    return noise.to(x)


def reparameterize(mean: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """A draw from ``N(mean, scale scale^T)`` made of a standard normal one: ``mean + scale @ noise``. Eq. reparam.

    Args:
        mean: ``(..., D)``.
        scale: ``(D, D)``, any square root of the covariance (a Cholesky factor, say).
        noise: ``(..., D)``, standard normal.

    Source: Kingma and Welling 2014 (arXiv 1312.6114), section 2.4.
    """
    return mean + noise @ scale.mT


def forward_step(x_prev: Tensor, beta: Tensor, noise: Tensor) -> Tensor:
    """One step of adding noise, from x_{t-1} to x_t: ``sqrt(1 - beta) x + sqrt(beta) noise``. Eq. forward-step.

    Args:
        x_prev: ``(B, ...)``, x_{t-1}.
        beta: ``(B,)``, the *variance* that the step adds; the noise is scaled by its square root.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 2.
    """
    return per_sample((1 - beta).sqrt(), x_prev) * x_prev + per_sample(beta.sqrt(), x_prev) * noise


def forward_marginal(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """All the steps up to time t at once: ``x_t = alpha(t) x_0 + sigma(t) noise``. Eq. forward-marginal.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 4.
    """
    return per_sample(schedule.alpha(t), x0) * x0 + per_sample(schedule.sigma(t), x0) * noise


def forward_jump(schedule: NoiseSchedule, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """From time u straight to t: ``(alpha_{t|u}, sigma_{t|u})``, with x_t ~ N(alpha_{t|u} x_u, sigma_{t|u}^2).

    Eq. forward-jump: ``alpha_{t|u} = alpha(t) / alpha(u)``, ``sigma_{t|u}^2 = sigma(t)^2 - alpha_{t|u}^2 sigma(u)^2``.
    The variance is computed as ``sigma(t)^2 (1 - r_u^2 / r_t^2)``, with r the noise-to-signal ratio, which cancels
    little and holds where r_t is infinite.

    Args:
        u, t: ``(B,)``, u <= t, t above 0.

    Returns:
        two tensors ``(B,)``.

    Source: Kingma et al. 2021 (arXiv 2107.00630), appendix A.
    """
    ratio = schedule.noise_to_signal(u) / schedule.noise_to_signal(t)
    return schedule.alpha(t) / schedule.alpha(u), schedule.sigma(t) * ((1 - ratio) * (1 + ratio)).sqrt()


def posterior_variance(schedule: NoiseSchedule, u: Tensor, t: Tensor) -> Tensor:
    """Variance of x_u once x_t and x_0 are known: ``sigma_{t|u}^2 sigma(u)^2 / sigma(t)^2``, ``(B,)``.

    Eq. posterior-var: for u = t - 1 this is ``beta~_t = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t``.
    It is 0 for u = 0.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 7.
    """
    _, sigma_jump = forward_jump(schedule, u, t)
    return (sigma_jump * schedule.sigma(u) / schedule.sigma(t)).square()


def posterior_coefficients(schedule: NoiseSchedule, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """How much of x_0 and of x_t there is in the posterior mean, each ``(B,)``; see `posterior_mean`."""
    alpha_jump, sigma_jump = forward_jump(schedule, u, t)
    variance_t = schedule.sigma(t).square()
    return schedule.alpha(u) * sigma_jump.square() / variance_t, alpha_jump * schedule.sigma(u).square() / variance_t


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """Mean of x_u once x_t and x_0 are known, a weighted sum of the two, ``(B, ...)``. Eq. posterior-mean.

    ``alpha(u) sigma_{t|u}^2 / sigma(t)^2 x_0 + alpha_{t|u} sigma(u)^2 / sigma(t)^2 x_t``; at u = 0 it is x_0.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 7, there for u = t - 1.
    """
    of_x0, of_x_t = posterior_coefficients(schedule, u, t)
    return per_sample(of_x0, x0) * x0 + per_sample(of_x_t, x_t) * x_t


def posterior_mean_from_noise(schedule: NoiseSchedule, noise: Tensor, x_t: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """The same mean from x_t and the noise in it: ``(x_t - sigma_{t|u}^2 / sigma(t) noise) / alpha_{t|u}``.

    Eq. posterior-mean-eps: for u = t - 1 this is ``(x_t - beta_t / sigma_t noise) / sqrt(1 - beta_t)``.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 11.
    """
    alpha_jump, sigma_jump = forward_jump(schedule, u, t)
    share = sigma_jump.square() / schedule.sigma(t)
    return (x_t - per_sample(share, x_t) * noise) / per_sample(alpha_jump, x_t)


def reverse_variance(schedule: NoiseSchedule, x0_variance: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """Variance of x_u once only x_t is known: the posterior's, plus what not knowing x_0 adds, ``(B,)``.

    Eq. reverse-var: ``beta~ + (coefficient of x_0 in the posterior mean)^2 Var(x_0 | x_t)``. It is the
    posterior variance where x_0 is certain and ``sigma_{t|u}^2`` for x_0 ~ N(0, 1), the two choices of `samplers.ddpm`.
    Averaged over x_t it lies between them for data of variance up to 1; at a single x_t it may be larger.

    Args:
        x0_variance: ``(B,)``, Var(x_0 | x_t).

    Source: Bao et al. 2022 (arXiv 2201.06503).
    """
    of_x0, _ = posterior_coefficients(schedule, u, t)
    return posterior_variance(schedule, u, t) + of_x0.square() * x0_variance


def learned_variance(v: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """A variance between two bounds, mixed in the logarithm: ``exp(v log upper + (1 - v) log lower)``. Eq. learned-var.

    Args:
        v: in [0, 1], a network's output.
        upper, lower: ``beta_t`` and ``beta~_t``, both above 0.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 15.
    """
    return torch.exp(v * upper.log() + (1 - v) * lower.log())
