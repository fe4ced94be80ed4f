"""The forward process: equations forward-step to prior-gap."""

import math

import pytest
import sympy as sp
import torch
from torch.distributions import Normal, kl_divergence

from fromnoise.diffusion.likelihood import prior_gap
from fromnoise.diffusion.process import forward_jump, forward_marginal, forward_step, reparameterize
from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def at(schedule, t):
    """The coefficients alpha and sigma at a whole time, straight from the products of 1 - beta."""
    alpha_bar = math.prod(1 - b for b in schedule.betas[:t].tolist())
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def test_forward_step(within_four_sigma, generator):
    """Mean, variance and kurtosis of one step's draws are those of N(sqrt(1 - beta) x, beta), by Monte Carlo."""
    beta = torch.tensor([0.02, 0.3, 0.9], dtype=F64)
    x = torch.tensor([1.5, -0.7, 2.0], dtype=F64)
    noise = normal(generator, 3, 100_000)
    draws = forward_step(x[:, None].expand(3, 100_000), beta, noise).T
    within_four_sigma(draws, (1 - beta).sqrt() * x)
    deviation = draws - (1 - beta).sqrt() * x
    within_four_sigma(deviation.square(), beta)
    within_four_sigma(deviation.pow(4), 3 * beta.square())


def test_forward_step__keeps_unit_variance():
    """sqrt(1 - beta)^2 + sqrt(beta)^2 = 1: data of variance 1 keep it. Exact, by feeding unit vectors."""
    beta = torch.tensor([0.1, 0.7], dtype=F64)
    one, zero = torch.ones(2, 4, dtype=F64), torch.zeros(2, 4, dtype=F64)
    variance = forward_step(one, beta, zero).square() + forward_step(zero, beta, one).square()
    torch.testing.assert_close(variance, one, rtol=0, atol=1e-15)


def test_reparam(within_four_sigma, generator):
    """Draws have the mean and the full covariance L L^T asked for, by Monte Carlo."""
    mean = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    scale = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 0.1]], dtype=F64)
    draws = reparameterize(mean, scale, normal(generator, 100_000, 3))
    within_four_sigma(draws, mean)
    deviation = draws - mean
    within_four_sigma(deviation[:, :, None] * deviation[:, None, :], scale @ scale.T)


def test_reparam__pathwise_gradient(within_four_sigma, generator):
    """Autograd through draws gives the gradients of E sum_i c_i x_i^2 = sum_i c_i (mean_i^2 + sum_j L_ij^2)."""
    mean = torch.tensor([0.5, -1.0], dtype=F64, requires_grad=True)
    scale = torch.tensor([[1.0, 0.2], [0.8, 0.5]], dtype=F64, requires_grad=True)
    c = torch.tensor([1.0, 3.0], dtype=F64)

    def energy(mean, scale, noise):
        return (c * reparameterize(mean, scale, noise).square()).sum()

    gradient = torch.func.vmap(torch.func.grad(energy, argnums=(0, 1)), in_dims=(None, None, 0))
    of_mean, of_scale = gradient(mean, scale, normal(generator, 50_000, 2))
    within_four_sigma(of_mean, 2 * c * mean.detach())
    within_four_sigma(of_scale, 2 * c[:, None] * scale.detach())


def test_forward_marginal__induction():
    """SymPy: if x_t-1 is a x_0 + s e, a step makes sqrt(alpha) a x_0 and variance alpha s^2 + beta = 1 - alpha a^2."""
    beta, a = sp.symbols("beta a", positive=True)
    alpha, variance = 1 - beta, 1 - a**2
    after_mean, after_variance = sp.sqrt(alpha) * a, alpha * variance + beta
    assert sp.simplify(after_variance - (1 - after_mean**2)) == 0
    # And the induction starts: alpha-bar_0 = 1 leaves x_0 as it is.
    x0, noise = torch.tensor([[0.3, -2.0]], dtype=F64), torch.ones(1, 2, dtype=F64)
    assert torch.equal(forward_marginal(Schedule(linear_betas()), x0, torch.zeros(1, dtype=F64), noise), x0)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), scaled_linear_betas()])
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_forward_marginal(betas, t):
    """The coefficients of x_0 and of the noise are the products that the steps make, in float64 to 1e-12."""
    one, zero = torch.ones(1, 3, dtype=F64), torch.zeros(1, 3, dtype=F64)
    signal, variance = one, zero
    for beta in betas[:t]:
        signal = forward_step(signal, beta[None], zero)
        variance = forward_step(zero, beta[None], one).square() + (1 - beta) * variance
    time, schedule = torch.tensor([t], dtype=F64), Schedule(betas)
    torch.testing.assert_close(forward_marginal(schedule, one, time, zero), signal, rtol=1e-12, atol=0)
    torch.testing.assert_close(forward_marginal(schedule, zero, time, one), variance.sqrt(), rtol=1e-12, atol=0)


def test_forward_marginal__iterated(within_four_sigma, generator):
    """Monte Carlo: a chain of single steps from one x_0 ends with the marginal's mean and variance."""
    schedule = Schedule(linear_betas(20, 0.01, 0.3))
    x0 = torch.full((50_000, 1), 1.7, dtype=F64)
    x = x0
    for beta in schedule.betas:
        x = forward_step(x, beta.expand(50_000), normal(generator, 50_000, 1))
    t = torch.full((50_000,), 20.0, dtype=F64)
    mean = forward_marginal(schedule, x0, t, torch.zeros_like(x0))
    spread = forward_marginal(schedule, torch.zeros_like(x0), t, torch.ones_like(x0))
    within_four_sigma(x, mean[0])
    within_four_sigma((x - mean).square(), spread[0].square())


