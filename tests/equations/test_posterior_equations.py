"""The reverse step when the image is known, and when it is not: equations posterior-var to learned-var."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.stats import norm

from fromnoise.diffusion.exact import GaussianMixture
from fromnoise.diffusion.process import (
    forward_jump,
    forward_marginal,
    learned_variance,
    posterior_coefficients,
    posterior_mean,
    posterior_mean_from_noise,
    posterior_variance,
    reverse_variance,
)
from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas

F64 = torch.float64
PAIRS = [(0, 1), (1, 2), (499, 500), (999, 1000), (0, 1000), (20, 700)]


def times(*values):
    return torch.tensor(values, dtype=F64)


def completed_square():
    """Mean (as factors of x_0 and x_t) and variance of q(x_u | x_t, x_0), from the exponent A x^2 - 2 b x of Bayes."""
    x, x0, x_t = sp.symbols("x x_0 x_t")
    a_u, a_t = sp.symbols("a_u a_t", positive=True)
    jump = a_t / a_u
    jump_variance = (1 - a_t**2) - jump**2 * (1 - a_u**2)
    exponent = sp.expand((x_t - jump * x) ** 2 / jump_variance + (x - a_u * x0) ** 2 / (1 - a_u**2))
    a, b = exponent.coeff(x, 2), -exponent.coeff(x, 1) / 2
    mean = sp.expand(sp.simplify(b / a))
    return (a_u, a_t), (mean.coeff(x0), mean.coeff(x_t)), sp.simplify(1 / a)


def test_posterior_var():
    """SymPy completes the square: the variance is the paper's beta~ for u = t - 1, and the function's for any u < t."""
    (a_u, a_t), _, variance = completed_square()
    beta = 1 - (a_t / a_u) ** 2
    assert sp.simplify(variance - (1 - a_u**2) / (1 - a_t**2) * beta) == 0
    schedule = Schedule(linear_betas())
    for u, t in PAIRS:
        alpha_bar_u, alpha_bar_t = schedule.alpha_bar[u].item(), schedule.alpha_bar[t].item()
        expected = 0.0 if u == 0 else variance.subs({a_u: math.sqrt(alpha_bar_u), a_t: math.sqrt(alpha_bar_t)})
        actual = posterior_variance(schedule, times(u), times(t)).item()
        assert actual == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas()])
def test_posterior_var__table(betas):
    """For every t it is (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t, 0 at t = 1 and below beta_t elsewhere."""
    t = torch.arange(1, 1001, dtype=F64)
    alpha_bar = torch.cat([torch.ones(1, dtype=F64), torch.cumprod(1 - betas, 0)])
    actual = posterior_variance(Schedule(betas), t - 1, t)
    torch.testing.assert_close(actual, (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * betas, rtol=1e-9, atol=0)
    assert actual[0] == 0
    assert bool((actual < betas).all())


def test_posterior_mean():
    """SymPy completes the square: the mean is the paper's for u = t - 1, and the function's for any u < t."""
    (a_u, a_t), (of_x0, of_x_t), _ = completed_square()
    beta = 1 - (a_t / a_u) ** 2
    assert sp.simplify(of_x0 - a_u * beta / (1 - a_t**2)) == 0
    assert sp.simplify(of_x_t - sp.sqrt(1 - beta) * (1 - a_u**2) / (1 - a_t**2)) == 0
    schedule, x0, x_t = Schedule(linear_betas()), times(0.7, -0.2)[None], times(-1.1, 0.4)[None]
    for u, t in PAIRS:
        point = {a_u: math.sqrt(schedule.alpha_bar[u].item()), a_t: math.sqrt(schedule.alpha_bar[t].item())}
        expected = float(of_x0.subs(point)) * x0 + float(of_x_t.subs(point)) * x_t
        torch.testing.assert_close(
            posterior_mean(schedule, x0, x_t, times(u), times(t)), expected, rtol=1e-9, atol=1e-12
        )


def test_posterior_mean__last_step_is_the_image():
    """At u = 0 the mean is x_0 itself and the variance 0, exactly: the last step must not add anything."""
    schedule, x0 = Schedule(cosine_betas()), times(0.7, -0.2)[:, None]
    assert torch.equal(posterior_mean(schedule, x0, x0 + 5, times(0, 0), times(1, 1000)), x0)


def test_posterior_mean_eps():
    """SymPy: substituting x_0 = (x_t - sigma eps) / a into the mean gives it; the function equals that mean."""
    (a_u, a_t), (of_x0, of_x_t), _ = completed_square()
    x_t, noise = sp.symbols("x_t epsilon")
    beta = 1 - (a_t / a_u) ** 2
    sigma_t = sp.sqrt(1 - a_t**2)
    substituted = of_x0 * (x_t - sigma_t * noise) / a_t + of_x_t * x_t
    assert sp.simplify(substituted - (x_t - beta / sigma_t * noise) / sp.sqrt(1 - beta)) == 0

    schedule = Schedule(linear_betas())
    x0, noise = times(0.7, -0.2)[None], times(-1.1, 0.4)[None]
    for u, t in PAIRS:
        x_t = forward_marginal(schedule, x0, times(t), noise)
        actual = posterior_mean_from_noise(schedule, noise, x_t, times(u), times(t))
        torch.testing.assert_close(actual, posterior_mean(schedule, x0, x_t, times(u), times(t)), rtol=1e-10, atol=0)


def test_posterior_mean_eps__paper():
    """For u = t - 1 it is (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(1 - beta_t), at every t."""
    betas = linear_betas()
    t, alpha_bar = torch.arange(1, 1001, dtype=F64), torch.cumprod(1 - betas, 0)
    actual = posterior_mean_from_noise(Schedule(betas), torch.full_like(t, 0.3), torch.full_like(t, 1.2), t - 1, t)
    expected = (1.2 - betas / (1 - alpha_bar).sqrt() * 0.3) / (1 - betas).sqrt()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)


def test_reverse_mixture():
    """Quadrature on mixture data: the integral over x_0 equals Bayes' rule q(x_t | x_u) q(x_u) / q(x_t) on a grid."""
    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.3, 0.2])
    schedule, u, t, x_t = Schedule(linear_betas(10, 0.05, 0.5)), 4, 7, 0.35
    alpha_u, alpha_t = (math.sqrt(schedule.alpha_bar[i].item()) for i in (u, t))

    def density(x, alpha):  # of the noisy data
        spread = np.sqrt((alpha * stds) ** 2 + 1 - alpha**2)
        return (weights * norm.pdf(x[..., None], alpha * means, spread)).sum(-1)

    x_u, x0 = np.linspace(-3, 3, 61), np.linspace(-4, 4, 8001)
    data = (weights * norm.pdf(x0[:, None], means, stds)).sum(-1)
    given_x_t = data * norm.pdf(x_t, alpha_t * x0, math.sqrt(1 - alpha_t**2)) / density(np.array(x_t), alpha_t)
    x0_column = torch.from_numpy(x0)[:, None]
    mean = posterior_mean(schedule, x0_column, torch.full_like(x0_column, x_t), times(u), times(t)).numpy()
    std = math.sqrt(posterior_variance(schedule, times(u), times(t)).item())
    mixture = np.trapezoid(given_x_t[:, None] * norm.pdf(x_u, mean, std), x0, axis=0)

    jump, spread = (value.item() for value in forward_jump(schedule, times(u), times(t)))
    bayes = norm.pdf(x_t, jump * x_u, spread) * density(x_u, alpha_u) / density(np.array(x_t), alpha_t)
    np.testing.assert_allclose(mixture, bayes, rtol=1e-8, atol=1e-12)


