"""Scores and the denoisers known exactly: equations gmm-score, empirical, cond-score, dsm, tweedie and tweedie2."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fromnoise.diffusion.exact import EmpiricalDenoiser, GaussianMixture, mixture_score
from fromnoise.diffusion.process import reverse_variance
from fromnoise.diffusion.schedules import Schedule, linear_betas
from fromnoise.diffusion.score import conditional_score, score_from_x0, x0_covariance, x0_from_score

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


def mixture(dim, seed=4):
    """A mixture of three Gaussians in so many dimensions, as an exact denoiser."""
    generator = torch.Generator().manual_seed(seed)
    weights, stds = torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([0.4, 0.9, 0.1], dtype=F64)
    return GaussianMixture(Schedule(linear_betas()), weights, torch.randn(3, dim, generator=generator, dtype=F64), stds)


def noisy_score(data, x, alpha, sigma):
    """The score of the noisy marginal, by autograd from torch.distributions' density."""
    x = x.detach().requires_grad_()
    spread = ((alpha * data.stds) ** 2 + sigma**2).sqrt()[:, None].expand_as(data.means)
    density = MixtureSameFamily(Categorical(data.weights), Independent(Normal(alpha * data.means, spread), 1))
    return torch.autograd.grad(density.log_prob(x).sum(), x)[0]


def test_cond_score(generator):
    """It is the gradient that autograd takes of log N(x; alpha x_0, sigma^2)."""
    x0, noise = torch.randn(2, 5, 3, generator=generator, dtype=F64)
    for alpha, sigma in ((0.99, 0.1), (0.6, 0.8)):
        x = (alpha * x0 + sigma * noise).requires_grad_()
        (gradient,) = torch.autograd.grad(Normal(alpha * x0, sigma).log_prob(x).sum(), x)
        actual = conditional_score(noise, torch.tensor(sigma, dtype=F64))
        torch.testing.assert_close(actual, gradient, rtol=1e-9, atol=1e-10)


def test_dsm(within_four_sigma, generator):
    """Monte Carlo on a mixture: for two wrong scores, the loss against the conditional score exceeds the loss against
    the true one by the same constant, which is above 0.
    """
    data, alpha, sigma, count = mixture(2), 0.8, 0.6, 100_000
    x0, noise = data.sample(count, generator), torch.randn(count, 2, generator=generator, dtype=F64)
    x = alpha * x0 + sigma * noise
    conditional = conditional_score(noise, torch.tensor(sigma, dtype=F64))
    true = noisy_score(data, x, alpha, sigma)
    constants = [
        (guess - conditional).square().sum(1) - (guess - true).square().sum(1)
        for guess in (-x, torch.sin(2 * x) - x.square())
    ]
    within_four_sigma(constants[0] - constants[1], 0.0)
    within_four_sigma(constants[0], (conditional.square().sum(1) - true.square().sum(1)).mean())
    assert constants[0].mean() > 0.5


@pytest.mark.parametrize("dim", [1, 3])
def test_tweedie(dim, generator):
    """On a mixture: from the score by autograd, E[x_0 | x] as the mean of the components' own ones."""
    data, x = mixture(dim), torch.randn(20, dim, generator=generator, dtype=F64)
    for alpha, sigma in ((0.99, 0.14), (0.6, 0.8), (0.05, 0.99)):
        # Each component's own posterior mean, weighed by how likely the component is.
        variances = (alpha * data.stds) ** 2 + sigma**2
        distance = (x[:, None] - alpha * data.means).square().sum(-1)
        weight = torch.softmax(data.weights.log() - distance / (2 * variances) - dim / 2 * variances.log(), dim=1)
        gain = alpha * data.stds**2 / variances
        means = data.means + gain[:, None] * (x[:, None] - alpha * data.means)
        expected = (weight[..., None] * means).sum(1)
        coefficients = torch.tensor(alpha, dtype=F64), torch.tensor(sigma, dtype=F64)
        score = noisy_score(data, x, alpha, sigma)
        torch.testing.assert_close(x0_from_score(x, score, *coefficients), expected, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(score_from_x0(x, expected, *coefficients), score, rtol=1e-8, atol=1e-8)


def test_tweedie2(generator):
    """On a mixture in 2 dimensions: sigma^2 / alpha^2 (1 + sigma^2 H) with H by autograd, and the covariance of x_0
    given x, summed over a grid.
    """
    data, x = mixture(2), torch.randn(4, 2, generator=generator, dtype=F64)
    t = torch.tensor([150.0, 300.0, 500.0, 800.0], dtype=F64)
    actual = x0_covariance(data, x, t)
    side = torch.linspace(-8, 8, 801, dtype=F64)
    grid = torch.cartesian_prod(side, side)  # (G, 2)
    components = Independent(Normal(data.means, data.stds[:, None].expand(3, 2)), 1)
    prior = MixtureSameFamily(Categorical(data.weights), components).log_prob(grid)
    for point, time, covariance in zip(x, t, actual, strict=True):
        alpha, sigma = data.schedule.alpha(time).item(), data.schedule.sigma(time).item()
        spread = (alpha * data.stds) ** 2 + sigma**2

        def log_density(y, alpha=alpha, spread=spread):
            distance = (y - alpha * data.means).square().sum(-1)
            return torch.logsumexp(data.weights.log() - distance / (2 * spread) - spread.log(), dim=0)

        curvature = torch.func.hessian(log_density)(point)
        expected = sigma**2 / alpha**2 * (torch.eye(2, dtype=F64) + sigma**2 * curvature)
        torch.testing.assert_close(covariance, expected, rtol=1e-7, atol=1e-9)
        weight = torch.softmax(prior - (point - alpha * grid).square().sum(1) / (2 * sigma**2), dim=0)
        mean = weight @ grid
        summed = torch.einsum("g,gi,gj->ij", weight, grid - mean, grid - mean)
        torch.testing.assert_close(covariance, summed, rtol=1e-5, atol=1e-7)


def test_tweedie2__gaussian():
    """On N(mean, s^2) it is s^2 sigma^2 / (alpha^2 s^2 + sigma^2), whatever x; the reverse variance is made of it."""
    schedule, one = Schedule(linear_betas()), torch.ones(1, dtype=F64)
    data = GaussianMixture(schedule, one, 0.3 * one[:, None], 0.5 * one)
    t, x = torch.tensor([2.0, 300.0, 900.0], dtype=F64), torch.tensor([[0.1], [-2.0], [5.0]], dtype=F64)
    alpha2, sigma2 = schedule.alpha(t).square(), schedule.sigma(t).square()
    covariance = x0_covariance(data, x, t)
    assert covariance.shape == (3, 1, 1)
    assert not covariance.requires_grad
    torch.testing.assert_close(covariance[:, 0, 0], 0.25 * sigma2 / (0.25 * alpha2 + sigma2), rtol=1e-8, atol=0)
    variance = reverse_variance(schedule, covariance[:, 0, 0], t - 1, t)
    posterior = reverse_variance(schedule, 0 * t, t - 1, t)
    assert bool(((variance > posterior) & (variance < schedule.betas[t.long() - 1])).all())
