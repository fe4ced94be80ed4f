"""Classifier-free guidance: equations cfg-w, cfg-s and cfg-gauss."""

import math

import pytest
import sympy as sp
import torch
from scipy.integrate import quad

from fromnoise.diffusion.exact import gaussian_denoiser
from fromnoise.diffusion.guidance import GuidedDenoiser, guide
from fromnoise.diffusion.process import per_sample
from fromnoise.diffusion.samplers import ddim
from fromnoise.diffusion.schedules import Schedule

F64 = torch.float64


def test_cfg_w(generator):
    """(1 + w) eps_c - w eps_0: at w = 0 conditional, at w = -1 unconditional; `guide` is it with s = 1 + w."""
    unconditional, conditional = torch.randn(2, 3, 4, generator=generator, dtype=F64)
    for w in (-1.0, 0.0, 0.5, 6.5):
        expected = (1 + w) * conditional - w * unconditional
        torch.testing.assert_close(guide(unconditional, conditional, 1 + w), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(guide(unconditional, conditional, 1.0), conditional)
    assert torch.equal(guide(unconditional, conditional, 0.0), unconditional)


def test_cfg_w__implied_classifier():
    """SymPy on Gaussians: it is the score of p(x|c) p(c|x)^w, where p(c|x) is p(x|c) / p(x) by Bayes' rule."""
    x, m, w = sp.symbols("x m w", real=True)
    s2, variance = sp.symbols("s2 S2", positive=True)
    conditional, unconditional = -((x - m) ** 2) / (2 * s2), -(x**2) / (2 * variance)  # log densities
    tilted = sp.diff(conditional + w * (conditional - unconditional), x)
    assert sp.simplify(tilted - ((1 + w) * sp.diff(conditional, x) - w * sp.diff(unconditional, x))) == 0


def test_cfg_s__conventions():
    """SymPy: eps_0 + s (eps_c - eps_0) with s = 1 + w is (1 + w) eps_c - w eps_0."""
    c, u, w = sp.symbols("epsilon_c epsilon_0 w")
    assert sp.expand((u + (1 + w) * (c - u)) - ((1 + w) * c - w * u)) == 0


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0, 7.5])
def test_cfg_s(generator, scale):
    """The function is u + s (c - u); guiding the image, then solving for the noise, guides the noise alike."""
    unconditional, conditional, x = torch.randn(3, 2, 4, generator=generator, dtype=F64)
    guided = guide(unconditional, conditional, scale)
    torch.testing.assert_close(guided, unconditional + scale * (conditional - unconditional), rtol=1e-12, atol=1e-12)
    alpha, sigma = 0.6, 0.8
    noise = [(x - alpha * image) / sigma for image in (unconditional, conditional, guided)]
    torch.testing.assert_close(guide(noise[0], noise[1], scale), noise[2], rtol=1e-12, atol=1e-12)


def test_cfg_gauss__solves_ode():
    """SymPy: with both means 0, (s^2 + sigma^2)^((1+w)/2) (S^2 + sigma^2)^(-w/2) solves dx/dsigma = (x - D) / sigma."""
    sigma, s, big_s, w = sp.symbols("sigma s S w", positive=True)
    x = (s**2 + sigma**2) ** ((1 + w) / 2) * (big_s**2 + sigma**2) ** (-w / 2)
    conditional, unconditional = (v**2 / (v**2 + sigma**2) * x for v in (s, big_s))
    guided = (1 + w) * conditional - w * unconditional
    assert sp.simplify((sp.diff(x, sigma) - (x - guided) / sigma) / x) == 0
    assert sp.simplify(x.subs(sigma, 0) - s ** (1 + w) * big_s ** (-w)) == 0


class TwoGaussians:
    """The exact denoiser of N(.6, .25) with the condition 1 and of N(0, 1) with the condition 0."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x, t, known):
        alpha, sigma = (per_sample(value, x) for value in (self.schedule.alpha(t), self.schedule.sigma(t)))
        known = per_sample(known, x)
        return gaussian_denoiser(x, alpha, sigma, 0.6 * known, 1 - 0.75 * known)


def guided_flow(steps, scale):
    """How `ddim` maps x at noise level 200: its offset and slope (the map is affine), with the image at scale 1."""
    ratio = torch.logspace(-3, math.log10(200), steps, dtype=F64)
    alpha_bar = torch.cat([torch.ones(1, dtype=F64), 1 / (1 + ratio.square())])
    schedule = Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])
    denoise = GuidedDenoiser(TwoGaussians(schedule), scale, {"known": torch.tensor(0.0)})
    x = torch.tensor([[0.0], [1.0]], dtype=F64) * alpha_bar[-1].sqrt()
    times = [float(t) for t in range(steps, -1, -1)]
    offset, one = ddim(denoise, x, times, torch.Generator(), known=torch.ones(2, dtype=F64))[:, 0].tolist()
    return torch.tensor([offset, one - offset], dtype=F64)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_cfg_gauss(w):
    """`ddim` with guidance, extrapolated to infinitely many steps, ends with the closed form's mean and std; for w = 1
    .828 and .25, where the density p(x|c)^2 / p(x) that guidance is said to sample has .686 and .378.
    """
    s, top = 0.5, 200.0

    def solution(sigma):
        return (s**2 + sigma**2) ** ((1 + w) / 2) * (1 + sigma**2) ** (-w / 2)

    drift = quad(lambda v: (1 + w) * 0.6 * v / ((s**2 + v**2) * solution(v)), 0, top, limit=500)[0]
    exact = torch.tensor([solution(0) * drift, solution(0) / solution(top)], dtype=F64)
    coarse, fine = guided_flow(500, 1 + w), guided_flow(1000, 1 + w)
    extrapolated = 2 * fine - coarse  # the method is of first order
    torch.testing.assert_close(extrapolated, exact, rtol=1e-3, atol=0)
    mean, std = extrapolated[0].item(), extrapolated[1].item() * top  # x there has mean 0 (almost) and std `top`
    assert std == pytest.approx(s ** (1 + w), rel=2e-3)
    if w == 1:
        precision = 2 / s**2 - 1
        tilted = 2 * 0.6 / s**2 / precision, precision**-0.5
        assert tilted == pytest.approx((0.686, 0.378), abs=5e-4)
        assert (mean, std) == pytest.approx((0.828, 0.25), abs=5e-3)
