"""The samplers on data whose answer is known: equations ancestral to ddim-marginal, churn to dpmpp2m-sde, edm-ode."""

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch
from scipy.integrate import quad

from fromnoise.diffusion import samplers
from fromnoise.diffusion.exact import EmpiricalDenoiser, GaussianMixture, gaussian_denoiser
from fromnoise.diffusion.process import per_sample, posterior_variance
from fromnoise.diffusion.samplers import Spacing, Time, Variance, ddim, ddim_std, ddpm, final, sampling_times
from fromnoise.diffusion.schedules import Schedule, cosine_betas, karras_sigmas, linear_betas
from fromnoise.diffusion.solvers import add_noise, dpmpp_2m, dpmpp_2m_sde, edm_ode, euler, exponential_step, heun

F64 = torch.float64


class Gaussian:
    """The exact denoiser of N(mean, variance), pixel by pixel."""

    def __init__(self, schedule, mean, variance):
        self.schedule = schedule
        self.mean, self.variance = torch.tensor(mean, dtype=F64), torch.tensor(variance, dtype=F64)

    def __call__(self, x, t):
        alpha, sigma = (per_sample(value, x) for value in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return gaussian_denoiser(x, alpha, sigma, self.mean, self.variance)


def path(sampler, denoise, x, times, generator, **options):
    """The sample at each time, x first."""
    return [x, *(moment.x for moment in sampler(denoise, x, times, generator, **options))]


def final_variance(denoise, times, variance, monkeypatch):
    """Exact variance of what `ddpm` makes of x_T: the step is linear, so each noise's coefficient squared, summed."""
    steps, drawn = len(times) - 1, []

    def one_hot(x, generator):
        drawn.append(None)
        return torch.zeros_like(x).index_fill_(0, torch.tensor(len(drawn)), 1.0)

    monkeypatch.setattr(samplers, "noise_like", one_hot)
    x = torch.zeros(steps, 1, dtype=F64)  # row 0 follows x_T, row n the n-th noise; none at the last step
    alpha_bar = denoise.schedule.alpha_bar[int(times[0])]
    x[0] = (alpha_bar * denoise.variance + 1 - alpha_bar).sqrt()
    result = final(ddpm(denoise, x, times, torch.Generator(), variance=variance)).square().sum().item()
    assert len(drawn) == steps - 1
    return result


def recursion(schedule, data_variance, variance):
    """The same by hand: var_{t-1} = (of_x0 c + of_xt)^2 var_t + std^2, in the paper's symbols, for every step."""
    alpha_bar = schedule.alpha_bar.tolist()
    value = alpha_bar[-1] * data_variance + 1 - alpha_bar[-1]
    for t in range(schedule.num_timesteps, 0, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - now / before
        shrink = math.sqrt(now) * data_variance / (now * data_variance + 1 - now)
        gain = (math.sqrt(before) * beta * shrink + math.sqrt(1 - beta) * (1 - before)) / (1 - now)
        noise = beta if variance is Variance.LARGE else (1 - before) / (1 - now) * beta
        value = gain**2 * value + (noise if t > 1 else 0)
    return value


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("data_variance", [0.0, 0.25, 1.0])
def test_ancestral(monkeypatch, variance, data_variance):
    """On a Gaussian with its exact denoiser the result's variance is the recursion's, to 1e-9, with both variances."""
    schedule = Schedule(linear_betas(50, 0.002, 0.4))
    times = [float(t) for t in range(50, -1, -1)]
    actual = final_variance(Gaussian(schedule, 0.0, data_variance), times, variance, monkeypatch)
    assert actual == pytest.approx(recursion(schedule, data_variance, variance), rel=1e-9, abs=1e-25)


def test_ancestral__converges(monkeypatch):
    """With variance beta the error of the result's variance falls like 1 / T: a slope of -1 on N(0, .25)."""
    errors = []
    for steps in (100, 200, 400):
        denoise = Gaussian(Schedule(linear_betas(steps, 0.1 / steps, 20 / steps)), 0.0, 0.25)
        times = [float(t) for t in range(steps, -1, -1)]
        errors.append(abs(final_variance(denoise, times, Variance.LARGE, monkeypatch) - 0.25))
    for coarse, fine in pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_ancestral__exact_data(generator, variance, steps):
    """Data that are one image come out as that image, exactly: a last step that adds noise leaves a std of .01."""
    schedule, image = Schedule(linear_betas()), torch.tensor([[0.7, -1.0, 0.0]])
    x = torch.randn(64, 3, generator=generator)
    times = sampling_times(1000, steps, Spacing.LEADING)
    result = final(ddpm(EmpiricalDenoiser(schedule, image), x, times, generator, variance=variance))
    assert torch.equal(result, image.expand(64, 3))


def test_ancestral__keeps_marginals(within_four_sigma, generator):
    """Monte Carlo on one image: with beta~ every x_t on the way is distributed as the forward process makes it."""
    schedule, image = Schedule(linear_betas(10, 0.02, 0.5)), torch.tensor([[0.7]], dtype=F64)
    times = [10.0, 7.0, 3.0, 2.0, 1.0, 0.0]
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    x = alpha[0] * image + sigma[0] * torch.randn(50_000, 1, generator=generator, dtype=F64)
    seen = path(ddpm, EmpiricalDenoiser(schedule, image), x, times, generator)
    for a, s, x in list(zip(alpha, sigma, seen, strict=True))[:-1]:
        within_four_sigma(x, a * image[0])
        within_four_sigma((x - a * image).square(), s.square())


@pytest.mark.parametrize("variance", Variance)
def test_ancestral__noise(variance):
    """Data and x all 0: a step draws its noise alone, the square root of beta or beta~ of the whole jump times z."""
    schedule, image = Schedule(linear_betas()), torch.zeros(1, 2, dtype=F64)
    x, times = torch.zeros(3, 2, dtype=F64), [800.0, 500.0]
    denoise, generator = EmpiricalDenoiser(schedule, image), torch.Generator().manual_seed(4)
    actual = final(ddpm(denoise, x, times, generator, variance=variance))
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(4)).double()
    before, now = schedule.alpha_bar[[500, 800]].tolist()
    beta = 1 - now / before
    expected = beta if variance is Variance.LARGE else (1 - before) / (1 - now) * beta
    torch.testing.assert_close(actual, math.sqrt(expected) * z, rtol=1e-9, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta):
    """One step equals the paper's equation 12 in its own symbols, with the noise of the same generator."""
    schedule = Schedule(cosine_betas())
    seed = torch.Generator().manual_seed(1)
    x, guess = torch.randn(3, 2, generator=seed, dtype=F64), torch.randn(3, 2, generator=seed, dtype=F64)

    def denoise(x, t):
        return guess

    denoise.schedule = schedule
    ab_t, ab_u = schedule.alpha_bar[900], schedule.alpha_bar[650]
    std = eta * ((1 - ab_u) / (1 - ab_t)).sqrt() * (1 - ab_t / ab_u).sqrt()
    noise_hat = (x - ab_t.sqrt() * guess) / (1 - ab_t).sqrt()
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(2)).double()
    expected = ab_u.sqrt() * guess + (1 - ab_u - std**2).sqrt() * noise_hat + std * z
    actual = final(ddim(denoise, x, [900.0, 650.0], torch.Generator().manual_seed(2), eta=eta))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_ddim__dirac(generator, steps):
    """On one image at eta = 0 every x_t is alpha(t) x_0 + sigma(t) eps with the eps of the start, in any number of
    steps, and the last is the image.
    """
    schedule, image = Schedule(linear_betas()), torch.tensor([[0.7, -1.0]], dtype=F64)
    times = sampling_times(1000, steps, Spacing.TRAILING)
    noise = torch.randn(4, 2, generator=generator, dtype=F64)
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    seen = path(ddim, EmpiricalDenoiser(schedule, image), alpha[0] * image + sigma[0] * noise, times, generator)
    for a, s, x in zip(alpha, sigma, seen, strict=True):
        torch.testing.assert_close(x, a * image + s * noise, rtol=1e-9, atol=1e-11)
    assert torch.equal(seen[-1], image.expand(4, 2))


