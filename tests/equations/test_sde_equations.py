"""Diffusion in continuous time: equations sde to pf-ode, continuity, gauss-flow and cdf-invariant."""

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch

from fromnoise.diffusion.exact import GaussianMixture, gaussian_flow
from fromnoise.diffusion.process import forward_step
from fromnoise.diffusion.samplers import final
from fromnoise.diffusion.schedules import Schedule, karras_sigmas
from fromnoise.diffusion.sde import (
    probability_flow,
    reverse_drift,
    sde_step,
    variance_exploding,
    variance_preserving,
)
from fromnoise.diffusion.solvers import heun

F64 = torch.float64
RATE = sp.symbols("rate", positive=True)


def vanishes(expression):
    """Whether SymPy finds that an expression is 0, once the code's floats are fractions."""
    return sp.simplify(sp.nsimplify(expression.doit(), rational=True).doit()) == 0


def end_variance(steps, start, drift_and_diffusion, dt):
    """Exact variance of the end of Euler-Maruyama steps on a linear equation: the square of what each noise makes."""
    x = torch.zeros(steps + 1, 1, dtype=F64)  # row 0 follows the start, row n the noise of step n
    x[0] = math.sqrt(start)
    for step in range(steps):
        noise = torch.zeros_like(x).index_fill_(0, torch.tensor(step + 1), 1.0)
        x = sde_step(x, *drift_and_diffusion(x, step * dt), dt, noise)
    return x.square().sum().item()


def test_sde(within_four_sigma, generator):
    """Monte Carlo: in a short time x moves by f dt on average, and spreads by g^2 dt, forwards and back."""
    x = torch.full((100_000, 2), 0.5, dtype=F64)
    drift, diffusion = torch.tensor([3.0, -1.0], dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)
    for dt in (0.01, -0.01):
        noise = torch.randn(x.shape, generator=generator, dtype=F64)
        moved = sde_step(x, drift, diffusion, dt, noise) - x
        within_four_sigma(moved, drift * dt)
        within_four_sigma((moved - drift * dt).square(), diffusion.square() * abs(dt))


def test_sde__independent_of_the_step():
    """Noise enters with the root of the step: the end of finer steps has the same law, to an error that halves."""
    errors = []
    for steps in (100, 200, 400):
        beta = torch.tensor(2.0, dtype=F64)
        variance = end_variance(steps, 4.0, lambda x, t, beta=beta: variance_preserving(x, beta), 1 / steps)
        errors.append(abs(variance - (1 + 3 * math.exp(-2))))  # the variance falls from 4 to 1 as exp(-beta t)
    for coarse, fine in pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(-1, abs=0.1)


def test_vp():
    """SymPy: from x_0 the mean is a x_0 and the variance 1 - a^2 with a = exp(-1/2 int beta), at any time."""
    t, x0, x = sp.symbols("t x_0 x", real=True)
    beta = sp.Function("beta", positive=True)(t)
    a = sp.exp(-sp.Integral(beta, (t, 0, t)) / 2)
    mean, variance = a * x0, 1 - a**2
    drift, diffusion = variance_preserving(x, beta)
    slope = sp.diff(drift, x)
    assert vanishes(sp.diff(mean, t) - slope * mean)
    assert vanishes(sp.diff(variance, t) - 2 * slope * variance - diffusion**2)


def test_vp__ddpm(generator):
    """A step of DDPM is one of this equation, up to beta^2 / 8 of x."""
    x, noise = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    for beta in (0.02, 0.001):
        given = torch.tensor(beta, dtype=F64)
        ours = sde_step(x, *variance_preserving(x, given), 1.0, noise)
        difference = forward_step(x, given.expand(4), noise) - ours
        torch.testing.assert_close(difference, -(beta**2) / 8 * x, rtol=2e-2, atol=0)


def test_ve():
    """SymPy: the variance grows from sigma(0)^2 to sigma^2 and the mean stays."""
    t, x = sp.symbols("t x", real=True)
    sigma = sp.Function("sigma", positive=True)(t)
    drift, diffusion = variance_exploding(x, RATE)
    assert drift == 0
    assert vanishes(sp.diff(sigma**2 - sigma.subs(t, 0) ** 2, t) - (diffusion**2).subs(RATE, sp.diff(sigma**2, t)))


def test_ve__is_vp_rescaled():
    """SymPy: divided by a, the variance-preserving process is the exploding one with sigma^2 / a^2."""
    t, x = sp.symbols("t x", real=True)
    beta = sp.Function("beta", positive=True)(t)
    a = sp.exp(-sp.Integral(beta, (t, 0, t)) / 2)
    drift, diffusion = variance_preserving(x, beta)
    # d(x / a) = (f / a - x a' / a^2) dt + g / a dw
    assert vanishes(drift / a - x * sp.diff(a, t) / a**2)
    _, exploding = variance_exploding(x, RATE)
    assert vanishes((diffusion / a) ** 2 - (exploding**2).subs(RATE, sp.diff((1 - a**2) / a**2, t)))


