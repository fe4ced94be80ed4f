"""Fewer steps by another training: equations reflow, prog-distill and consistency."""

import math

import pytest
import sympy as sp
import torch

from fromnoise.diffusion.distillation import (
    ConsistencyDenoiser,
    consistency_coefficients,
    distillation_target,
    reflow_loss,
)
from fromnoise.diffusion.exact import gaussian_denoiser, gaussian_flow
from fromnoise.diffusion.process import forward_marginal, per_sample
from fromnoise.diffusion.samplers import ddim, final, flow_times
from fromnoise.diffusion.schedules import FlowSchedule, Schedule, linear_betas
from fromnoise.diffusion.solvers import edm_ode, euler

F64 = torch.float64
FLOW, LINEAR = FlowSchedule(), Schedule(linear_betas())
MEAN, STD = 0.7, 0.5


class Gaussian:
    """The exact denoiser of N(0.7, 0.25)."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x, t):
        alpha, sigma = per_sample(self.schedule.alpha(t), x), per_sample(self.schedule.sigma(t), x)
        return gaussian_denoiser(x, alpha, sigma, torch.tensor(MEAN, dtype=F64), torch.tensor(STD**2, dtype=F64))


class Answer:
    """A denoiser that gives one answer."""

    def __init__(self, schedule, answer):
        self.schedule, self.answer = schedule, answer

    def __call__(self, x, t):
        return self.answer


def straight(x, t):
    """The velocity at x_t, if each noise z went straight to 0.7 + 0.5 z: solve x_t = (1 - t)(.7 + .5 z) + t z for z."""
    t = per_sample(t, x)
    noise = (x - (1 - t) * MEAN) / ((1 - t) * STD + t)
    return noise - (MEAN + STD * noise)


def test_reflow(generator):
    """The loss of each sample is the mean square of what misses, at the point of the line between the pair."""
    noise, end = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    t = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=F64)
    loss = reflow_loss(lambda x, t, shift: x.sin() + shift, noise, end, t, shift=torch.tensor(0.5))
    x_t = (1 - t)[:, None] * end + t[:, None] * noise
    torch.testing.assert_close(loss, (x_t.sin() + 0.5 - (noise - end)).square().mean(1), rtol=1e-12, atol=0)


def test_reflow__a_gaussian_in_one_step(generator):
    """The flow of N(.7, .25) leads noise z to .7 + z / 2. On these pairs a flow exists whose loss is 0, and one step of
    Euler's method on it is exact for each point, where one step on the first flow gives the mean alone.
    """
    noise = torch.randn(50, 1, generator=generator, dtype=F64)
    end = final(euler(Gaussian(FLOW), noise, flow_times(400), generator))
    torch.testing.assert_close(end, MEAN + STD * noise, rtol=0, atol=0.01)
    end = MEAN + STD * noise
    t = torch.rand(50, generator=generator, dtype=F64)
    assert float(reflow_loss(straight, noise, end, t).max()) < 1e-25
    one_step = noise - straight(noise, torch.ones(50, dtype=F64))
    torch.testing.assert_close(one_step, end, rtol=1e-12, atol=1e-12)
    before = final(euler(Gaussian(FLOW), noise, [1.0, 0.0], generator))
    torch.testing.assert_close(before, torch.full_like(before, MEAN))


def test_reflow__random_pairs_cannot_have_loss_0(generator):
    """With images drawn by themselves, even the best flow leaves the variance of noise - image given x_t."""
    noise, x0 = torch.randn(2, 20_000, 1, generator=generator, dtype=F64)
    x0, t = MEAN + STD * x0, torch.full((20_000,), 0.6, dtype=F64)

    def best(x, t):
        return edm_ode(x, Gaussian(FLOW)(x, t), per_sample(t, x))

    loss = reflow_loss(best, noise, x0, t)
    least = STD**2 / (0.4**2 * STD**2 + 0.6**2)  # Var(noise - x0 | x_t), of two Gaussians
    assert float(loss.mean()) == pytest.approx(least, abs=4 * float(loss.std()) / math.sqrt(20_000))
    assert float(reflow_loss(straight, noise, x0, t).mean()) > least + 0.01


def test_prog_distill(generator):
    """On any teacher: DDIM's one step with the target ends where the teacher's two steps end."""
    for t, s, u in ((1000.0, 700.0, 400.0), (400.0, 200.0, 0.0), (3.0, 2.0, 1.0)):
        x = torch.randn(6, 2, generator=generator, dtype=F64)
        two = final(ddim(Gaussian(LINEAR), x, [t, s, u], generator))
        at_t, at_u = (torch.full((6,), time, dtype=F64) for time in (t, u))
        target = distillation_target(LINEAR, x, two, at_t, at_u)
        one = final(ddim(Answer(LINEAR, target), x, [t, u], generator))
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_prog_distill__one_step_is_the_guess(generator):
    """If the teacher took a single step, the target is its own guess; at u = 0 the target is where it ends."""
    x = torch.randn(6, 2, generator=generator, dtype=F64)
    t, u = torch.full((6,), 900.0, dtype=F64), torch.full((6,), 500.0, dtype=F64)
    end = final(ddim(Gaussian(LINEAR), x, [900.0, 500.0], generator))
    torch.testing.assert_close(distillation_target(LINEAR, x, end, t, u), Gaussian(LINEAR)(x, t))
    zero = torch.zeros(6, dtype=F64)
    torch.testing.assert_close(distillation_target(LINEAR, x, end, t, zero), end, rtol=1e-12, atol=1e-12)


def test_prog_distill__formula():
    """SymPy: solved for the guess, DDIM's step x_u = a_u x0 + sigma_u (x_t - a_t x0) / sigma_t is the formula."""
    a_t, a_u, s_t, s_u, x_t, x_u, guess = sp.symbols("a_t a_u s_t s_u x_t x_u guess", positive=True)
    (solved,) = sp.solve(a_u * guess + s_u * (x_t - a_t * guess) / s_t - x_u, guess)
    assert sp.simplify(solved - (x_u - s_u / s_t * x_t) / (a_u - s_u / s_t * a_t)) == 0