def test_ddim__gaussian(generator):
    """On N(0, .25) at eta = 0 the exact flow scales x by the ratio of the stds: 1000 steps come within 1 percent."""
    schedule = Schedule(linear_betas())
    x, times = torch.randn(4, 2, generator=generator, dtype=F64), sampling_times(1000, 1000, Spacing.LEADING)
    alpha_bar = schedule.alpha_bar[-1].item()
    expected = x * math.sqrt(0.25 / (alpha_bar * 0.25 + 1 - alpha_bar))
    result = final(ddim(Gaussian(schedule, 0.0, 0.25), x, times, generator))
    torch.testing.assert_close(result, expected, rtol=1e-2, atol=0)


def test_ddim__unit_gaussian(generator):
    """On N(0, 1) at eta = 0 a step from t to u multiplies x by alpha_u alpha_t + sigma_u sigma_t, exactly."""
    schedule = Schedule(linear_betas())
    x, times = torch.randn(4, 2, generator=generator, dtype=F64), sampling_times(1000, 20, Spacing.LEADING)
    angle = schedule.alpha_bar[[int(t) for t in times]].sqrt().acos()  # alpha is its cosine, sigma its sine
    result = final(ddim(Gaussian(schedule, 0.0, 1.0), x, times, generator))
    torch.testing.assert_close(result, x * angle.diff().cos().prod(), rtol=1e-9, atol=0)