def gaussian_process():
    """SymPy: time, x, the VP process with beta(t) on N(0, s^2), its variance and its score."""
    t, x = sp.symbols("t x", real=True)
    s = sp.symbols("s", positive=True)
    beta = sp.Function("beta", positive=True)(t)
    a = sp.exp(-sp.Integral(beta, (t, 0, t)) / 2)
    variance = a**2 * s**2 + 1 - a**2
    return t, x, *variance_preserving(x, beta), variance, -x / variance


def test_reverse_sde():
    """SymPy: on a Gaussian the variance that the way back has is the way forward's, at each time."""
    t, x, drift, diffusion, variance, score = gaussian_process()
    slope = sp.diff(reverse_drift(drift, diffusion, score), x)
    # Back in time, the variance changes by -2 slope variance + g^2.
    assert vanishes(-sp.diff(variance, t) - (-2 * slope * variance + diffusion**2))


def test_reverse_sde__any_density():
    """SymPy: back in time, with drift and noise of its own, any density changes by minus what it does forwards."""
    x, g = sp.symbols("x g", positive=True)
    p, f = sp.Function("p")(x), sp.Function("f")(x)
    forwards = -sp.diff(f * p, x) + g**2 / 2 * sp.diff(p, x, 2)
    drift = -reverse_drift(f, g, sp.diff(p, x) / p)  # in time that runs backwards
    backwards = -sp.diff(drift * p, x) + g**2 / 2 * sp.diff(p, x, 2)
    assert vanishes(backwards + forwards)


def test_reverse_sde__converges():
    """From the true end of N(0, .25), Euler-Maruyama's variance at 0 has an error that falls like the step."""
    errors = []
    for steps in (200, 400, 800):

        def back(x, minus_t):
            t = 1 + minus_t  # from 1 to 0
            alpha_bar = math.exp(-(0.1 * t + 9.95 * t * t))
            beta = torch.tensor(0.1 + 19.9 * t, dtype=F64)
            drift, diffusion = variance_preserving(x, beta)
            return reverse_drift(drift, diffusion, -x / (0.25 * alpha_bar + 1 - alpha_bar)), diffusion

        start = 1 - 0.75 * math.exp(-10.05)
        errors.append(abs(end_variance(steps, start, back, -1 / steps) - 0.25))
    for coarse, fine in pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(-1, abs=0.1)


def test_pf_ode():
    """SymPy: any density p moved by f - g^2 (log p)' / 2 changes as the Fokker-Planck equation says: residual 0."""
    x, g = sp.symbols("x g", positive=True)
    p, f = sp.Function("p")(x), sp.Function("f")(x)
    fokker_planck = -sp.diff(f * p, x) + g**2 / 2 * sp.diff(p, x, 2)
    flow = probability_flow(f, g, sp.diff(p, x) / p)
    assert vanishes(-sp.diff(flow * p, x) - fokker_planck)


def test_pf_ode__gaussian():
    """SymPy: on a Gaussian it keeps x in proportion to the standard deviation."""
    t, x, drift, diffusion, variance, score = gaussian_process()
    slope = sp.diff(probability_flow(drift, diffusion, score), x)
    assert vanishes(sp.diff(sp.sqrt(variance), t) / sp.sqrt(variance) - slope)


def test_pf_ode__is_edm():
    """SymPy: for the exploding process with sigma = t it is (x - x0_hat) / sigma, by Tweedie's formula."""
    x, x0_hat = sp.symbols("x x_0", real=True)
    sigma = sp.symbols("sigma", positive=True)
    drift, diffusion = variance_exploding(x, RATE)
    score = (x0_hat - x) / sigma**2
    flow = probability_flow(drift, diffusion, score).subs(RATE, 2 * sigma)
    assert vanishes(flow - (x - x0_hat) / sigma)


def test_continuity():
    """SymPy: on two points +1 and -1, the mean of the noise carries the density of x_0 + r noise, and no other does."""
    y = sp.symbols("y", real=True)
    r = sp.symbols("r", positive=True)
    density = sum(sp.exp(-((y - point) ** 2) / (2 * r**2)) for point in (1, -1)) / (2 * sp.sqrt(2 * sp.pi) * r)
    velocity = (y - sp.tanh(y / r**2)) / r  # E[x_0 | y] of the two points
    residual = sp.diff(density, r) + sp.diff(density * velocity, y)
    assert sp.simplify(residual.rewrite(sp.exp)) == 0
    wrong = residual.subs(sp.tanh(y / r**2), 0).doit()  # as if the mean picture were 0
    assert abs(float(wrong.subs({y: 0.4, r: 0.5}))) > 0.1


