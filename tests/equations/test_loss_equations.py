"""The training objective and what a network may predict: equations l-simple to min-snr, hybrid and ldm-loss."""

import math

import pytest
import sympy as sp
import torch

from fromnoise.diffusion.exact import GaussianMixture, gaussian_denoiser
from fromnoise.diffusion.likelihood import vlb_terms
from fromnoise.diffusion.losses import (
    Weighting,
    hybrid_loss,
    learned_vlb_term,
    logit_normal_time,
    loss_weight,
    min_snr_weight,
    squared_error,
    training_loss,
)
from fromnoise.diffusion.parameterization import (
    Prediction,
    error_scale,
    from_x0,
    noise_from_x0,
    to_x0,
    velocity,
    x0_from_noise,
)
from fromnoise.diffusion.process import forward_marginal
from fromnoise.diffusion.schedules import Schedule, linear_betas

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def number(value):
    return torch.tensor(value, dtype=F64)


def test_l_simple__minimum():
    """SymPy: E(eps - c x_t)^2 on N(0, s^2) is least at c = sigma / (a^2 s^2 + sigma^2), and not 0 there."""
    a, sigma, s, c = sp.symbols("a sigma s c", positive=True)
    risk = (1 - c * sigma) ** 2 + c**2 * a**2 * s**2
    best = sp.solve(sp.diff(risk, c), c)
    assert best == [sigma / (a**2 * s**2 + sigma**2)]
    assert sp.simplify(risk.subs(c, best[0]) - a**2 * s**2 / (a**2 * s**2 + sigma**2)) == 0


@pytest.mark.parametrize("alpha", [0.95, 0.6, 0.1])
def test_l_simple(within_four_sigma, generator, alpha):
    """Monte Carlo: the loss of the best prediction is a^2 s^2 / (a^2 s^2 + sigma^2), a mean over pixels, not a sum."""
    sigma, s = math.sqrt(1 - alpha**2), 0.5
    noise = normal(generator, 20_000, 1, 2, 3)
    x_t = alpha * s * normal(generator, 20_000, 1, 2, 3) + sigma * noise
    marginal = alpha**2 * s**2 + sigma**2
    loss = squared_error(sigma * x_t / marginal, noise)
    assert loss.shape == (20_000,)
    within_four_sigma(loss, alpha**2 * s**2 / marginal)


@pytest.mark.parametrize("prediction", Prediction)
def test_l_simple__every_prediction(generator, prediction):
    """A network that predicts something else is weighted so that its loss is the mean squared error in the noise."""
    schedule, t = Schedule(linear_betas()), torch.tensor([1, 30, 500, 1000], dtype=F64)
    alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
    x0, noise, x0_hat = (normal(generator, 4, 2, 3) for _ in range(3))

    def network(x, timestep):
        return from_x0(prediction, x0_hat, x, alpha, sigma)

    noise_hat = noise_from_x0(forward_marginal(schedule, x0, t, noise), x0_hat, alpha, sigma)
    loss = training_loss(network, schedule, prediction, SIMPLE, x0, t, noise)
    expected = (noise - noise_hat).square().sum((1, 2)) / 6
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)


def test_l_simple__all_times_alike(within_four_sigma, generator):
    """Monte Carlo, t uniform on 1..T: the loss is the plain average of a^2 s^2 / (a^2 s^2 + sigma^2) over all times."""
    schedule, s, count = Schedule(linear_betas(5, 0.05, 0.6)), 0.5, 40_000
    t = torch.randint(1, 6, (count,), generator=generator).to(F64)
    x0, noise = s * normal(generator, count, 2), normal(generator, count, 2)

    def network(x, timestep):
        alpha, sigma = schedule.alpha(timestep + 1)[:, None], schedule.sigma(timestep + 1)[:, None]
        return sigma * x / (alpha**2 * s**2 + sigma**2)

    loss = training_loss(network, schedule, EPSILON, SIMPLE, x0, t, noise)
    of_image = schedule.alpha_bar[1:] * s**2
    within_four_sigma(loss, (of_image / (of_image + 1 - schedule.alpha_bar[1:])).mean())