def test_ddim_eta__ancestral():
    """SymPy: with eta = 1 the variance is beta~, and then the whole step is the posterior's mean."""
    a_u, a_t = sp.symbols("a_u a_t", positive=True)
    sigma_u2, sigma_t2 = 1 - a_u**2, 1 - a_t**2
    beta = 1 - (a_t / a_u) ** 2
    variance = sigma_u2 / sigma_t2 * (1 - a_t**2 / a_u**2)
    assert sp.simplify(variance - sigma_u2 / sigma_t2 * beta) == 0
    # Coefficient of x_t: sqrt(sigma_u^2 - variance) / sigma_t, to be a_t / a_u sigma_u^2 / sigma_t^2 (both positive).
    assert sp.simplify((sigma_u2 - variance) / sigma_t2 - (a_t / a_u * sigma_u2 / sigma_t2) ** 2) == 0


def test_ddim_eta():
    """The function is eta sigma_u / sigma_t sqrt(1 - a_t^2 / a_u^2) for any u < t; 0 at u = 0; beta~ at eta = 1."""
    schedule = Schedule(linear_betas())
    u, t = (torch.tensor(v, dtype=F64) for v in ([0, 1, 400, 999, 100], [1, 2, 500, 1000, 900]))
    ab_u, ab_t = schedule.alpha_bar[u.long()], schedule.alpha_bar[t.long()]
    for eta in (0.0, 0.4, 1.0):
        expected = eta * ((1 - ab_u) / (1 - ab_t)).sqrt() * (1 - ab_t / ab_u).sqrt()
        torch.testing.assert_close(ddim_std(schedule, u, t, eta), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(ddim_std(schedule, u, t, 1.0).square(), posterior_variance(schedule, u, t))


def test_ddim_eta__sampler(generator):
    """With eta = 1 and the same noise, `ddim` and `ddpm` with beta~ draw the same samples, over a subset of steps."""
    denoise = Gaussian(Schedule(linear_betas()), 0.3, 0.25)
    x, times = torch.randn(5, 3, generator=generator, dtype=F64), sampling_times(1000, 20, Spacing.LINSPACE)
    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    torch.testing.assert_close(final(ddim(denoise, x, times, one, eta=1.0)), final(ddpm(denoise, x, times, other)))


def test_ddim_marginal():
    """SymPy: for any std the step takes N(a_t x_0, sigma_t^2) to N(a_u x_0, sigma_u^2), the forward marginal."""
    a_u, a_t, x0, noise, z, std = sp.symbols("a_u a_t x_0 epsilon z varsigma", positive=True)
    sigma_t, sigma_u2 = sp.sqrt(1 - a_t**2), 1 - a_u**2
    x_t = a_t * x0 + sigma_t * noise
    noise_hat = (x_t - a_t * x0) / sigma_t
    x_u = sp.expand(a_u * x0 + sp.sqrt(sigma_u2 - std**2) * noise_hat + std * z)
    assert sp.simplify(x_u.coeff(x0) - a_u) == 0
    assert sp.simplify(x_u.coeff(noise) ** 2 + x_u.coeff(z) ** 2 - sigma_u2) == 0


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_marginal__sampler(within_four_sigma, generator, eta):
    """Monte Carlo on one image: whatever eta, every x_t on the way has the forward process's mean and variance."""
    schedule, image = Schedule(linear_betas(10, 0.02, 0.5)), torch.tensor([[0.7]], dtype=F64)
    times = [10.0, 6.0, 3.0, 1.0, 0.0]
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    x = alpha[0] * image + sigma[0] * torch.randn(50_000, 1, generator=generator, dtype=F64)
    seen = path(ddim, EmpiricalDenoiser(schedule, image), x, times, generator, eta=eta)
    for a, s, x in list(zip(alpha, sigma, seen, strict=True))[:-1]:
        within_four_sigma(x, a * image[0])
        within_four_sigma((x - a * image).square(), s.square())


# ---------------------------------------------------------------- solvers of the differential equation


def noise_levels(top):
    """The schedule of one step to this noise level: between, sigma / alpha is proportional to the time."""
    return Schedule(torch.tensor([top**2 / (1 + top**2)], dtype=F64))


def on_the_way(sampler, denoise, at_top, top, bottom, steps):
    """Where a sampler takes x / alpha from one noise level to a lower one, along the levels of `karras`."""
    schedule = denoise.schedule
    times = (karras_sigmas(steps + 1, bottom, top) / top).clamp(max=1)
    x = final(sampler(denoise, at_top * schedule.alpha(times[:1]), times.tolist(), torch.Generator()))
    return x / schedule.alpha(times[-1:])


def slopes(sampler, denoise, at_top, truth, bottom=0.02, top=10.0, counts=(80, 160, 320)):
    """How the error falls with the number of steps, as a power of it, from each count to the next."""
    errors = [
        (on_the_way(sampler, denoise, at_top, top, bottom, steps) - truth).square().mean().sqrt() for steps in counts
    ]
    return [math.log2(fine / coarse) for coarse, fine in pairwise(errors)]


def gaussian_flow(x, start, end, mean, std):
    """The exact curve on N(mean, std^2): `gauss-flow`."""
    return mean + (x - mean) * math.sqrt((std**2 + end**2) / (std**2 + start**2))


ORDERS = {"ddim": (ddim, -1), "euler": (euler, -1), "heun": (heun, -2), "dpmpp-2m": (dpmpp_2m, -2)}


def assert_order(name, denoise, x, truth):
    """The slope is the order's, to .1, from 80 steps on."""
    sampler, order = ORDERS[name]
    assert slopes(sampler, denoise, x, truth) == pytest.approx([order, order], abs=0.1)


def order_on_a_gaussian(name):
    """On N(.4, .25), where the truth is known in closed form."""
    x = torch.linspace(-20, 20, 9, dtype=F64)[:, None]
    assert_order(name, Gaussian(noise_levels(10.0), 0.4, 0.25), x, gaussian_flow(x, 10.0, 0.02, 0.4, 0.5))


WEIGHTS, MEANS, STDS = (0.4, 0.6), (-0.5, 0.5), (0.5, 0.4)


def mixture_cdf(x, level):
    """The probability below x of the mixture of WEIGHTS, MEANS, STDS with noise of this level."""
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * torch.special.ndtr((x - m) / math.hypot(s, level)) for w, m, s in parts)


