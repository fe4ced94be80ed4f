"""EDM's preconditioning: equations precond, coeffs and edm-weight."""

import math

import pytest
import sympy as sp
import torch

from fromnoise.diffusion.exact import gaussian_denoiser
from fromnoise.diffusion.losses import edm_weight
from fromnoise.diffusion.parameterization import EDMDenoiser, NetworkDenoiser, Prediction, edm_coefficients
from fromnoise.diffusion.process import forward_marginal
from fromnoise.diffusion.schedules import Schedule, linear_betas

F64 = torch.float64
SCHEDULE = Schedule(linear_betas())
LEVELS = torch.logspace(-3, 3, 25, dtype=F64)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_coeffs(std):
    """Input and target of the network have variance 1 at every noise level, for data of this standard deviation."""
    skip, out, into = edm_coefficients(LEVELS, std)
    one = torch.ones_like(LEVELS)
    torch.testing.assert_close(into.square() * (std**2 + LEVELS.square()), one, rtol=1e-12, atol=0)
    # The target is ((1 - c_skip) y - c_skip n) / c_out, with y the data and n the noise.
    target = ((1 - skip).square() * std**2 + (skip * LEVELS).square()) / out.square()
    torch.testing.assert_close(target, one, rtol=1e-9, atol=0)


def test_coeffs__derivation():
    """SymPy: of all c_skip for which the target has variance 1, the paper's makes c_out least."""
    sigma, s, skip = sp.symbols("sigma s c_skip", positive=True)
    out_squared = (1 - skip) ** 2 * s**2 + skip**2 * sigma**2
    (best,) = sp.solve(sp.diff(out_squared, skip), skip)
    assert sp.simplify(best - s**2 / (sigma**2 + s**2)) == 0
    assert sp.diff(out_squared, skip, 2).is_positive
    assert sp.simplify(out_squared.subs(skip, best) - (sigma * s) ** 2 / (sigma**2 + s**2)) == 0
    numbers = {sigma: 3, s: sp.Rational(1, 2)}
    expected = [best, sp.sqrt(out_squared.subs(skip, best)), 1 / sp.sqrt(sigma**2 + s**2)]
    actual = edm_coefficients(torch.tensor(3.0, dtype=F64), 0.5)
    assert [c.item() for c in actual] == pytest.approx([float(e.subs(numbers)) for e in expected], rel=1e-12)


def test_precond(generator):
    """D = c_skip x + c_out F(c_in x), in the paper's symbols with x / alpha for x; the network hears log(sigma) / 4."""
    t, x = torch.tensor([1.0, 300.5, 1000.0], dtype=F64), torch.randn(3, 2, 2, generator=generator, dtype=F64)
    asked = []

    def network(x, noise_level, label):
        asked.append((x, noise_level, label))
        return x.sin()

    actual = EDMDenoiser(network, SCHEDULE, 0.6)(x, t, label=7)
    for i, time in enumerate(t):
        alpha, sigma = SCHEDULE.alpha(time[None]).item(), SCHEDULE.noise_to_signal(time[None]).item()
        total = sigma**2 + 0.6**2
        inside = x[i] / alpha / math.sqrt(total)
        expected = 0.6**2 / total * x[i] / alpha + sigma * 0.6 / math.sqrt(total) * inside.sin()
        torch.testing.assert_close(actual[i], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(asked[0][0][i], inside, rtol=1e-9, atol=1e-12)
        assert asked[0][1][i].item() == pytest.approx(math.log(sigma) / 4)
    assert asked[0][2] == 7


def test_precond__nothing_left_to_do(generator):
    """On N(0, s^2) a network that always answers 0 is the exact denoiser."""
    t, x = torch.linspace(1, 1000, 9, dtype=F64), torch.randn(9, 4, generator=generator, dtype=F64)
    denoise = EDMDenoiser(lambda x, noise_level: torch.zeros_like(x), SCHEDULE, 0.5)
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    exact = gaussian_denoiser(x, alpha, sigma, torch.zeros(1, dtype=F64), torch.tensor(0.25, dtype=F64))
    torch.testing.assert_close(denoise(x, t), exact, rtol=1e-9, atol=1e-12)


def test_precond__velocity(generator):
    """With s = 1 it is v-prediction: the same x goes in, and minus v comes out."""
    t, x = torch.linspace(1, 1000, 9, dtype=F64), torch.randn(9, 4, generator=generator, dtype=F64)
    ours = EDMDenoiser(lambda x, noise_level: x.sin(), SCHEDULE, 1.0)
    other = NetworkDenoiser(lambda x, index: -x.sin(), SCHEDULE, Prediction.VELOCITY)
    torch.testing.assert_close(ours(x, t), other(x, t), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_edm_weight(std):
    """It is 1 / c_out^2, so that errors of the network weigh 1, and it is the table's formula."""
    _, out, _ = edm_coefficients(LEVELS, std)
    torch.testing.assert_close(edm_weight(LEVELS, std) * out.square(), torch.ones_like(LEVELS), rtol=1e-12, atol=0)
    for sigma, weight in zip(LEVELS.tolist(), edm_weight(LEVELS, std).tolist(), strict=True):
        assert weight == pytest.approx((sigma**2 + std**2) / (sigma * std) ** 2, rel=1e-12)


def test_edm_weight__loss_is_one(within_four_sigma, generator):
    """Monte Carlo: on N(0, s^2) the weighted loss of the exact denoiser is 1 at every noise level."""
    count = 50_000
    denoise = EDMDenoiser(lambda x, noise_level: torch.zeros_like(x), SCHEDULE, 0.5)
    x0, noise = torch.randn(2, count, 1, generator=generator, dtype=F64)
    for time in (10.0, 300.0, 900.0):
        t = torch.full((count,), time, dtype=F64)
        x0_hat = denoise(forward_marginal(SCHEDULE, 0.5 * x0, t, noise), t)
        weight = edm_weight(SCHEDULE.noise_to_signal(t), 0.5)
        within_four_sigma(weight[:, None] * (x0_hat - 0.5 * x0).square(), 1.0)