def test_mse_opt(within_four_sigma, generator):
    """Least squares on Gaussian data finds the function's line: its residual is orthogonal to 1 and to x."""
    alpha, mean, variance = number(0.8), number(0.4), number(0.25)
    sigma = (1 - alpha.square()).sqrt()
    x0 = mean + variance.sqrt() * normal(generator, 200_000)
    x = alpha * x0 + sigma * normal(generator, 200_000)
    residual = x0 - gaussian_denoiser(x, alpha, sigma, mean, variance)
    within_four_sigma(torch.stack([residual, residual * x, residual * x.square()], 1), 0.0)
    # The fitted line itself, with the standard errors of regression.
    design = torch.stack([torch.ones_like(x), x], 1)
    fit = torch.linalg.lstsq(design, x0[:, None]).solution[:, 0]
    intercept = gaussian_denoiser(number(0.0), alpha, sigma, mean, variance)
    slope = gaussian_denoiser(number(1.0), alpha, sigma, mean, variance) - intercept
    error = (torch.linalg.inv(design.T @ design).diagonal() * residual.square().mean()).sqrt()
    assert bool(((fit - torch.stack([intercept, slope])).abs() < 4 * error).all())


def test_mse_opt__posterior_mean():
    """Quadrature: the function is Bayes' E[x_0 | x], to 1e-10, also where noise or signal dominate."""
    x0 = torch.linspace(-6, 6, 20_001, dtype=F64)
    for alpha in (0.99, 0.7, 0.01):
        sigma = math.sqrt(1 - alpha**2)
        for x in (-1.2, 0.3):
            weight = torch.exp(-((x - alpha * x0) ** 2) / (2 * sigma**2) - (x0 - 0.4) ** 2 / (2 * 0.25))
            exact = (weight * x0).sum() / weight.sum()
            actual = gaussian_denoiser(number(x), number(alpha), number(sigma), number(0.4), number(0.25))
            torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)


def test_mse_opt__any_data():
    """Quadrature, two heaps: no change of the guess lowers the mean squared error of E[x_0 | x], which is no line."""
    schedule, time = Schedule(linear_betas(1, 0.3, 0.3)), torch.ones(1, dtype=F64)
    weights, means, stds = (torch.tensor(values, dtype=F64) for values in ([0.3, 0.7], [[-1.0], [0.8]], [0.3, 0.2]))
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    x0, x = torch.linspace(-5, 5, 1201, dtype=F64), torch.linspace(-4, 4, 801, dtype=F64)
    heaps = weights * torch.distributions.Normal(means[:, 0], stds).log_prob(x0[:, None]).exp()
    noisy = torch.distributions.Normal(alpha * x0, sigma).log_prob(x[:, None]).exp()
    joint = noisy * heaps.sum(1)  # rows: x, columns: x_0
    guess = GaussianMixture(schedule, weights, means, stds)(x[:, None], time.expand(801))[:, 0]
    torch.testing.assert_close(guess, (joint * x0).sum(1) / joint.sum(1), rtol=1e-9, atol=1e-9)

    def error(guess):
        return ((x0 - guess[:, None]).square() * joint).sum() / joint.sum()

    line = gaussian_denoiser(x, alpha, sigma, number(0.26), (joint.sum(0) * (x0 - 0.26) ** 2).sum() / joint.sum())
    for other in (line, guess + 0.05, 1.05 * guess, guess + 0.05 * x.sin(), x / alpha):
        assert error(other) > error(guess) + 1e-4