def mixture_flow(x, start, end):
    """The exact curve in one dimension, by bisection: the probability below x stays the same (`cdf-invariant`)."""
    wanted, low, high = mixture_cdf(x, start), torch.full_like(x, -60), torch.full_like(x, 60)
    for _ in range(70):
        middle = (low + high) / 2
        below = mixture_cdf(middle, end) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def order_on_a_mixture(name):
    """On two Gaussians that overlap; where they lie apart Euler's slope of -1 shows only after thousands of steps."""
    weights, means, stds = (torch.tensor(v, dtype=F64) for v in (WEIGHTS, MEANS, STDS))
    x = torch.linspace(-15, 15, 9, dtype=F64)[:, None]
    assert_order(name, GaussianMixture(noise_levels(10.0), weights, means[:, None], stds), x, mixture_flow(x, 10, 0.02))


def example(count=5):
    """A schedule, x and two guesses at the image, ``(count, 2)``."""
    generator = torch.Generator().manual_seed(6)
    return Schedule(cosine_betas()), *torch.randn(3, count, 2, generator=generator, dtype=F64)


class Answers:
    """A denoiser that gives the next of a list of answers, and remembers what it was asked."""

    def __init__(self, schedule, *answers):
        self.schedule, self.answers, self.asked = schedule, list(answers), []

    def __call__(self, x, t):
        self.asked.append((x, t))
        return self.answers.pop(0)


