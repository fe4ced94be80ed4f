"""Classifier-free guidance: equations cfg-w, cfg-s, cfg-gauss, rescale and interval."""

import math

import pytest
import sympy as sp
import torch
from scipy.integrate import quad

from fromnoise.diffusion.exact import gaussian_denoiser
from fromnoise.diffusion.guidance import GuidedDenoiser, guidance_at, guide, rescale_guided
from fromnoise.diffusion.process import per_sample
from fromnoise.diffusion.samplers import ddim, final
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
    offset, one = final(ddim(denoise, x, times, torch.Generator(), known=torch.ones(2, dtype=F64)))[:, 0].tolist()
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


def test_rescale(generator):
    """phi x std(x_c) / std(x) + (1 - phi) x, sample by sample: the conditional's std at phi = 1, x itself at 0."""
    conditional, guided = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=F64)
    guided = guided * torch.tensor([0.3, 1, 2, 9], dtype=F64)[:, None, None, None] + 0.5
    for share in (0.0, 0.3, 1.0):
        actual = rescale_guided(guided, conditional, share)
        for result, x, x_c in zip(actual, guided, conditional, strict=True):
            torch.testing.assert_close(result, share * x * x_c.std() / x.std() + (1 - share) * x, rtol=1e-12, atol=0)
    full = rescale_guided(guided, conditional, 1.0)
    torch.testing.assert_close(full.std((1, 2, 3)), conditional.std((1, 2, 3)), rtol=1e-12, atol=0)
    assert torch.equal(rescale_guided(guided, conditional, 0.0), guided)


def test_rescale__scales():
    """With predictions u and c of independent pixels, the guided std is the closed form's: guidance adds contrast."""
    pixels = torch.randn(2, 1, 200_000, generator=torch.Generator().manual_seed(1), dtype=F64)
    conditional, unconditional = pixels[0] + 0.5 * pixels[1], pixels[0]
    for scale in (0.0, 1.0, 4.0):
        guided = guide(unconditional, conditional, scale)
        assert guided.std().item() == pytest.approx(math.hypot(1, 0.5 * scale), rel=1e-2)
        assert rescale_guided(guided, conditional, 1.0).std().item() == pytest.approx(conditional.std().item())
    assert torch.equal(rescale_guided(conditional, conditional, 0.7), conditional)  # s = 1 stays as it is


def test_interval():
    """s above the lower end and up to the upper one, 1 elsewhere."""
    level = torch.tensor([0.0, 0.2, 0.2001, 1.0, 5.0, 5.0001, math.inf], dtype=F64)
    assert guidance_at(level, 7.5, (0.2, 5.0)).tolist() == [1, 1, 7.5, 7.5, 7.5, 1, 1]
    assert guidance_at(level, 0.0, (0.2, 5.0)).tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert guidance_at(level, 3.0, (0.0, math.inf)).tolist() == [1, 3, 3, 3, 3, 3, 3]
    assert guidance_at(level, 1.0, (0.2, 5.0)).tolist() == [1] * 7


def test_interval__flow():
    """On Gaussians with means 0, the flow is a product of closed forms: guided inside the interval, plain outside."""
    s, big_s, w, top = 0.5, 1.0, 1.0, 50.0
    low, high = 0.3, 3.0

    def plain(sigma):
        return math.sqrt(s**2 + sigma**2)

    def guided(sigma):
        return plain(sigma) ** (1 + w) * (big_s**2 + sigma**2) ** (-w / 2)

    exact = plain(0) / plain(low) * guided(low) / guided(high) * plain(high) / plain(top)
    schedule = Schedule(torch.tensor([top**2 / (1 + top**2)], dtype=F64))  # sigma / alpha is top times the time

    def denoise(x, t, known):
        ratio = per_sample(schedule.noise_to_signal(t), x)
        variance = per_sample(1 - 0.75 * known, x)
        return variance / (variance + ratio.square()) * x / per_sample(schedule.alpha(t), x)

    denoise.schedule = schedule
    above = 1 + 1e-9  # so that rounding does not decide on which side of the ends the steps begin
    interval = (low * above, high * above)
    wrapped = GuidedDenoiser(denoise, 1 + w, {"known": torch.tensor(0.0)}, interval=interval)
    results = []
    for count in (200, 400):
        share = torch.arange(count, dtype=F64) / count
        levels = torch.cat([top * (high / top) ** share, high + (low - high) * share, low * (1 - share)])
        x = schedule.alpha(torch.ones(1, dtype=F64))[:, None]  # 1 at the scale of the image
        times = [*(levels / top).tolist(), 0.0]
        results.append(final(ddim(wrapped, x, times, torch.Generator(), known=torch.ones(1, dtype=F64))).item())
    coarse, fine = results
    assert 2 * fine - coarse == pytest.approx(exact, rel=2e-3)
    assert abs(exact / (plain(0) / plain(top)) - 1) > 0.05  # without guidance it is something else
    assert abs(exact / (guided(0) / guided(top)) - 1) > 0.05  # and with guidance everywhere, too
