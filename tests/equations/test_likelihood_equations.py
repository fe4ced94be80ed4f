"""The likelihood in continuous time, bounded and exact: equations vlb-continuous, i-mmse, ode-logp and hutchinson."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import quad
from scipy.special import roots_hermitenorm
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fromnoise.diffusion.exact import GaussianMixture
from fromnoise.diffusion.likelihood import continuous_bound, gaussian_kl
from fromnoise.diffusion.losses import vlb_weight
from fromnoise.diffusion.ode_likelihood import hutchinson_trace, ode_log_likelihood
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.schedules import FlowSchedule, Schedule, cosine_betas, linear_betas

F64 = torch.float64
ONE_STEP = Schedule(
    torch.tensor([-math.expm1(-10.05)], dtype=F64)
)  # ends as beta from .1 to 20 in continuous time does
TOP = ONE_STEP.noise_to_signal(torch.ones(1, dtype=F64)).item()  # 152; the noise level is TOP times the time


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def gaussian(schedule, mean, std):
    """The exact denoiser of N(mean, std^2) in one dimension."""
    return GaussianMixture(schedule, tensor(1), tensor(mean)[:, None], tensor(std))


def two_gaussians(schedule):
    """Exact, in two dimensions; the mean is 0."""
    return GaussianMixture(schedule, tensor(0.25, 0.75), tensor([-0.9, 0.6], [0.3, -0.2]), tensor(0.3, 0.2))


def log_density(mixture, x, level):
    """Of the mixture with noise of this level added, at the scale of the image."""
    spread = (mixture.stds.square() + level**2).sqrt()[:, None].expand_as(mixture.means)
    components = Independent(Normal(mixture.means, spread), 1)
    return MixtureSameFamily(Categorical(mixture.weights), components).log_prob(x)


def rising(low, high, steps):
    """Noise levels with equal factors between them."""
    levels = torch.logspace(math.log10(low), math.log10(high), steps + 1, dtype=F64).tolist()
    return [low, *levels[1:-1], high]


def times_of(schedule, levels):
    return schedule.time(tensor(*levels)).tolist()


def bound_of_gaussian(x0, mean, std, low, high):
    """E|x_0 - x0_hat|^2 / level^2, where x0_hat is the regression line, integrated over the logarithm of the level."""

    def integrand(log_level):
        noise = math.exp(2 * log_level)
        share = std**2 / (std**2 + noise)
        return (1 - share) ** 2 * (x0 - mean) ** 2 / noise + share**2

    return quad(integrand, math.log(low), math.log(high), epsabs=1e-13, epsrel=1e-12)[0]


def test_vlb_continuous__derivation():
    """SymPy: -1/2 SNR' dt is 1 / level^2 dlog(level), whatever the level does in time."""
    t = sp.symbols("t", positive=True)
    level = sp.Function("level", positive=True)(t)
    assert sp.simplify(-sp.diff(level**-2, t) / 2 - sp.diff(sp.log(level), t) / level**2) == 0


@pytest.mark.parametrize("stretches", [1, 7])
def test_vlb_continuous(within_four_sigma, generator, stretches):
    """Monte Carlo: on a Gaussian the estimate is right at every x_0, with one stretch or several."""
    low, high, mean, std = 0.05, 20.0, 0.3, 0.5
    denoise = gaussian(Schedule(cosine_betas()), mean, std)
    for x0 in (-0.9, 0.3, 1.1):
        drawn = continuous_bound(
            denoise, torch.full((20_000, 1), x0, dtype=F64), rising(low, high, stretches), generator
        )
        within_four_sigma(drawn, bound_of_gaussian(x0, mean, std, low, high))