def test_forward_cov(within_four_sigma, generator):
    """Monte Carlo on chains: Cov(x_u, x_t | x_0) = alpha(t) / alpha(u) sigma(u)^2, for every pair u <= t."""
    schedule = Schedule(linear_betas(6, 0.05, 0.5))
    chain = [torch.full((100_000, 1), -0.8, dtype=F64)]
    for beta in schedule.betas:
        chain.append(forward_step(chain[-1], beta.expand(100_000), normal(generator, 100_000, 1)))
    for t in range(1, 7):
        for u in range(1, t + 1):
            (alpha_u, sigma_u), (alpha_t, _) = at(schedule, u), at(schedule, t)
            product = (chain[u] + 0.8 * alpha_u) * (chain[t] + 0.8 * alpha_t)
            within_four_sigma(product, alpha_t / alpha_u * sigma_u**2)


def test_forward_jump__composition():
    """SymPy: a jump u to t after the marginal at u is the marginal at t, and two jumps are one."""
    s, u, t = sp.symbols("a_s a_u a_t", positive=True)

    def jump(start, end):
        return end / start, (1 - end**2) - (end / start) ** 2 * (1 - start**2)

    for start in (sp.Integer(1), s):  # from x_0, where alpha = 1, and from any other time
        (first, first_variance), (second, second_variance) = jump(start, u), jump(u, t)
        whole, whole_variance = jump(start, t)
        assert sp.simplify(second * first - whole) == 0
        assert sp.simplify(second**2 * first_variance + second_variance - whole_variance) == 0
    assert sp.simplify(jump(sp.Integer(1), t)[1] - (1 - t**2)) == 0


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), scaled_linear_betas()])
def test_forward_jump(betas):
    """The function equals the formula on a table of times; for u = t - 1 its variance is beta_t, for u = t 0."""
    schedule = Schedule(betas)
    t = torch.arange(1, 1001, dtype=F64)
    scale, spread = forward_jump(schedule, t - 1, t)
    torch.testing.assert_close(scale, (1 - betas).sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(spread.square(), betas, rtol=1e-9, atol=0)
    assert torch.equal(forward_jump(schedule, t, t)[1], torch.zeros_like(t))
    for u, t in [(0, 1), (0, 1000), (3, 700), (250, 251), (100, 900)]:
        (alpha_u, sigma_u), (alpha_t, sigma_t) = at(schedule, u), at(schedule, t)
        scale, spread = forward_jump(schedule, torch.tensor([u], dtype=F64), torch.tensor([t], dtype=F64))
        assert scale.item() == pytest.approx(alpha_t / alpha_u, rel=1e-10)
        assert spread.item() ** 2 == pytest.approx(sigma_t**2 - (alpha_t / alpha_u * sigma_u) ** 2, rel=1e-9)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), scaled_linear_betas()])
def test_snr(betas):
    """It is alpha_bar / (1 - alpha_bar) at every whole time, infinite at 0, and falls strictly between them too."""
    schedule = Schedule(betas)
    snr = schedule.snr(torch.arange(1001, dtype=F64))
    alpha_bar = torch.tensor([at(schedule, t)[0] ** 2 for t in range(1, 1001)], dtype=F64)
    torch.testing.assert_close(snr[1:], alpha_bar / (1 - alpha_bar), rtol=1e-9, atol=0)
    assert snr[0] == math.inf
    assert bool((schedule.snr(torch.linspace(0, 1000, 4001, dtype=F64)).diff() < 0).all())


@pytest.mark.parametrize(("second_moment", "expected_bits"), [(0.25, 7.3e-6), (1.0, 2.9e-5)])
def test_prior_gap(second_moment, expected_bits):
    """KL between two Gaussians, from torch.distributions; in bits the known 7.3e-6 (E x_0^2 = .25) and 2.9e-5 (1)."""
    schedule = Schedule(linear_betas())
    x0 = torch.full((1, 3), math.sqrt(second_moment), dtype=F64)
    x0[0, 1] *= -1
    alpha, sigma = at(schedule, 1000)
    exact = kl_divergence(Normal(alpha * x0, torch.tensor(sigma, dtype=F64)), Normal(0.0, 1.0)).sum()
    nats = prior_gap(schedule, x0)
    assert nats.shape == (1,)
    assert nats.item() == pytest.approx(exact.item(), rel=1e-9)
    assert nats.item() / 3 / math.log(2) == pytest.approx(expected_bits, rel=0.01)


def test_prior_gap__float32():
    """The gap of 1e-5 nats survives float32 and a strong signal at T, where the logarithm must not cancel."""
    x0 = torch.tensor([[0.5, -0.5], [1.0, 1.0]])
    for schedule in (Schedule(linear_betas()), Schedule(linear_betas(10, 0.01, 0.5))):
        torch.testing.assert_close(prior_gap(schedule, x0), prior_gap(schedule, x0.double()).float(), rtol=1e-5, atol=0)