def test_continuity__any_path():
    """SymPy: on a Gaussian, E[alpha' x_0 + sigma' noise | x] carries the density along any path alpha(t), sigma(t)."""
    t, x, mean = sp.symbols("t x mu", real=True)
    s = sp.symbols("s", positive=True)
    alpha, sigma = (sp.Function(name, positive=True)(t) for name in ("alpha", "sigma"))
    variance = alpha**2 * s**2 + sigma**2
    density = sp.exp(-((x - alpha * mean) ** 2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)
    x0_hat = mean + alpha * s**2 / variance * (x - alpha * mean)
    velocity = sp.diff(alpha, t) * x0_hat + sp.diff(sigma, t) * (x - alpha * x0_hat) / sigma
    assert sp.simplify((sp.diff(density, t) + sp.diff(density * velocity, x)) / density) == 0


def test_continuity__sampler(within_four_sigma):
    """Monte Carlo: of noisy data of two heaps that `heun` moves along the mean to a lower noise level, the shares below
    any place are those of data with that noise.
    """
    top, bottom = 99**0.5, 0.5
    schedule = Schedule(torch.tensor([0.99], dtype=F64))  # sigma / alpha is top times the time
    weights, means, stds = (torch.tensor(v, dtype=F64) for v in ([0.4, 0.6], [[-1.0], [0.8]], [0.3, 0.2]))
    heaps, generator = GaussianMixture(schedule, weights, means, stds), torch.Generator().manual_seed(0)
    start = heaps.sample(20_000, generator) + top * torch.randn(20_000, 1, generator=generator, dtype=F64)
    times = (karras_sigmas(41, bottom, top) / top).clamp(max=1)
    scale = schedule.alpha(times)
    moved = final(heun(heaps, start * scale[0], times.tolist(), generator)) / scale[-1]
    for place in (-1.5, -0.8, 0.0, 0.8, 1.4):
        expected = weights @ torch.special.ndtr((place - means[:, 0]) / (stds**2 + bottom**2).sqrt())
        within_four_sigma(moved < place, expected)


def test_gauss_flow():
    """SymPy: it solves dx/dsigma = (x - x0_hat) / sigma with the exact x0_hat, and starts at x."""
    sigma, s, start = sp.symbols("sigma s sigma_0", positive=True)
    mean, x = sp.symbols("mu x", real=True)
    curve = gaussian_flow(x, start, sigma, mean, s)
    x0_hat = mean + s**2 / (s**2 + sigma**2) * (curve - mean)
    assert vanishes(sp.diff(curve, sigma) - (curve - x0_hat) / sigma)
    assert vanishes(curve.subs(sigma, start) - x)
    assert gaussian_flow(3.0, 2.0, 2.0, 0.4, 0.5) == 3.0


def test_cdf_invariant():
    """SymPy: in one dimension the probability below a point that moves with the flow does not change."""
    x, sigma = sp.symbols("x sigma", positive=True)
    cdf = sp.Function("F")(x)
    p = sp.diff(cdf, x)
    # With sigma = t the density obeys dp/dsigma = sigma p'', so the distribution function changes by sigma p'.
    change = sigma * sp.diff(p, x)
    drift, diffusion = variance_exploding(x, RATE)
    speed = probability_flow(drift, diffusion, sp.diff(p, x) / p).subs(RATE, 2 * sigma)
    assert vanishes(change + p * speed)


def test_cdf_invariant__mixture():
    """Followed by many steps of Heun's method on two Gaussians, it stays the same to 1e-5."""
    top, bottom, steps = 10.0, 0.02, 600
    schedule = Schedule(torch.tensor([top**2 / (1 + top**2)], dtype=F64))  # sigma / alpha is top times the time
    weights, means, stds = (torch.tensor(v, dtype=F64) for v in ([0.4, 0.6], [-0.8, 0.5], [0.5, 0.2]))
    x = torch.linspace(-15, 15, 9, dtype=F64)[:, None]
    times = (karras_sigmas(steps + 1, bottom, top) / top).clamp(max=1)
    denoise = GaussianMixture(schedule, weights, means[:, None], stds)
    end = final(heun(denoise, x * schedule.alpha(times[:1]), times.tolist(), torch.Generator()))
    end = end / schedule.alpha(times[-1:])

    def below(x, level):
        return (weights * torch.special.ndtr((x - means) / (stds.square() + level**2).sqrt())).sum(1)

    torch.testing.assert_close(below(end, bottom), below(x, top), rtol=0, atol=1e-5)
    assert (end - x).abs().max() > 10