def test_vlb_continuous__invariance(generator):
    """Of a schedule nothing matters but its ends: with the same draws all three cost the same, at each image."""
    levels, bounds = rising(0.02, 50.0, 10), []
    x0 = two_gaussians(None).sample(40, generator)
    for schedule in (Schedule(linear_betas()), Schedule(cosine_betas()), FlowSchedule()):
        draws = torch.Generator().manual_seed(1)
        bounds.append(continuous_bound(two_gaussians(schedule), x0, levels, draws))
    torch.testing.assert_close(bounds[1], bounds[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(bounds[2], bounds[0], rtol=1e-9, atol=0)
    other_ends = continuous_bound(
        two_gaussians(FlowSchedule()), x0, rising(0.02, 5.0, 10), torch.Generator().manual_seed(1)
    )
    assert (other_ends - bounds[0]).abs().min() > 0.01


@pytest.mark.parametrize("betas", [linear_betas, lambda steps, *_: cosine_betas(steps)], ids=["linear", "cosine"])
def test_vlb_continuous__limit_of_the_steps(betas):
    """Between two noise levels the steps' terms sum up to more, by a difference that falls like 1 / T."""
    differences = []
    for steps in (500, 1000, 2000):
        schedule, first = Schedule(betas(steps, 0.1 / steps, 20 / steps)), steps // 20
        t = torch.arange(first + 1, steps + 1, dtype=F64)
        level = schedule.noise_to_signal(t)
        share = 0.25 / (0.25 + level.square())
        error = (1 - share) ** 2 * 0.36 + (share * level) ** 2  # E|x_0 - x0_hat|^2 at x_0 = .6 for data N(0, .25)
        sum_of_terms = (vlb_weight(schedule, t) * error).sum().item()
        low, high = schedule.noise_to_signal(tensor(first, steps)).tolist()
        differences.append(sum_of_terms - bound_of_gaussian(0.6, 0.0, 0.5, low, high))
    assert 0 < differences[0] < 0.03
    for coarse, fine in itertools.pairwise(differences):
        assert math.log2(fine / coarse) == pytest.approx(-1, abs=0.05)


def test_vlb_continuous__batch(generator):
    """With a generator each, an image's bound does not depend on its neighbours; float32 stays, conditions pass."""

    class Scaled:
        schedule = Schedule(linear_betas())

        def __call__(self, x, t, scale):
            assert t.dtype == x.dtype
            return scale[:, None, None] * x

    x0, scale, levels = torch.tensor([[[0.5, -1.0]], [[0.2, 0.3]]]), torch.tensor([0.9, 0.4]), [0.1, 1.0, 10.0]
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = continuous_bound(Scaled(), x0, levels, generators, scale=scale)
    alone = continuous_bound(Scaled(), x0[1:], levels, [torch.Generator().manual_seed(2)], scale=scale[1:])
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1:], alone)
    for wrong in ([0.1], [0.0, 1.0], [1.0, 1.0], [0.1, 1e5]):
        with pytest.raises(ValueError, match="noise levels must"):
            continuous_bound(Scaled(), x0, wrong, generators, scale=scale)


def test_i_mmse():
    """SymPy: half the least squared error in s times a normal x_0, summed over the SNR, is log(1 + s^2 SNR) / 2."""
    s, u, rho = sp.symbols("s u rho", positive=True)
    half_error = s**2 / (1 + s**2 * u) / 2
    total = sp.log(1 + s**2 * rho) / 2
    assert sp.simplify(sp.diff(total, rho) - half_error.subs(u, rho)) == 0
    assert total.subs(rho, 0) == 0
    assert sp.simplify(sp.integrate(half_error, (u, 0, rho)) - total) == 0


@pytest.mark.parametrize("snr", [0.1, 3.0, 400.0])
def test_i_mmse__mutual_information(within_four_sigma, generator, snr):
    """It is what x_t tells of x_0, the KL of their joint law from the product of both, and what the bound pays for."""
    alpha, sigma, variance = math.sqrt(snr / (1 + snr)), math.sqrt(1 / (1 + snr)), 0.25
    joint = tensor([variance, alpha * variance], [alpha * variance, alpha**2 * variance + sigma**2])
    told = gaussian_kl(torch.zeros(2, dtype=F64), joint, torch.zeros(2, dtype=F64), joint.diag().diag()).item()
    assert told == pytest.approx(0.5 * math.log1p(variance * snr), rel=1e-10)

    x0 = 0.5 * torch.randn(20_000, 1, generator=generator, dtype=F64)
    levels = rising(snr**-0.5, 2e3, 8)  # where next to nothing is left of the image, 0 nats to 6e-8
    within_four_sigma(continuous_bound(gaussian(FlowSchedule(), 0.0, 0.5), x0, levels, generator), told)