def test_consistency():
    """SymPy, for the formula; the least level gives 1 and 0; far above it, those of EDM."""
    level, least, std = sp.symbols("r r_min s", positive=True)
    skip = std**2 / ((level - least) ** 2 + std**2)
    out = std * (level - least) / sp.sqrt(level**2 + std**2)
    for r in (0.002, 0.3, 4.0, 80.0):
        got = consistency_coefficients(torch.tensor(r, dtype=F64), 0.002, 0.5)
        for value, formula in zip(got, (skip, out), strict=True):
            exact = float(formula.subs({level: r, least: 0.002, std: 0.5}))
            assert float(value) == pytest.approx(exact, rel=1e-12, abs=1e-15)
    at_least = consistency_coefficients(torch.tensor(0.002, dtype=F64), 0.002, 0.5)
    assert (float(at_least[0]), float(at_least[1])) == (1.0, 0.0)


def test_consistency__boundary(generator):
    """At the least level the answer is the image itself, whatever the network says; above it the network counts."""
    level = torch.full((3,), LINEAR.noise_to_signal(torch.tensor(1.0, dtype=F64)).item(), dtype=F64)
    x = torch.randn(3, 1, 2, 2, generator=generator, dtype=F64)
    model = ConsistencyDenoiser(lambda y, c: 5 + y.exp(), LINEAR, float(level[0]))
    one = torch.ones(3, dtype=F64)
    torch.testing.assert_close(model(x, one), x / LINEAR.alpha(one)[:, None, None, None], rtol=1e-12, atol=1e-12)
    assert float((model(x, 100 * one) - x).abs().min()) > 0.1


def test_consistency__gaussian(generator):
    """The exact map of N(.7, .25), to the end of its curve at the least level: with the network that it asks for, the
    model gives it, and gives one answer for all points of a curve.
    """
    least = LINEAR.noise_to_signal(torch.tensor(1.0, dtype=F64)).item()

    def network(scaled, quarter_log):
        level = (4 * quarter_log).exp()[:, None]
        y = scaled * (level.square() + STD**2).sqrt()
        end = MEAN + (y - MEAN) * ((STD**2 + least**2) / (STD**2 + level.square())).sqrt()
        skip, out = consistency_coefficients(level, least, STD)
        return (end - skip * y) / out

    model = ConsistencyDenoiser(network, LINEAR, least, STD)
    start = torch.randn(5, 1, generator=generator, dtype=F64)
    answers = []
    for time in (1000.0, 600.0, 50.0):
        t = torch.full((5,), time, dtype=F64)
        level = LINEAR.noise_to_signal(t)
        first = float(LINEAR.noise_to_signal(torch.tensor(1000.0, dtype=F64)))
        y = gaussian_flow(100 * start, first, float(level[0]), MEAN, STD)
        answers.append(model(forward_marginal(LINEAR, y, t, torch.zeros_like(y)), t))
        torch.testing.assert_close(answers[-1], gaussian_flow(y, float(level[0]), least, MEAN, STD))
    torch.testing.assert_close(answers[0], answers[2], rtol=1e-6, atol=1e-9)
