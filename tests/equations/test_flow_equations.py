"""Flow matching, with t = 0 the image and t = 1 noise: equations interp, cfm, flow-score and shift."""

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fromnoise.diffusion.exact import GaussianMixture, gaussian_denoiser
from fromnoise.diffusion.losses import Weighting, training_loss
from fromnoise.diffusion.parameterization import Prediction, flow_velocity
from fromnoise.diffusion.process import forward_marginal, per_sample
from fromnoise.diffusion.samplers import ddim, final, flow_times
from fromnoise.diffusion.schedules import FlowSchedule, shift
from fromnoise.diffusion.score import flow_from_score
from fromnoise.diffusion.solvers import edm_ode, euler, heun

F64 = torch.float64
FLOW = FlowSchedule()


class Gaussian:
    """The exact denoiser of N(mean, variance) on the path of flow matching, at t = 1 too."""

    schedule = FLOW

    def __init__(self, mean, variance):
        self.mean, self.variance = torch.tensor(mean, dtype=F64), torch.tensor(variance, dtype=F64)

    def __call__(self, x, t):
        alpha, sigma = per_sample(FLOW.alpha(t), x), per_sample(FLOW.sigma(t), x)
        return gaussian_denoiser(x, alpha, sigma, self.mean, self.variance)


def test_interp(generator):
    """x_t is (1 - t) x_0 + t noise: both ends exactly, a straight line between, its slope noise - x_0."""
    x0, noise = torch.randn(2, 5, 3, generator=generator, dtype=F64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=F64)
    x = forward_marginal(FLOW, x0, t, noise)
    torch.testing.assert_close(x, (1 - t)[:, None] * x0 + t[:, None] * noise, rtol=1e-12, atol=1e-12)
    assert torch.equal(x[0], x0[0])
    assert torch.equal(x[-1], noise[-1])
    later = forward_marginal(FLOW, x0, (t + 0.05).clamp(max=1), noise)[:-1]
    torch.testing.assert_close((later - x[:-1]) / 0.05, (noise - x0)[:-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [euler, ddim, heun])
def test_interp__one_image(sampler, generator):
    """On one image x stays on its straight line, whatever the steps; the direction is the flow's velocity."""
    image, noise = torch.tensor([[0.7, -1.0]], dtype=F64), torch.randn(1, 2, generator=generator, dtype=F64)

    def denoise(x, t):
        return image

    denoise.schedule = FLOW
    for t, x, _ in sampler(denoise, noise, [1.0, 0.6, 0.1, 0.0], generator):
        torch.testing.assert_close(x, (1 - t) * image + t * noise, rtol=1e-12, atol=1e-12)
        if t > 0:
            torch.testing.assert_close(edm_ode(x, image, torch.tensor(t, dtype=F64)), noise - image)


def test_interp__one_step(generator):
    """On any data, one step from noise takes every sample to the mean: there x says nothing of the image."""
    x = torch.randn(4, 1, generator=generator, dtype=F64)
    for sampler in (euler, heun, ddim):
        result = final(sampler(Gaussian(0.7, 0.25), x, [1.0, 0.0], generator))
        torch.testing.assert_close(result, torch.full_like(x, 0.7), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("sampler", "order"), [(euler, -1), (ddim, -1), (heun, -2)])
def test_interp__order(sampler, order):
    """On N(.7, .25) the whole flow takes noise z to .7 + z / 2; the error falls as the method's order says."""
    x = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    errors = [
        (final(sampler(Gaussian(0.7, 0.25), x, flow_times(steps), torch.Generator())) - 0.7 - x / 2)
        .square()
        .mean()
        .sqrt()
        for steps in (80, 160, 320)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(order, abs=0.1)


def test_cfm(within_four_sigma):
    """Monte Carlo at one time: the gradient of |u_theta - (noise - x_0)|^2 is that of |u_theta - u|^2, with u the flow
    itself, for a u_theta that is wrong; noise - x_0 without its mean is not 0.
    """
    generator, count, mean, variance = torch.Generator().manual_seed(3), 200_000, 0.7, 0.25
    x0 = mean + math.sqrt(variance) * torch.randn(count, 1, generator=generator, dtype=F64)
    noise = torch.randn(count, 1, generator=generator, dtype=F64)
    t = torch.full((count,), 0.4, dtype=F64)
    x = forward_marginal(FLOW, x0, t, noise)
    x0_hat = Gaussian(mean, variance)(x, t)
    flow = (x - 0.6 * x0_hat) / 0.4 - x0_hat
    features = torch.cat([torch.ones_like(x), x, x**2, torch.sin(3 * x)], dim=1)
    wrong = features @ torch.tensor([[0.3], [-1.0], [0.2], [0.5]], dtype=F64)
    target = flow_velocity(x0, noise)
    within_four_sigma(2 * (wrong - target) * features - 2 * (wrong - flow) * features, torch.zeros(4, dtype=F64))
    assert (target - flow).square().mean() > 0.1
    torch.testing.assert_close(target, noise - x0)


def test_cfm__loss(generator):
    """The training loss of a network that predicts the flow is the formula, sample by sample."""
    x0, noise = torch.randn(2, 6, 4, generator=generator, dtype=F64)
    t = torch.rand(6, generator=generator, dtype=F64)
    loss = training_loss(lambda x, timestep: x.sin(), FLOW, Prediction.FLOW, Weighting.OUTPUT, x0, t, noise)
    x = (1 - t)[:, None] * x0 + t[:, None] * noise
    torch.testing.assert_close(loss, (x.sin() - (noise - x0)).square().mean(1), rtol=1e-12, atol=0)


def test_flow_score(generator):
    """On a mixture, from the score that autograd takes of torch.distributions' density: it is E[noise - x_0 | x]."""
    weights, means = torch.tensor([0.3, 0.7], dtype=F64), torch.randn(2, 3, generator=generator, dtype=F64)
    stds = torch.tensor([0.5, 0.2], dtype=F64)
    denoise = GaussianMixture(FLOW, weights, means, stds)
    for time in (0.1, 0.5, 0.95):
        x = torch.randn(8, 3, generator=generator, dtype=F64, requires_grad=True)
        spread = (((1 - time) * stds).square() + time**2).sqrt()[:, None].expand(2, 3)
        density = MixtureSameFamily(Categorical(weights), Independent(Normal((1 - time) * means, spread), 1))
        (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        t = torch.full((8,), time, dtype=F64)
        x0_hat = denoise(x.detach(), t)
        noise_hat = (x.detach() - (1 - time) * x0_hat) / time
        actual = flow_from_score(x.detach(), score, t[:, None])
        torch.testing.assert_close(actual, noise_hat - x0_hat, rtol=1e-8, atol=1e-9)


def test_flow_score__paper():
    """SymPy: with time reversed, t = 1 - s, it is minus the paper's (x + (1 - s) score) / s."""
    x, score, s = sp.symbols("x score s", positive=True)
    assert sp.simplify(flow_from_score(x, score, 1 - s) + (x + (1 - s) * score) / s) == 0


def test_shift():
    """SymPy: the noise level t / (1 - t) becomes k times as high; two shifts are one by the product; ends stay."""
    t, k, other = sp.symbols("t k l", positive=True)
    moved = shift(t, k)
    assert sp.simplify(moved / (1 - moved) - k * t / (1 - t)) == 0
    assert sp.simplify(shift(moved, other) - shift(t, k * other)) == 0
    assert sp.simplify(moved - k * t / (1 + (k - 1) * t)) == 0
    assert (shift(0.0, 3.0), shift(1.0, 3.0), shift(0.5, 1.0)) == (0, 1, 0.5)


def test_shift__noise_level():
    """On tensors, by the schedule's own noise level."""
    t = torch.tensor([0.0, 0.1, 0.5, 0.99], dtype=F64)
    level = FLOW.noise_to_signal(shift(t, 3.0))
    torch.testing.assert_close(level, 3 * FLOW.noise_to_signal(t), rtol=1e-12, atol=0)
