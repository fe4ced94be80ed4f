"""Denoisers that are known exactly, so that all else can be tested against the truth without a trained network."""

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import NoiseSchedule
from fromnoise.diffusion.score import x0_from_score


def gaussian_denoiser(x: Tensor, alpha: Tensor, sigma: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """``E[x_0 | x]`` for data ``N(mean, variance)``, element by element. Eq. mse-opt.

    The regression line of x_0 on x: ``mean + alpha variance / (alpha^2 variance + sigma^2) (x - alpha mean)``. No
    function of x has a smaller mean squared error.

    Args:
        x: ``(B, ...)``; all others multiply it.
    """
    return mean + alpha * variance / (alpha.square() * variance + sigma.square()) * (x - alpha * mean)


def gaussian_flow(x: Tensor, start: float, end: float, mean: float, std: float) -> Tensor:
    """Where the curve of `solvers.edm_ode` leads from one noise level to another, for data ``N(mean, std^2)``.

    Eq. gauss-flow: ``mean + (x - mean) sqrt((std^2 + end^2) / (std^2 + start^2))``, x at the scale of the image.

    Source: Karras et al. 2022 (arXiv 2206.00364), section 3, for this case.
    """
    return mean + (x - mean) * ((std**2 + end**2) / (std**2 + start**2)) ** 0.5


def mixture_score(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Gradient of ``log sum_k w_k N(x; mean_k, variance_k I)``. Eq. gmm-score.

    The components' own gradients, averaged by how likely it is that x came from each.

    Args:
        x: ``(B, D)``.
        weights: ``(K,)``, summing to 1.
        means: ``(K, D)``, or ``(B, K, D)`` if they differ from sample to sample.
        variances: ``(K,)`` or ``(B, K)``, above 0.

    Returns:
        ``(B, D)``.
    """
    offset = means - x[:, None]  # (B, K, D)
    log_density = -0.5 * offset.square().sum(-1) / variances - 0.5 * x.shape[1] * variances.log()
    responsibility = torch.softmax(weights.log() + log_density, dim=1)  # (B, K)
    return (responsibility[..., None] * offset / variances[..., None]).sum(1)


class GaussianMixture:
    """The exact denoiser of data from ``sum_k w_k N(mean_k, std_k^2 I)``, through its score; K = 1 is a Gaussian.

    Args:
        weights: ``(K,)``, summing to 1; means: ``(K, D)``; stds: ``(K,)``. Samples are ``(B, D)``.
    """

    def __init__(self, schedule: NoiseSchedule, weights: Tensor, means: Tensor, stds: Tensor):
        self.schedule = schedule
        self.weights, self.means, self.stds = weights, means, stds

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t).to(x)[:, None], self.schedule.sigma(t).to(x)[:, None]
        noisy_variances = (alpha * self.stds).square() + sigma.square()  # (B, K)
        score = mixture_score(x, self.weights, alpha[..., None] * self.means, noisy_variances)
        return x0_from_score(x, score, alpha, sigma)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, D)`` draws."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[which] + self.stds[which, None] * noise


class EmpiricalDenoiser:
    """The exact denoiser of a finite dataset: the images, averaged by how likely each is. Eq. empirical.

    ``x0_hat = sum_i softmax_i(-|x - alpha x_i|^2 / (2 sigma^2)) x_i``. A network that were this perfect would only
    ever sample the training images.

    Args:
        data: ``(N, ...)``.

    Source: Karras et al. 2022 (arXiv 2206.00364), appendix B.3.
    """

    def __init__(self, schedule: NoiseSchedule, data: Tensor):
        self.schedule = schedule
        self.data = data

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return (self.responsibilities(x, t) @ self.data.to(x).flatten(1)).view_as(x)

    def responsibilities(self, x: Tensor, t: Tensor) -> Tensor:
        """The probability that each image is the one x was made from, ``(B, N)``, rows summing to 1."""
        alpha, sigma = self.schedule.alpha(t).to(x), self.schedule.sigma(t).to(x)
        pixels = x.flatten(1) / alpha[:, None]  # (B, D), the image left at scale 1
        distance = torch.cdist(pixels, self.data.to(x).flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        return torch.softmax(-(distance * (alpha / sigma)[:, None]).square() / 2, dim=1)