def test_i_mmse__any_law():
    """Quadrature: for two Gaussians the entropy of x_0 + level noise grows by the error of x0_hat, too: dI = mmse/2."""
    x = torch.linspace(-25, 25, 10_001, dtype=F64)[:, None]
    denoise = GaussianMixture(FlowSchedule(), tensor(0.4, 0.6), tensor(-1.0, 0.8)[:, None], tensor(0.3, 0.5))

    def information(snr):
        """Entropy of x_0 + noise / sqrt(snr), less that of the noise."""
        log_p = log_density(denoise, x, snr**-0.5)
        return np.trapezoid((-log_p.exp() * log_p).numpy(), x[:, 0].numpy()) + 0.5 * math.log(
            snr / (2 * math.pi * math.e)
        )

    for snr in (0.3, 2.0, 8.0):
        t = denoise.schedule.time(tensor(snr**-0.5)).expand(len(x))
        x0_hat = denoise(denoise.schedule.alpha(t)[:, None] * x, t)
        density = log_density(denoise, x, snr**-0.5).exp()
        second_moment = (denoise.weights * (denoise.means[:, 0].square() + denoise.stds.square())).sum().item()
        error = second_moment - np.trapezoid((density * x0_hat[:, 0].square()).numpy(), x[:, 0].numpy())
        growth = (information(snr + 1e-4) - information(snr - 1e-4)) / 2e-4
        assert growth == pytest.approx(error / 2, rel=1e-6)


def test_ode_logp__derivation():
    """SymPy: seen from a point that moves with the flow f, any density that f carries falls as f spreads."""
    x, t = sp.symbols("x t", real=True)
    p, f = sp.Function("p", positive=True)(x, t), sp.Function("f")(x, t)
    continuity = -sp.diff(f * p, x)  # dp/dt
    change = (continuity + f * sp.diff(p, x)) / p  # d/dt log p(x(t), t)
    assert sp.simplify(change + sp.diff(f, x)) == 0


def error_at(times, data_variance, x0=0.3, variance=0.25):
    """Of the log-density that the ODE gives N(0, variance), noise of the first time added."""
    x = torch.full((1, 1), x0, dtype=F64)
    denoise, level = gaussian(ONE_STEP, 0.0, math.sqrt(variance)), TOP * times[0]
    actual = ode_log_likelihood(denoise, x, times, torch.Generator(), probes=None, data_variance=data_variance)
    return actual.item() - Normal(tensor(0.0), math.sqrt(variance + level**2)).log_prob(tensor(x0)).item()


def test_ode_logp():
    """Gaussian, level 1e-3 to that of beta .1 to 20, true law at the end: errors of 3.4e-6 in 25 steps, 2.3e-10 in 200.

    With N(0, 1) at the end 1e-5 remains, however many the steps.
    """
    times = {steps: times_of(ONE_STEP, rising(1e-3, TOP, steps)) for steps in (25, 200)}
    assert error_at(times[25], 0.25) == pytest.approx(3.36e-6, rel=0.01)
    assert error_at(times[200], 0.25) == pytest.approx(2.3e-10, rel=0.05)
    last = Normal(tensor(0.0), math.sqrt(1 - 0.75 * math.exp(-10.05)))
    x = 0.3 / 0.5 * last.scale  # where the flow carries .3
    floor = Normal(tensor(0.0), 1.0).log_prob(x) - last.log_prob(x)
    assert error_at(times[200], 1.0) == pytest.approx(floor.item(), rel=1e-4)
    assert floor.item() == pytest.approx(-1.04e-5, rel=0.01)