def coefficients(schedule, *times):
    """alpha, sigma and their ratio at whole times, from the table, as numbers."""
    alpha_bar = [schedule.alpha_bar[t].item() for t in times]
    return [(math.sqrt(a), math.sqrt(1 - a), math.sqrt((1 - a) / a)) for a in alpha_bar]


def test_edm_ode(generator):
    """It is the noise in x; and following it without end, x / alpha has the closed form of N(mean, std^2)."""
    schedule = Schedule(linear_betas())
    x0, noise = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    t = torch.tensor([1.0, 30.5, 700.0, 1000.0], dtype=F64)
    x = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * noise
    scale, level = (values[:, None] for values in schedule.scale_and_level(t))
    torch.testing.assert_close(edm_ode(x / scale, x0, level), noise, rtol=1e-9, atol=1e-9)


def test_edm_ode__gaussian():
    """SymPy: the exact denoiser's curve is mean + (x - mean) sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2))."""
    sigma, s, start = sp.symbols("sigma s sigma_0", positive=True)
    mean, x = sp.symbols("mu x", real=True)
    curve = mean + (x - mean) * sp.sqrt((s**2 + sigma**2) / (s**2 + start**2))
    x0_hat = mean + s**2 / (s**2 + sigma**2) * (curve - mean)
    assert sp.simplify(sp.diff(curve, sigma) - (curve - x0_hat) / sigma) == 0
    assert sp.simplify(curve.subs(sigma, start) - x) == 0


def test_euler():
    """One step in the paper's symbols, x and sigma divided by alpha; it is DDIM's step, to 1e-12."""
    schedule, x, guess, _ = example()
    (a_t, _, r_t), (a_u, _, r_u) = coefficients(schedule, 900, 650)
    scaled = x / a_t
    expected = a_u * (scaled + (r_u - r_t) * (scaled - guess) / r_t)
    one, other = (final(f(Answers(schedule, guess), x, [900.0, 650.0], torch.Generator())) for f in (euler, ddim))
    torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_euler__order(name):
    order_on_a_gaussian(name)


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_euler__order_on_a_mixture(name):
    order_on_a_mixture(name)


def test_heun():
    """One step in the paper's symbols: the mean of the slopes here and where Euler's step ends, asked about there."""
    schedule, x, first, second = example()
    (a_t, _, r_t), (a_u, _, r_u) = coefficients(schedule, 900, 650)
    here = (x / a_t - first) / r_t
    end = x / a_t + (r_u - r_t) * here
    there = (end - second) / r_u
    denoise = Answers(schedule, first, second)
    actual = final(heun(denoise, x, [900.0, 650.0], torch.Generator()))
    torch.testing.assert_close(actual, a_u * (x / a_t + (r_u - r_t) * (here + there) / 2), rtol=1e-9, atol=1e-12)
    (_, t), (asked, u) = denoise.asked
    torch.testing.assert_close(asked, a_u * end, rtol=1e-9, atol=1e-12)
    assert (t.tolist(), u.tolist()) == ([900.0] * 5, [650.0] * 5)


def test_heun__last_step():
    """To 0 it is Euler's step: one question, and its answer is the result."""
    schedule, x, guess, _ = example()
    torch.testing.assert_close(final(heun(Answers(schedule, guess), x, [900.0, 0.0], torch.Generator())), guess)


def test_heun__order():
    order_on_a_gaussian("heun")


def test_heun__order_on_a_mixture():
    order_on_a_mixture("heun")