def test_eps_x0(generator):
    """Image to noise and back, and the noise put in comes out, in float64 to 1e-10."""
    x0, noise = normal(generator, 5, 3), normal(generator, 5, 3)
    for a in (0.999, 0.5, 0.01):
        alpha, sigma = number(a), number(math.sqrt(1 - a**2))
        x = alpha * x0 + sigma * noise
        torch.testing.assert_close(x0_from_noise(x, noise, alpha, sigma), x0, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(noise_from_x0(x, x0, alpha, sigma), noise, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(x0_from_noise(x, noise_from_x0(x, x0, alpha, sigma), alpha, sigma), x0)


def test_v__rotation():
    """SymPy: (x, v) is (x_0, eps) turned by an angle, so its inverse is the transpose: a x - sigma v, sigma x + a v."""
    x0, noise, angle = sp.symbols("x_0 epsilon theta")
    alpha, sigma = sp.cos(angle), sp.sin(angle)
    x, v = alpha * x0 + sigma * noise, alpha * noise - sigma * x0
    assert sp.simplify(alpha * x - sigma * v - x0) == 0
    assert sp.simplify(sigma * x + alpha * v - noise) == 0
    assert sp.simplify(sp.diff(x, angle) - v) == 0  # its name: the velocity of x along the arc


def test_v(generator):
    """The function obeys x_0 = a x - sigma v and eps = sigma x + a v, and has the sign of dx / d(angle)."""
    x0, noise, alpha, sigma = normal(generator, 4, 2), normal(generator, 4, 2), number(0.6), number(0.8)
    x, v = alpha * x0 + sigma * noise, velocity(x0, noise, alpha, sigma)
    torch.testing.assert_close(alpha * x - sigma * v, x0)
    torch.testing.assert_close(sigma * x + alpha * v, noise)
    torch.testing.assert_close(to_x0(Prediction.VELOCITY, v, x, alpha, sigma), x0)
    torch.testing.assert_close(velocity(torch.ones_like(x0), torch.zeros_like(x0), alpha, sigma), -0.8 + 0 * x0)


def test_err_maps__derivation():
    """SymPy: at a given x, an error d in the image is -a d / sigma in the noise and -d / sigma in v."""
    x, x0, d = sp.symbols("x x_0 d")
    alpha, sigma = sp.symbols("alpha sigma", positive=True)

    def noise(image):
        return (x - alpha * image) / sigma

    def v(image):
        return alpha * noise(image) - sigma * image

    snr = alpha**2 / sigma**2
    assert sp.simplify((noise(x0 + d) - noise(x0)) ** 2 - snr * d**2) == 0
    difference = sp.simplify((v(x0 + d) - v(x0)) ** 2 - (snr + 1) * d**2)
    assert sp.simplify(difference.subs(alpha, sp.sqrt(1 - sigma**2))) == 0


@pytest.mark.parametrize("prediction", Prediction)
def test_err_maps(generator, prediction):
    """The function's factor is that between the squared errors of two images' outputs at the same x."""
    x, one, other = (normal(generator, 3, 4) for _ in range(3))
    alpha = torch.tensor([0.99, 0.5, 0.02], dtype=F64)
    sigma = (1 - alpha.square()).sqrt()
    outputs = [from_x0(prediction, image, x, alpha[:, None], sigma[:, None]) for image in (one, other)]
    ratio = squared_error(*outputs) / squared_error(one, other)
    torch.testing.assert_close(error_scale(prediction, (alpha / sigma).square()), ratio, rtol=1e-9, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    """min(SNR, gamma) for the image, / SNR for noise, / (SNR + 1) for v (not min(SNR + 1, gamma)), at every t."""
    schedule, t = Schedule(linear_betas()), torch.arange(1, 1001, dtype=F64)
    snr = schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])
    capped = torch.minimum(snr, number(gamma))
    assert bool((snr > gamma).any() and (snr < gamma).any())
    torch.testing.assert_close(min_snr_weight(snr, gamma), capped, rtol=0, atol=0)
    by_prediction = {
        Prediction.IMAGE: capped,
        Prediction.NOISE: capped / snr,
        Prediction.VELOCITY: capped / (snr + 1),
        Prediction.FLOW: capped / (snr.sqrt() + 1).square(),
    }
    for prediction, expected in by_prediction.items():
        actual = loss_weight(Weighting.MIN_SNR, prediction, schedule, t, gamma=gamma)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def test_min_snr__equal_losses(generator):
    """The same wrong image costs the same, whatever the network predicts."""
    schedule, t = Schedule(linear_betas()), torch.tensor([1, 100, 400, 1000], dtype=F64)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    x0, noise, x0_hat = (normal(generator, 4, 6) for _ in range(3))
    x = alpha * x0 + sigma * noise
    losses = [
        loss_weight(Weighting.MIN_SNR, prediction, schedule, t)
        * squared_error(*(from_x0(prediction, image, x, alpha, sigma) for image in (x0_hat, x0)))
        for prediction in Prediction
    ]
    for loss in losses:
        torch.testing.assert_close(loss, losses[1], rtol=1e-8, atol=0)


def test_logit_normal():
    """The times' density is the law's: it integrates to 1, and so much of it is below each time as was asked for."""
    edges = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    t = (edges[1:] + edges[:-1]) / 2
    for mean, std in [(0.6, 0.8), (0.0, 1.0), (-1.0, 0.5)]:
        normal = torch.distributions.Normal(torch.tensor(mean).double(), torch.tensor(std).double())
        density = normal.log_prob(torch.log(t / (1 - t))).exp() / (t * (1 - t))
        below = density.cumsum(0) / len(t)
        assert abs(below[-1] - 1) < 1e-6
        for quantile in (0.01, 0.2, 0.5, 0.9, 0.999):
            time = logit_normal_time(torch.tensor(quantile, dtype=torch.float64), mean, std)
            assert abs(below[int(time * len(t))] - quantile) < 2e-5


def test_logit_normal__ends():
    """The whole law lies between the ends, the median's logit is its mean, and its order is the quantiles'."""
    quantiles = torch.linspace(0, 1, 101)
    times = logit_normal_time(quantiles)
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()
    torch.testing.assert_close(torch.logit(times[50]), torch.tensor(0.6))


def guesses(generator, *, steps=4):
    """A batch with every time in it, a guess at the noise and at the variance's place, both with gradients."""
    schedule = Schedule(linear_betas(steps, 0.05, 0.5))
    x0 = torch.randint(256, (6 * steps, 1, 2, 2), generator=generator) / 127.5 - 1
    t = torch.arange(1, steps + 1, dtype=F64).repeat(6)
    output, v = (normal(generator, 6 * steps, 1, 2, 2).requires_grad_() for _ in range(2))
    return schedule, x0.to(F64), t, normal(generator, *x0.shape), output, v


@pytest.mark.parametrize("prediction", Prediction)
def test_hybrid__gradients(generator, prediction):
    """Autograd: L_simple gives the variance no gradient, the hybrid loss does; the mean has L_simple's alone."""
    schedule, x0, t, noise, output, v = guesses(generator)
    mixed = torch.sigmoid(v)
    simple = training_loss(lambda x, _: output, schedule, prediction, SIMPLE, x0, t, noise).sum()
    of_output, of_variance = torch.autograd.grad(simple, [output, v], allow_unused=True)
    assert of_variance is None
    hybrid = hybrid_loss(schedule, prediction, x0, t, noise, output, mixed).sum()
    both = torch.autograd.grad(hybrid, [output, v])
    torch.testing.assert_close(both[0], of_output, rtol=1e-12, atol=0)
    assert bool((both[1].flatten(1).abs().amax(1) > 0).all()), "at some time the variance has no gradient"
    assert bool(both[1].isfinite().all())


def test_hybrid__wild_guess(generator):
    """In float32 the loss and its gradients stay finite for a guess that is thousands off."""
    schedule, t = Schedule(linear_betas()), torch.tensor([1.0, 2.0, 1000.0])
    x0 = torch.randint(256, (3, 1, 8, 8), generator=generator) / 127.5 - 1
    noise, output, v = (torch.randn(x0.shape, generator=generator) for _ in range(3))
    output, v = (3000 * output).requires_grad_(), v.requires_grad_()
    loss = hybrid_loss(schedule, EPSILON, x0, t, noise, output, v.sigmoid())
    assert loss.dtype == torch.float32
    for value in (loss, *torch.autograd.grad(loss.sum(), [output, v])):
        assert bool(value.isfinite().all())


@pytest.mark.parametrize("end", [1.0, 0.0])
def test_hybrid(generator, end):
    """It is L_simple + .001 L_vlb, per element: with beta (v = 1) or beta~ (v = 0) the bound of `vlb_terms`."""
    schedule, x0, _, noise, _, _ = guesses(generator)
    x0 = x0[:1].expand(4, 1, 2, 2)
    noise = noise[:1].expand_as(x0)
    t, output = torch.arange(1, 5, dtype=F64), normal(generator, *x0.shape)

    class Denoiser:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x, time):
            at = time.long() - 1
            return x0_from_noise(x, output[at], schedule.alpha(time)[:, None, None, None], schedule.sigma(time)[0])

    variance = schedule.betas if end else torch.cat([schedule.betas[:1], fixed_small(schedule)])
    if not end:
        variance[0] = variance[1]  # at t = 1 the lower end is beta~_2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fromnoise.diffusion.likelihood.noise_like", lambda x, generator: noise[: len(x)])
        bound = vlb_terms(Denoiser(), x0[:1], variance, generator)[0, :-1].sum() / 4
    simple = squared_error(output, noise)
    v = torch.full_like(x0, end)
    loss = hybrid_loss(schedule, EPSILON, x0, t, noise, output, v)
    torch.testing.assert_close(loss.mean(), simple.mean() + 0.001 * bound, rtol=1e-10, atol=0)
    torch.testing.assert_close(hybrid_loss(schedule, EPSILON, x0, t, noise, output, v, share=0.0), simple)


