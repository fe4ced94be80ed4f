"""The score, the gradient of the log-density of noisy images: one more form of what a denoiser knows."""

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import per_sample


def conditional_score(noise: Tensor, sigma: Tensor) -> Tensor:
    """The score of ``q(x_t | x_0)``, once the noise is known: ``-noise / sigma``. Eq. cond-score.

    Args:
        noise: ``(B, ...)``; sigma: multiplying it, above 0.

    Source: Vincent 2011 (Neural Computation 23).
    """
    return -noise / sigma


def x0_from_score(x: Tensor, score: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The posterior mean from the score of q_t, ``(x + sigma^2 score) / alpha``. Eq. tweedie.

    Args:
        x, score: ``(B, ...)``; alpha, sigma: multiplying them, alpha above 0.

    Source: Efron 2011 (Journal of the American Statistical Association 106).
    """
    return (x + sigma**2 * score) / alpha


def score_from_x0(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The score of q_t from the posterior mean, ``(alpha x0 - x) / sigma^2``: the inverse of `x0_from_score`."""
    return (alpha * x0 - x) / sigma**2


def flow_from_score(x: Tensor, score: Tensor, t: Tensor) -> Tensor:
    """The flow's velocity ``E[noise - x_0 | x]`` on the path of `FlowSchedule`: ``-(x + t score) / (1 - t)``.

    Eq. flow-score, whose paper counts time the other way and has ``(x + (1 - t) score) / t``.

    Args:
        x, score: ``(B, ...)``; t: multiplying them, below 1.

    Source: Lipman et al. 2024 (arXiv 2412.06264).
    """
    return -(x + t * score) / (1 - t)


def x0_covariance(denoise: Denoiser, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
    """Covariance of x_0 once x is known, ``(B, D, D)``, from the denoiser's derivative. Eq. tweedie2.

    ``sigma^2 / alpha dx0_hat/dx``, which for the exact denoiser is ``sigma^2 / alpha^2 (1 + sigma^2 H)`` with H the
    second derivative of ``log q_t``. D backward passes.

    Args:
        x: ``(B, ...)``, D elements a sample; samples must not influence each other.

    Source: Manor and Michaeli 2024 (arXiv 2309.13598).
    """
    alpha, sigma = denoise.schedule.alpha(t), denoise.schedule.sigma(t)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0_hat = denoise(x, t, **condition).flatten(1)
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1) for column in x0_hat.unbind(1)]
    jacobian = torch.stack(rows, dim=1)
    return per_sample(sigma.square() / alpha, jacobian) * jacobian