def test_churn(within_four_sigma, generator):
    """Monte Carlo: x at one noise level comes out at the raised one, with its mean and variance."""
    schedule, image, count = Schedule(linear_betas()), torch.tensor([0.7, -1.0], dtype=F64), 50_000
    t = torch.full((count,), 500.0, dtype=F64)
    x = schedule.alpha(t)[:, None] * image + schedule.sigma(t)[:, None] * torch.randn(
        count, 2, generator=generator, dtype=F64
    )
    raised, time = add_noise(schedule, x, t, 0.3, generator)
    torch.testing.assert_close(schedule.noise_to_signal(time), 1.3 * schedule.noise_to_signal(t), rtol=1e-9, atol=0)
    scaled = raised / schedule.alpha(time)[:, None] - image
    within_four_sigma(scaled, torch.zeros(2, dtype=F64))
    within_four_sigma(scaled.square(), 1.69 * schedule.noise_to_signal(t[:1]).square().expand(2))


def test_churn__symbols():
    """x + sqrt(raised^2 - sigma^2) z at the scale of the image, with the generator's z; no level above the last."""
    schedule, x, _, _ = example()
    t = torch.tensor([5.0, 100.0, 700.0, 998.0, 1000.0], dtype=F64)
    raised, time = add_noise(schedule, x, t, 0.25, torch.Generator().manual_seed(2))
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(2)).double()
    level = schedule.noise_to_signal(t)
    most = schedule.noise_to_signal(torch.tensor([1000.0], dtype=F64))
    above = torch.minimum(1.25 * level, most)
    expected = x / schedule.alpha(t)[:, None] + (above**2 - level**2).sqrt()[:, None] * z
    torch.testing.assert_close(raised / schedule.alpha(time)[:, None], expected, rtol=1e-7, atol=1e-9)
    assert time[-1] == 1000
    assert torch.equal(raised[-1], x[-1])


def test_exp_int():
    """SymPy: y = x / sigma grows by the integral of exp(lambda) x0_hat, as edm-ode says, for a polynomial x0_hat."""
    lam, lam_t, y_t = sp.symbols("lambda lambda_t y_t", real=True)
    r = sp.symbols("r", positive=True)
    x0_hat = 2 - 3 * lam + lam**2 / 5
    y = y_t + sp.integrate(sp.exp(lam) * x0_hat, (lam, lam_t, lam))
    scaled = (y * sp.exp(-lam)).subs(lam, -sp.log(r))  # x / alpha at the noise level r = exp(-lambda)
    direction = (scaled - x0_hat.subs(lam, -sp.log(r))) / r
    assert sp.simplify(sp.diff(scaled, r) - direction) == 0


def test_exp_int__constant():
    """For an x0_hat that stays, the function is the formula with the integral by quadrature; and it is DDIM's step."""
    schedule, x, x0_hat, _ = example()
    (a_t, s_t, _), (a_u, s_u, _) = coefficients(schedule, 900, 650)
    integral = quad(math.exp, math.log(a_t / s_t), math.log(a_u / s_u), epsabs=1e-13)[0]
    t, u, end = (Time(schedule, value, x) for value in (900.0, 650.0, 0.0))
    actual = exponential_step(x, x0_hat, t, u)
    torch.testing.assert_close(actual, s_u / s_t * x + s_u * integral * x0_hat, rtol=1e-9, atol=1e-12)
    other = final(ddim(Answers(schedule, x0_hat), x, [900.0, 650.0], torch.Generator()))
    torch.testing.assert_close(actual, other, rtol=1e-9, atol=1e-12)
    assert torch.equal(exponential_step(x, x0_hat, t, end), x0_hat)


def test_dpmpp2m():
    """Two steps, and the last one, in the paper's symbols; the denoiser is asked once a step."""
    schedule, x, first, second = example()
    (a_2, s_2, _), (a_1, s_1, _), (a_0, s_0, _) = coefficients(schedule, 900, 650, 300)
    lambdas = [math.log(a / s) for a, s in ((a_2, s_2), (a_1, s_1), (a_0, s_0))]
    h_before, h = lambdas[1] - lambdas[0], lambdas[2] - lambdas[1]
    r = h_before / h
    middle = s_1 / s_2 * x - a_1 * (math.exp(-h_before) - 1) * first
    drawn_on = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    expected = s_0 / s_1 * middle - a_0 * (math.exp(-h) - 1) * drawn_on
    denoise = Answers(schedule, first, second)
    actual = final(dpmpp_2m(denoise, x, [900.0, 650.0, 300.0], torch.Generator()))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(denoise.asked[1][0], middle, rtol=1e-9, atol=1e-12)
    last = final(dpmpp_2m(Answers(schedule, first, second), x, [900.0, 650.0, 0.0], torch.Generator()))
    assert torch.equal(last, second)