def test_reverse_mixture__not_gaussian():
    """Two-point data, alpha_bar_{t-1} = .9, beta = .5, x_t = 0: x_{t-1} has two modes and a kurtosis of 1.41, not 3."""
    schedule, u, t = Schedule(times(0.1, 0.5)), times(1), times(2)
    assert schedule.alpha_bar[1].item() == pytest.approx(0.9)
    centre = posterior_coefficients(schedule, u, t)[0].item()  # x_0 = +-1 are equally likely at x_t = 0
    std = math.sqrt(posterior_variance(schedule, u, t).item())
    x = np.linspace(-4, 4, 8001)
    density = (norm.pdf(x, centre, std) + norm.pdf(x, -centre, std)) / 2
    moment = [np.trapezoid(density * x**n, x) for n in (2, 4)]
    assert moment[1] / moment[0] ** 2 == pytest.approx(1.41, abs=0.005)
    assert density[4000] < 0.1 * density.max()


def mean_by_bayes(x_u, density_u, x_t, jump, spread):
    """E[x_u | x_t] by quadrature over x_u of Bayes' rule, q(x_t | x_u) q(x_u), which knows nothing of x_0."""
    joint = density_u * norm.pdf(x_t, jump * x_u, spread)
    return np.trapezoid(joint * x_u, x_u) / np.trapezoid(joint, x_u)


