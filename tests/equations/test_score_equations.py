"""Scores and the denoisers known exactly: equations gmm-score and empirical."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fromnoise.diffusion.exact import EmpiricalDenoiser, GaussianMixture, mixture_score
from fromnoise.diffusion.schedules import Schedule, linear_betas

F64 = torch.float64


@pytest.mark.parametrize("dim", [1, 3])
def test_gmm_score(generator, dim):
    """It is the gradient that autograd takes of torch.distributions' log density, in 1 and 3 dimensions."""
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=F64)
    means = torch.randn(3, dim, generator=generator, dtype=F64)
    variances = torch.tensor([0.2, 1.5, 0.05], dtype=F64)
    x = torch.randn(50, dim, generator=generator, dtype=F64, requires_grad=True)
    components = Independent(Normal(means, variances.sqrt()[:, None].expand(3, dim)), 1)
    log_density = MixtureSameFamily(Categorical(weights), components).log_prob(x)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(mixture_score(x.detach(), weights, means, variances), gradient, rtol=1e-10, atol=1e-12)


def test_gmm_score__far_away():
    """A million standard deviations from every component it is still finite: the nearest component's."""
    one, x = torch.tensor([1.0], dtype=F64), torch.tensor([[1e6]], dtype=F64)
    weights, means = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64)
    torch.testing.assert_close(mixture_score(x, weights, means, one.expand(2)), 1 - x)


def test_gmm_score__denoiser():
    """Through the score, a mixture's denoiser is E[x_0 | x] by quadrature over x_0."""
    schedule = Schedule(linear_betas())
    weights, means, stds = ([0.4, 0.6], [-0.5, 0.7], [0.5, 0.2])
    mixture = GaussianMixture(schedule, *(torch.tensor(v, dtype=F64) for v in (weights, [[m] for m in means], stds)))
    x0 = torch.linspace(-6, 6, 20_001, dtype=F64)
    prior = sum(w / s * torch.exp(-((x0 - m) ** 2) / (2 * s**2)) for w, m, s in zip(weights, means, stds, strict=True))
    x, t = torch.tensor([[-0.9], [0.2], [1.1]], dtype=F64), torch.tensor([50, 400, 900], dtype=F64)
    expected = []
    for point, time in zip(x[:, 0], t, strict=True):
        alpha_bar = schedule.alpha_bar[int(time)]
        weight = prior * torch.exp(-((point - alpha_bar.sqrt() * x0) ** 2) / (2 * (1 - alpha_bar)))
        expected.append((weight * x0).sum() / weight.sum())
    torch.testing.assert_close(mixture(x, t)[:, 0], torch.stack(expected), rtol=1e-8, atol=1e-10)


def test_gmm_score__sample(within_four_sigma, generator):
    """Draws of the mixture have its mean and second moment."""
    weights, means, stds = torch.tensor([1.0, 3.0]), torch.tensor([[-1.0, 0.0], [0.5, 2.0]]), torch.tensor([0.3, 0.6])
    draws = GaussianMixture(Schedule(linear_betas()), weights, means, stds).sample(50_000, generator)
    share = weights / 4
    within_four_sigma(draws, share @ means)
    within_four_sigma(draws.square(), share @ (means.square() + stds[:, None].square()))


def test_empirical(generator):
    """Brute force over images in Python floats: weights exp(-|x - a x_i|^2 / 2 sigma^2), averaged."""
    schedule = Schedule(linear_betas())
    data = torch.randn(7, 2, 3, generator=generator, dtype=F64)
    x, t = torch.randn(4, 2, 3, generator=generator, dtype=F64), torch.tensor([300, 500, 700, 1000], dtype=F64)
    actual = EmpiricalDenoiser(schedule, data)(x, t)
    for sample, time, image in zip(x, t, actual, strict=True):
        alpha_bar = schedule.alpha_bar[int(time)].item()
        distances = [(sample - math.sqrt(alpha_bar) * other).square().sum().item() for other in data]
        weights = [math.exp(-d / (2 * (1 - alpha_bar))) for d in distances]
        expected = sum(w * other for w, other in zip(weights, data, strict=True)) / sum(weights)
        torch.testing.assert_close(image, expected, rtol=1e-9, atol=1e-12)


def test_empirical__two_points():
    """Data at +-1: the denoiser is tanh(a x / sigma^2), and nothing else, at every noise level."""
    schedule, data = Schedule(linear_betas()), torch.tensor([[-1.0], [1.0]], dtype=F64)
    x, t = torch.linspace(-2, 2, 41, dtype=F64)[:, None], torch.linspace(1, 1000, 41, dtype=F64).round()
    alpha_bar = schedule.alpha_bar[t.long()][:, None]
    expected = torch.tanh(alpha_bar.sqrt() * x / (1 - alpha_bar))
    torch.testing.assert_close(EmpiricalDenoiser(schedule, data)(x, t), expected, rtol=1e-8, atol=1e-10)


def test_empirical__memorises():
    """Near a training image, with little noise, the answer is that image; with none left of it, the mean of all."""
    schedule, data = Schedule(linear_betas()), torch.tensor([[-1.0, 0.5], [0.3, 0.3], [1.0, -0.2]], dtype=F64)
    denoise = EmpiricalDenoiser(schedule, data)
    torch.testing.assert_close(denoise(data + 0.01, torch.ones(3, dtype=F64)), data)
    far = denoise(torch.zeros(1, 2, dtype=F64), torch.tensor([1000.0], dtype=F64))
    torch.testing.assert_close(far, data.mean(0, keepdim=True), rtol=0, atol=1e-3)