def fixed_small(schedule):
    """beta~ at the steps 2..T."""
    alpha_bar = schedule.alpha_bar
    return (1 - alpha_bar[1:-1]) / (1 - alpha_bar[2:]) * schedule.betas[1:]


def test_hybrid__learns_the_right_variance(generator):
    """On N(0, s^2), with the best mean, the expected term is least where the variance is that of the true step back."""
    schedule, s, count = Schedule(linear_betas(4, 0.05, 0.5)), 0.5, 40_000
    denoise = GaussianMixture(schedule, torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), number([s]))
    for step in (2, 4):
        t = torch.full((count,), float(step), dtype=F64)
        x0 = s * normal(generator, count, 1)
        x0_hat = denoise(forward_marginal(schedule, x0, t, normal(generator, count, 1)), t)
        alpha_bar = schedule.alpha_bar
        share = alpha_bar[step - 1].sqrt() * schedule.betas[step - 1] / (1 - alpha_bar[step])
        left_over = s**2 * (1 - alpha_bar[step]) / (alpha_bar[step] * s**2 + 1 - alpha_bar[step])
        small = fixed_small(schedule)[step - 2]
        best = ((small + share**2 * left_over) / small).log() / (schedule.betas[step - 1] / small).log()
        v = best.expand_as(x0).clone().requires_grad_()
        terms = learned_vlb_term(schedule, x0, t, x0_hat, v, discretized=False)
        (slope,) = torch.autograd.grad(terms.sum(), v)
        assert abs(slope.mean()) < 4 * slope.std() / count**0.5
        low, high = (learned_vlb_term(schedule, x0, t, x0_hat, (best + d).expand_as(x0)).mean() for d in (-0.3, 0.3))
        assert min(low, high) > terms.mean()