def test_ode_logp__order():
    """The error falls like 1 / N^4, where the slope does not vanish at both ends (there it falls faster)."""
    errors = [error_at(times_of(ONE_STEP, rising(0.2, 2.0, steps)), 0.25) for steps in (40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(-4, abs=0.1)


def test_ode_logp__from_time_zero():
    """The first step may start at 0, where the log of the level is infinite: the density is that of the data itself."""
    times = {steps: [0.0, *times_of(ONE_STEP, rising(1e-2, TOP, steps - 1))] for steps in (25, 200)}
    assert abs(error_at(times[25], 0.25)) < 2e-6
    assert abs(error_at(times[200], 0.25)) < 2e-10
    # that step alone is of order 4, too: in one step the error is the length's to the 5th or better
    ends = [error_at([0.0, level / TOP], 0.25) for level in (0.2, 0.1, 0.05)]
    for long, short in itertools.pairwise(ends):
        assert math.log2(short / long) < -4.9


@pytest.mark.parametrize("schedule", [Schedule(tensor(0.4, 1 - 1e-8)), FlowSchedule()])
def test_ode_logp__mixture(schedule):
    """Two Gaussians in two dimensions, noise of the first time added: their density, to 2e-7."""
    x = tensor([0.1, 0.2], [-0.9, 0.6], [0.3, -0.2], [1.5, -1.0])
    times = times_of(schedule, rising(0.1, 1e4, 320))
    actual = ode_log_likelihood(two_gaussians(schedule), x, times, torch.Generator(), probes=None)
    torch.testing.assert_close(actual, log_density(two_gaussians(schedule), x, 0.1), rtol=0, atol=2e-7)


def test_ode_logp__any_denoiser_has_a_density():
    """Whatever a network predicts, the density of what is drawn with it sums up to 1."""
    denoise = NetworkDenoiser(lambda x, index: torch.sin(x) - 0.3 * x, ONE_STEP, Prediction.VELOCITY)
    x = torch.linspace(-8, 8, 2001, dtype=F64)
    times = times_of(ONE_STEP, rising(0.1, TOP, 60))
    density = ode_log_likelihood(denoise, x[:, None], times, torch.Generator(), probes=None).exp()
    assert np.trapezoid(density.numpy(), x.numpy()) == pytest.approx(1, abs=1e-6)
    assert density.max() > 1  # nothing like N(0, 1)


@pytest.mark.parametrize("probes", [1, 3])
def test_ode_logp__random_probes(within_four_sigma, generator, probes):
    """Monte Carlo: with random signs, kept along the curve, it is right on average; on N(0, s^2 I) it always is."""
    x, times = tensor(0.4, -0.5), times_of(ONE_STEP, rising(0.1, TOP, 16))
    exact = ode_log_likelihood(two_gaussians(ONE_STEP), x[None], times, generator, probes=None)
    drawn = ode_log_likelihood(two_gaussians(ONE_STEP), x.expand(4000, 2), times, generator, probes=probes)
    within_four_sigma(drawn, exact)
    assert len(drawn.unique()) > 1
    isotropic = GaussianMixture(ONE_STEP, tensor(1), tensor([0.0, 0.0]), tensor(0.5))
    exact, drawn = (ode_log_likelihood(isotropic, x[None], times, generator, probes=p) for p in (None, probes))
    torch.testing.assert_close(drawn, exact, rtol=1e-12, atol=0)


def test_ode_logp__batch(generator):
    """With a generator each, an image does not depend on its neighbours; float32 stays, conditions pass."""
    weight = torch.nn.Parameter(torch.tensor(0.3))

    class Scaled:
        schedule = FlowSchedule()

        def __call__(self, x, t, scale):
            assert t.dtype == x.dtype and t.shape == (len(x),)
            return weight * torch.sin(scale[:, None, None] * x.flip(2))

    x0, scale, times = torch.tensor([[[0.5, -1.0]], [[0.2, 0.3]]]), torch.tensor([0.9, 0.4]), [0.1, 0.5, 0.9]
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    with torch.no_grad():
        both = ode_log_likelihood(Scaled(), x0, times, generators, scale=scale)
    alone = ode_log_likelihood(Scaled(), x0[1:], times, [torch.Generator().manual_seed(2)], scale=scale[1:])
    assert both.shape == (2,) and both.dtype == torch.float32
    assert not alone.requires_grad and weight.grad is None
    torch.testing.assert_close(both[1:], alone)
    fresh = torch.Generator().manual_seed(1)
    noise_like(x0[:1], [fresh])
    assert torch.equal(fresh.get_state(), generators[0].get_state())  # one probe was drawn for the whole curve
    for wrong in ([0.1], [0.5, 0.5], [0.5, 0.1], [0.1, 1.0]):
        with pytest.raises(ValueError, match="times must rise"):
            ode_log_likelihood(Scaled(), x0, wrong, generators, scale=scale)


MATRIX = tensor([1.0, 0.5, -0.3], [0.5, -2.0, 0.8], [-0.3, 0.8, 0.4])


def estimates(matrix, probes):
    """z^T J z of x -> J x at each probe ``(N, 3)``."""
    value, trace = hutchinson_trace(lambda x: x @ matrix.T, torch.ones(len(probes), 3, dtype=F64), probes[None])
    torch.testing.assert_close(value, matrix.sum(1).expand(len(probes), 3))
    return trace


def test_hutchinson__signs():
    """Over all 8 signs: right on average for any J; the variance of a symmetric one is 2 (|J|^2 - sum J_ii^2)."""
    signs = tensor(*itertools.product([-1.0, 1.0], repeat=3))
    for matrix in (MATRIX, MATRIX + tensor([0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]), MATRIX.triu()):
        assert estimates(matrix, signs).mean().item() == pytest.approx(-0.6, rel=1e-12)
    expected = 2 * (MATRIX.square().sum() - MATRIX.diag().square().sum())
    torch.testing.assert_close(estimates(MATRIX, signs).var(correction=0), expected)


def test_hutchinson__normal():
    """By Gauss and Hermite's quadrature, exact here: right on average, and of variance 2 |J|^2 for a symmetric J."""
    nodes, weights = roots_hermitenorm(3)
    probes = tensor(*itertools.product(nodes.tolist(), repeat=3))
    weights = tensor(*itertools.product((weights / weights.sum()).tolist(), repeat=3)).prod(1)
    drawn = estimates(MATRIX, probes)
    mean = (weights * drawn).sum()
    assert mean.item() == pytest.approx(-0.6, rel=1e-12)
    torch.testing.assert_close((weights * (drawn - mean).square()).sum(), 2 * MATRIX.square().sum())


def test_hutchinson(within_four_sigma, generator):
    """Monte Carlo on a function that is not linear; the unit vectors times sqrt(D) give the trace, x by x."""
    x = torch.randn(5, 2, 2, generator=generator, dtype=F64)

    def function(x):
        return torch.sin(x) * x.flip(1).square() + x.sum((1, 2), keepdim=True) ** 3

    jacobians = [torch.autograd.functional.jacobian(lambda x: function(x[None])[0], one).reshape(4, 4) for one in x]
    exact = torch.stack([jacobian.trace() for jacobian in jacobians])
    unit = 2 * torch.eye(4, dtype=F64).view(4, 1, 2, 2).expand(4, 5, 2, 2)
    value, trace = hutchinson_trace(function, x, unit)
    torch.testing.assert_close(value, function(x))
    torch.testing.assert_close(trace, exact)
    copies = x[0].expand(20_000, 2, 2)
    normal = torch.randn(1, 20_000, 2, 2, generator=generator, dtype=F64)
    for probes in (normal, normal.sign()):
        within_four_sigma(hutchinson_trace(function, copies, probes)[1], exact[0])
    alone, both = (hutchinson_trace(function, x[:1], z)[1] for z in (unit[:1, :1], unit[:2, :1]))
    other = hutchinson_trace(function, x[:1], unit[1:2, :1])[1]
    torch.testing.assert_close(both, (alone + other) / 2)  # the mean over probes