def test_dpmpp2m__order():
    order_on_a_gaussian("dpmpp-2m")


def test_dpmpp2m__order_on_a_mixture():
    order_on_a_mixture("dpmpp-2m")


def test_dpmpp2m_sde():
    """Two steps in symbols, each with the noise of the same generator, and the last one, which adds none."""
    schedule, x, first, second = example()
    (a_2, s_2, _), (a_1, s_1, _), (a_0, s_0, _) = coefficients(schedule, 900, 650, 300)
    lambdas = [math.log(a / s) for a, s in ((a_2, s_2), (a_1, s_1), (a_0, s_0))]
    h_before, h = lambdas[1] - lambdas[0], lambdas[2] - lambdas[1]
    z = torch.Generator().manual_seed(2)
    z_1, z_0 = torch.randn(x.shape, generator=z).double(), torch.randn(x.shape, generator=z).double()
    fresh = [math.sqrt(1 - math.exp(-2 * step)) for step in (h_before, h)]
    middle = s_1 / s_2 * math.exp(-h_before) * x + a_1 * fresh[0] ** 2 * first + s_1 * fresh[0] * z_1
    ahead = second + h / (2 * h_before) * (second - first)
    expected = s_0 / s_1 * math.exp(-h) * middle + a_0 * fresh[1] ** 2 * ahead + s_0 * fresh[1] * z_0
    denoise = Answers(schedule, first, second)
    actual = final(dpmpp_2m_sde(denoise, x, [900.0, 650.0, 300.0], torch.Generator().manual_seed(2)))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(denoise.asked[1][0], middle, rtol=1e-9, atol=1e-12)
    last = final(dpmpp_2m_sde(Answers(schedule, first, second), x, [900.0, 650.0, 0.0], torch.Generator()))
    torch.testing.assert_close(last, second, rtol=1e-12, atol=0)


def variance_error(sampler, steps, monkeypatch, variance=0.25, top=10.0, bottom=0.02):
    """By how much the variance of the result on N(0, variance) is off, exactly, between two noise levels."""
    schedule, drawn = Schedule(linear_betas()), []

    def one_hot(x, generator):
        drawn.append(None)
        return torch.zeros_like(x).index_fill_(0, torch.tensor(len(drawn)), 1.0)

    monkeypatch.setattr(samplers, "noise_like", one_hot)
    levels = torch.logspace(math.log10(top), math.log10(bottom), steps + 1, dtype=F64)
    times = schedule.time(levels)
    spread = (schedule.alpha(times).square() * variance + schedule.sigma(times).square()).sqrt()
    x = torch.zeros(steps + 1, 1, dtype=F64)  # row 0 follows the start, row n the noise of step n
    x[0] = spread[0]
    result = final(sampler(Gaussian(schedule, 0.0, variance), x, times.tolist(), torch.Generator()))
    assert len(drawn) == steps
    return result.square().sum().item() - spread[-1].square().item()


@pytest.mark.parametrize(("sampler", "order"), [(dpmpp_2m_sde, -2), (ddpm, -1)])
def test_dpmpp2m_sde__order(sampler, order, monkeypatch):
    """The error of the result's variance falls like 1/N^2, and like 1/N without the look ahead."""
    errors = [variance_error(sampler, steps, monkeypatch) for steps in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert math.log2(fine / coarse) == pytest.approx(order, abs=0.05)


def test_dpmpp2m_sde__keeps_marginals(within_four_sigma, generator):
    """Monte Carlo on one image: every x_t on the way is distributed as the forward process makes it."""
    schedule, image = Schedule(linear_betas(10, 0.02, 0.5)), torch.tensor([[0.7]], dtype=F64)
    times = [10.0, 7.0, 3.0, 2.0, 1.0]
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    x = alpha[0] * image + sigma[0] * torch.randn(50_000, 1, generator=generator, dtype=F64)
    seen = path(dpmpp_2m_sde, EmpiricalDenoiser(schedule, image), x, times, generator)
    for a, s, x in zip(alpha, sigma, seen, strict=True):
        within_four_sigma(x, a * image[0])
        within_four_sigma((x - a * image).square(), s.square())