EPSILON, SIMPLE = Prediction("epsilon"), Weighting("simple")


def test_ldm_loss(generator):
    """It is the error in the noise of z_t = a z + sigma eps, for a network that is told t - 1 and the text."""
    schedule, t = Schedule(linear_betas(10)), torch.tensor([1, 4, 10], dtype=F64)
    z, noise, text = normal(generator, 3, 4, 2, 2), normal(generator, 3, 4, 2, 2), normal(generator, 3, 5, 6)
    abar = torch.cumprod(1 - linear_betas(10), 0)[t.long() - 1, None, None, None]
    z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise

    def network(x, timestep, context):
        torch.testing.assert_close(x, z_t)
        assert timestep.tolist() == [0, 3, 9]
        return x * context.mean((1, 2))[:, None, None, None]

    loss = training_loss(network, schedule, EPSILON, SIMPLE, z, t, noise, context=text)
    expected = (noise - z_t * text.mean((1, 2))[:, None, None, None]).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("scale", [1.0, 0.18215])
def test_ldm_loss__of_scaled_latents(within_four_sigma, generator, scale):
    """Monte Carlo: it is least at a^2 s^2 / (a^2 s^2 + sigma^2), s the latents' std: scaled to 1, that is a^2."""
    schedule, std, count = Schedule(linear_betas(1000)), scale / 0.18215, 20_000
    t = torch.full((count,), 400.0, dtype=F64)
    alpha, sigma = schedule.alpha(t[:1]), schedule.sigma(t[:1])
    z, noise = std * normal(generator, count, 1, 1, 2), normal(generator, count, 1, 1, 2)
    marginal = (alpha * std) ** 2 + sigma**2
    loss = training_loss(lambda x, _: x * sigma / marginal, schedule, EPSILON, SIMPLE, z, t, noise)
    least = (alpha * std) ** 2 / marginal
    within_four_sigma(loss, least)
    assert scale == 1.0 or float(least) == pytest.approx(float(alpha**2))