@pytest.mark.parametrize("x_t", [-1.3, 0.0, 0.37, 2.0])
def test_reverse_mean(x_t):
    """Data at -1 and +1: the posterior mean with x0_hat = tanh(a x / sigma^2) is E[x_{t-1} | x_t] exactly."""
    schedule, u, t = Schedule(times(0.1, 0.5)), times(1), times(2)
    x0_hat = times(math.tanh(math.sqrt(0.45) * x_t / 0.55))
    actual = posterior_mean(schedule, x0_hat, times(x_t), u, t).item()
    x_u = np.linspace(-4, 4, 8001)
    density = (norm.pdf(x_u, math.sqrt(0.9), math.sqrt(0.1)) + norm.pdf(x_u, -math.sqrt(0.9), math.sqrt(0.1))) / 2
    assert actual == pytest.approx(mean_by_bayes(x_u, density, x_t, math.sqrt(0.5), math.sqrt(0.5)), abs=1e-12)
    assert x_t != 0.37 or actual == pytest.approx(0.41234, abs=5e-6)


@pytest.mark.parametrize(("u", "t"), [(1, 2), (4, 7), (2, 10), (9, 10)])
@pytest.mark.parametrize("x_t", [-1.1, -0.2, 0.6])
def test_reverse_mean__mixture(u, t, x_t):
    """A mixture, and steps of any size: the mean with the exact x0_hat is that of Bayes' rule; the variance is not."""
    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.3, 0.2])
    schedule = Schedule(linear_betas(10, 0.05, 0.5))
    denoise = GaussianMixture(schedule, *(torch.from_numpy(values) for values in (weights, means[:, None], stds)))
    x = times(x_t)[None]
    actual = posterior_mean(schedule, denoise(x, times(t)), x, times(u), times(t)).item()
    alpha_u, jump = (
        math.sqrt(schedule.alpha_bar[u].item()),
        math.sqrt((schedule.alpha_bar[t] / schedule.alpha_bar[u]).item()),
    )
    x_u = np.linspace(-8, 8, 16001)
    density = (weights * norm.pdf(x_u[:, None], alpha_u * means, np.sqrt((alpha_u * stds) ** 2 + 1 - alpha_u**2))).sum(
        -1
    )
    assert actual == pytest.approx(mean_by_bayes(x_u, density, x_t, jump, math.sqrt(1 - jump**2)), abs=1e-9)


@pytest.mark.parametrize("variance", [0.0, 0.25, 1.0, 3.0])
def test_reverse_var(variance):
    """On N(0, s^2) it is the conditional variance of jointly Gaussian x_u, x_t; at s = 0 beta~, at s = 1 beta."""
    betas = linear_betas()
    schedule, t = Schedule(betas), torch.arange(1, 1001, dtype=F64)
    alpha_bar_u, alpha_bar_t = schedule.alpha_bar[:-1], schedule.alpha_bar[1:]
    marginal_u, marginal_t = (ab * variance + 1 - ab for ab in (alpha_bar_u, alpha_bar_t))
    x0_variance = variance * (1 - alpha_bar_t) / marginal_t
    actual = reverse_variance(schedule, x0_variance, t - 1, t)
    expected = marginal_u - (1 - betas) * marginal_u.square() / marginal_t
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-15)
    if variance == 0:
        torch.testing.assert_close(actual, posterior_variance(schedule, t - 1, t), rtol=1e-12, atol=0)
    if variance == 1:
        torch.testing.assert_close(actual, betas, rtol=1e-8, atol=0)


def test_learned_var():
    """The two ends are at v = 1 and v = 0, and their geometric mean at v = 1/2."""
    upper, lower = times(0.02, 0.3, 0.5), times(0.01, 1e-5, 0.5)
    for v, expected in ((1.0, upper), (0.0, lower), (0.5, (upper * lower).sqrt())):
        torch.testing.assert_close(learned_variance(torch.full_like(upper, v), upper, lower), expected)
