"""The variational bound, its terms and their units: equations elbo to bpd."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy.stats import norm
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from fromnoise.diffusion import likelihood
from fromnoise.diffusion.exact import EmpiricalDenoiser, GaussianMixture
from fromnoise.diffusion.likelihood import (
    bits_per_dim,
    discretized_gaussian_log_likelihood,
    gaussian_kl,
    isotropic_kl,
    prior_gap,
    vlb_terms,
)
from fromnoise.diffusion.losses import Weighting, loss_weight, monotone_bound, vlb_weight
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.diffusion.process import forward_step, posterior_mean, posterior_variance, reverse_variance
from fromnoise.diffusion.samplers import Variance
from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas

F64 = torch.float64
GREY_LEVELS = torch.arange(256, dtype=F64) / 127.5 - 1


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def gaussian(schedule, mean, std):
    """The exact denoiser of N(mean, std^2) in one dimension."""
    return GaussianMixture(schedule, tensor(1), tensor(mean)[:, None], tensor(std))


def fixed_variances(schedule):
    """Both choices of the model's variance at the steps 1..T, in the paper's symbols; at step 1 each is beta_1."""
    alpha_bar, betas = schedule.alpha_bar, schedule.betas
    small = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * betas
    return {Variance.SMALL: torch.cat([betas[:1], small[1:]]), Variance.LARGE: betas}


@pytest.fixture
def expected_terms(monkeypatch):
    """`vlb_terms` of a linear denoiser, averaged exactly over the noise: they are quadratic in it, so +-1 suffices."""

    def expected(denoise, x0, variance):
        signs = torch.cat([torch.ones_like(x0), -torch.ones_like(x0)])
        monkeypatch.setattr(likelihood, "noise_like", lambda x, generator: signs)
        terms = vlb_terms(denoise, torch.cat([x0, x0]), variance, torch.Generator(), discretized=False)
        return terms.unflatten(0, (2, -1)).mean(0)

    return expected


def chain(gain, offset, variance):
    """Mean and covariance of x_n = gain_n x_{n-1} + offset_n + N(0, variance_n) for all n, from x = 0."""
    inverse = torch.linalg.inv(torch.eye(len(gain), dtype=F64) - torch.diag(gain[1:], -1))
    return inverse @ offset, inverse @ variance.diag() @ inverse.T


def forward_chain(schedule, x0):
    """The law of (x_1, ..., x_T) given x_0 in the forward process."""
    keep = (1 - schedule.betas).sqrt()
    return chain(keep, torch.cat([keep[:1] * x0, 0 * keep[1:]]), schedule.betas)


def model_chain(denoise, variance, x0):
    """For a linear denoiser, in the model: the law of x_0, and that of (x_1, ..., x_T) given x_0."""
    t = torch.arange(denoise.schedule.num_timesteps, 0, -1, dtype=F64)
    zero, one = torch.zeros(len(t), 1, dtype=F64), torch.ones(len(t), 1, dtype=F64)
    offset, total = (posterior_mean(denoise.schedule, denoise(x, t), x, t - 1, t)[:, 0] for x in (zero, one))
    steps = torch.stack([tensor(0, *(total - offset)), tensor(0, *offset), tensor(1, *variance.flip(0))])
    mean, cov = (moment.flip(list(range(moment.ndim))) for moment in chain(*steps))  # x_0 first
    regression = cov[1:, 0] / cov[0, 0]
    given_x0 = mean[1:] + regression * (x0 - mean[0]), cov[1:, 1:] - regression[:, None] * cov[0, 1:]
    return Normal(mean[0], cov[0, 0].sqrt()), given_x0


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("x0", [-1.3, 0.3, 2.0])
def test_elbo(expected_terms, variance, x0):
    """Linear chain, closed form: log p(x_0) is above the bound, by the KL of q(x_1..T | x_0) from p(x_1..T | x_0)."""
    denoise = gaussian(Schedule(linear_betas(6, 0.05, 0.5)), 0.3, 0.5)
    data, given_x0 = model_chain(denoise, fixed_variances(denoise.schedule)[variance], x0)
    gap = data.log_prob(tensor(x0)).sum() + expected_terms(denoise, tensor(x0)[None], variance).sum()
    torch.testing.assert_close(gap, gaussian_kl(*forward_chain(denoise.schedule, x0), *given_x0), rtol=1e-9, atol=0)
    assert gap > 0.01


def test_elbo__equality(expected_terms):
    """On N(0, 1) with variance beta, q is the true posterior, and the bound is log N(x_0; 0, 1) at every x_0."""
    denoise, x0 = gaussian(Schedule(linear_betas(6, 0.05, 0.5)), 0.0, 1.0), tensor(-1.3, 0.3, 2.0)[:, None]
    bound = -expected_terms(denoise, x0, Variance.LARGE).sum(1)
    torch.testing.assert_close(bound, Normal(tensor(0.0), 1.0).log_prob(x0[:, 0]), rtol=1e-12, atol=0)
    _, given_x0 = model_chain(denoise, denoise.schedule.betas, 0.3)
    torch.testing.assert_close(given_x0, forward_chain(denoise.schedule, 0.3), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variance", [*Variance, tensor(0.05, 0.2, 0.2, 0.3)], ids=["small", "large", "table"])
def test_elbo_terms(within_four_sigma, generator, variance):
    """Monte Carlo, any denoiser: the sum of the terms is the mean of -log p(x_0..T) / q(x_1..T | x_0) over chains."""
    schedule, count = Schedule(tensor(0.1, 0.2, 0.3, 0.5)), 20_000
    denoise = GaussianMixture(schedule, tensor(0.3, 0.7), tensor([-1, 0.5], [0.8, 0.0]), tensor(0.3, 0.2))
    x = x0 = tensor(0.6, -0.2).expand(count, 2)
    terms = vlb_terms(denoise, x0, variance, generator, discretized=False)
    assert terms.shape == (count, 5)
    variances = variance if isinstance(variance, torch.Tensor) else fixed_variances(schedule)[variance]
    log_ratio = torch.zeros(count, dtype=F64)
    for step in range(4):
        before, t, beta = x, torch.full((count,), step + 1.0, dtype=F64), schedule.betas[step]
        x = forward_step(before, beta.expand(count), torch.randn(x.shape, generator=generator, dtype=F64))
        mean = posterior_mean(schedule, denoise(x, t), x, t - 1, t)
        log_ratio += Normal(mean, variances[step].sqrt()).log_prob(before).sum(1)
        log_ratio -= Normal((1 - beta).sqrt() * before, beta.sqrt()).log_prob(x).sum(1)
    log_ratio += Normal(tensor(0.0), 1.0).log_prob(x).sum(1)
    within_four_sigma(terms.sum(1) + log_ratio, 0.0)


def lost(expected_terms, steps, mean, variances):
    """The bound minus the entropy of the data N(mean, .25), in nats: what the exact denoiser still loses, exactly.

    `variances` makes a table of the exact reverse variances and beta~.
    """
    schedule = Schedule(linear_betas(steps, 0.1 / steps, 20 / steps))
    t = torch.arange(1, steps + 1, dtype=F64)
    x0_variance = 0.25 / (1 + 0.25 * schedule.snr(t))  # Var(x_0 | x_t)
    table = variances(reverse_variance(schedule, x0_variance, t - 1, t), posterior_variance(schedule, t - 1, t))
    x0 = tensor(mean - 0.5, mean + 0.5)[:, None]  # has the data's first two moments
    terms = expected_terms(gaussian(schedule, mean, 0.5), x0, table)
    return terms.sum(1).mean().item() - 0.5 * math.log(2 * math.pi * math.e * 0.25)


@pytest.mark.parametrize(("steps", "mean"), [(25, 0.4), (100, 0.0), (100, 0.4), (1600, 0.0)])
def test_elbo_terms__exact_variance(expected_terms, steps, mean):
    """With `reverse_variance` nothing is lost on a Gaussian but KL(q(x_T) || N(0, 1)): 2.4e-10 nats at T = 1600."""
    alpha_bar = Schedule(linear_betas(steps, 0.1 / steps, 20 / steps)).alpha_bar[-1:]
    expected = isotropic_kl(alpha_bar * mean**2, 1, 1 - 0.75 * alpha_bar.item(), 1.0).item()
    actual = lost(expected_terms, steps, mean, lambda exact, small: exact)
    assert actual == pytest.approx(expected, rel=1e-6, abs=1e-12)
    if steps == 1600:
        assert actual == pytest.approx(2.4e-10, rel=0.02, abs=0)


def test_elbo_terms__fixed_variances(expected_terms):
    """Variance beta loses 1.096e-2 nats at T = 100 and 6.83e-4 at 1600, like 1 / T; beta~ loses 1.25 and .41."""
    large = {n: lost(expected_terms, n, 0.0, lambda *_: Variance.LARGE) for n in (100, 400, 1600)}
    assert (large[100], large[1600]) == pytest.approx((1.096e-2, 6.83e-4), rel=1e-3)
    assert math.log(large[400] / large[100], 4) == pytest.approx(-1, abs=0.01)
    assert math.log(large[1600] / large[400], 4) == pytest.approx(-1, abs=0.01)
    small = [lost(expected_terms, n, 0.0, lambda exact, small: torch.cat([exact[:1], small[1:]])) for n in (100, 1600)]
    assert small == pytest.approx([1.25, 0.41], abs=0.005)


def test_elbo_terms__batch():
    """With a generator each, a sample's terms do not depend on its neighbours; float32 stays, conditions pass."""
    schedule = Schedule(linear_betas(5, 0.01, 0.5))

    class Scaled:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x, t, scale):
            assert t.dtype == x.dtype
            return scale[:, None, None] * x

    x0, scale = torch.tensor([[[0.5, -1.0]], [[0.2, 0.3]]]), torch.tensor([0.9, 0.4])
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = vlb_terms(Scaled(), x0, Variance.LARGE, generators, scale=scale)
    alone = vlb_terms(Scaled(), x0[1:], Variance.LARGE, [torch.Generator().manual_seed(2)], scale=scale[1:])
    assert both.shape == (2, 6)
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1:], alone)
    torch.testing.assert_close(both[:, -1], prior_gap(schedule, x0))


def test_gaussian_kl(generator):
    """It is torch.distributions' KL for full covariances, in a batch, and 0 from a Gaussian to itself."""
    roots = torch.randn(2, 4, 3, 3, generator=generator, dtype=F64)
    cov_0, cov_1 = roots @ roots.mT + 0.1 * torch.eye(3, dtype=F64)
    mean_0, mean_1 = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    expected = kl_divergence(MultivariateNormal(mean_0, cov_0), MultivariateNormal(mean_1, cov_1))
    torch.testing.assert_close(gaussian_kl(mean_0, cov_0, mean_1, cov_1), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(gaussian_kl(mean_0, cov_0, mean_0, cov_0), 0 * expected, rtol=0, atol=1e-12)


def test_gaussian_kl__monte_carlo(within_four_sigma, generator):
    """It is the mean of log p_0(x) / p_1(x) over draws of p_0, not of p_1."""
    mean_0, mean_1 = tensor(0.5, -1.0), tensor(0.0, -0.5)
    cov_0, cov_1 = tensor([1.0, 0.6], [0.6, 0.5]), tensor([2.0, -0.3], [-0.3, 0.4])
    first, second = MultivariateNormal(mean_0, cov_0), MultivariateNormal(mean_1, cov_1)
    draws = mean_0 + torch.randn(50_000, 2, generator=generator, dtype=F64) @ torch.linalg.cholesky(cov_0).T
    ratio = first.log_prob(draws) - second.log_prob(draws)
    within_four_sigma(ratio, gaussian_kl(mean_0, cov_0, mean_1, cov_1))


def test_gaussian_kl__on_a_grid():
    """N(.1, 10^2) from N(2, 4^2): 1.8215 nats, as a sum over a wide grid says; one that ends at +-20 says 1.174."""
    exact = gaussian_kl(tensor(0.1), tensor(100.0)[None], tensor(2.0), tensor(16.0)[None]).item()
    assert exact == pytest.approx(1.8215, abs=5e-5)

    def on_grid(limit):
        x = np.linspace(-limit, limit, 100_001)
        log_p, log_q = norm.logpdf(x, 0.1, 10), norm.logpdf(x, 2, 4)
        return np.trapezoid(np.exp(log_p) * (log_p - log_q), x)

    assert on_grid(150) == pytest.approx(exact, rel=1e-9)
    assert on_grid(20) == pytest.approx(1.174, abs=5e-4)


def test_kl_mean__derivation():
    """SymPy: E[log p_0 / p_1] over x = m_0 + s_0 z is |m_0 - m_1|^2 / 2 v_1 + C, and C is 0 if the variances agree."""
    m_0, m_1, z = sp.symbols("m_0 m_1 z", real=True)
    s_0, s_1 = sp.symbols("s_0 s_1", positive=True)
    x = m_0 + s_0 * z
    log_ratio = sp.expand((x - m_1) ** 2 / (2 * s_1**2) - z**2 / 2 + sp.log(s_1 / s_0))
    mean = log_ratio.coeff(z, 0) + log_ratio.coeff(z, 2)  # E[z] = 0, E[z^2] = 1
    r = (s_0 / s_1) ** 2
    c = (r - 1 - sp.log(r)) / 2
    assert sp.simplify(sp.expand_log(mean - (m_0 - m_1) ** 2 / (2 * s_1**2) - c)) == 0
    assert c.subs(s_0, s_1) == 0


@pytest.mark.parametrize("variance_1", [0.3, 0.02])
def test_kl_mean(generator, variance_1):
    """It is `gaussian_kl` for multiples of the identity, with both variances wrong or right."""
    mean_0, mean_1 = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    eye = torch.eye(3, dtype=F64).expand(4, 3, 3)
    expected = gaussian_kl(mean_0, 0.02 * eye, mean_1, variance_1 * eye)
    distance = (mean_0 - mean_1).square().sum(1)
    torch.testing.assert_close(isotropic_kl(distance, 3, 0.02, variance_1), expected, rtol=1e-10, atol=0)


def test_kl_mean__nearly_equal_variances():
    """For a ratio of 1 + r the constant is D r^2 / 4, to six digits even at 1e-8, where log(1 + r) loses all."""
    actual = isotropic_kl(tensor(0.0), 8, 0.3 * (1 + 1e-8), 0.3).item()
    assert actual == pytest.approx(2e-16, rel=1e-6, abs=0)


def test_vlb_x0__derivation():
    """SymPy: the KL of two posteriors that differ in x_0 alone has the factor (SNR_{t-1} - SNR_t) / 2."""
    a_u, a_t = sp.symbols("a_u a_t", positive=True)
    beta = 1 - (a_t / a_u) ** 2
    of_x0 = a_u * beta / (1 - a_t**2)
    variance = (1 - a_u**2) / (1 - a_t**2) * beta
    snr_u, snr_t = a_u**2 / (1 - a_u**2), a_t**2 / (1 - a_t**2)
    assert sp.simplify(of_x0**2 / (2 * variance) - (snr_u - snr_t) / 2) == 0


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas()])
def test_vlb_x0(betas):
    """The weight times the squared error is the KL of q(x_{t-1} | x_t, x_0) from p(x_{t-1} | x_t), for every t > 1."""
    schedule, t = Schedule(betas), torch.arange(2, 1001, dtype=F64)
    x0, x0_hat, x_t = torch.full_like(t, 0.4), torch.full_like(t, -0.3), torch.full_like(t, 0.9)
    std = posterior_variance(schedule, t - 1, t).sqrt()
    truth = Normal(posterior_mean(schedule, x0, x_t, t - 1, t), std)
    model = Normal(posterior_mean(schedule, x0_hat, x_t, t - 1, t), std)
    torch.testing.assert_close(vlb_weight(schedule, t) * 0.7**2, kl_divergence(truth, model), rtol=1e-6, atol=0)


def test_vlb_x0__first_term():
    """At t = 1 the term is -log N(x_0; x0_hat, beta_1), whose squared error has the factor 1 / (2 beta_1)."""
    schedule = Schedule(torch.tensor([0.03, 0.2], dtype=F64))
    decoder = Normal(torch.tensor(0.0, dtype=F64), math.sqrt(0.03))
    error = torch.tensor(0.7, dtype=F64)
    expected = decoder.log_prob(torch.zeros_like(error)) - decoder.log_prob(error)
    torch.testing.assert_close(vlb_weight(schedule, torch.ones(1, dtype=F64))[0] * error.square(), expected)


def test_vlb_eps__derivation():
    """SymPy: the means' distance, by the noise in them, has the factor beta^2 / (2 variance alpha sigma^2).

    With beta~ as the variance this is vlb-x0's factor divided by the SNR.
    """
    a_u, a_t, variance, noise, noise_hat, x_t = sp.symbols("a_u a_t v epsilon epsilon_hat x_t", positive=True)
    alpha = (a_t / a_u) ** 2
    beta, sigma2, snr_u, snr_t = 1 - alpha, 1 - a_t**2, a_u**2 / (1 - a_u**2), a_t**2 / (1 - a_t**2)

    def mean(noise):
        return (x_t - beta / sp.sqrt(sigma2) * noise) / sp.sqrt(alpha)

    factor = beta**2 / (2 * variance * alpha * sigma2)
    divergence = (mean(noise) - mean(noise_hat)) ** 2 / (2 * variance)
    assert sp.simplify(divergence - factor * (noise - noise_hat) ** 2) == 0
    small = (1 - a_u**2) / sigma2 * beta
    assert sp.simplify(factor.subs(variance, small) - (snr_u - snr_t) / 2 / snr_t) == 0


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas()])
def test_vlb_eps(betas):
    """The weight of a network that predicts noise is this factor at every t, with beta~ and, at t = 1, beta_1."""
    schedule, t = Schedule(betas), torch.arange(1, 1001, dtype=F64)
    variance = fixed_variances(schedule)[Variance.SMALL]
    expected = betas.square() / (2 * variance * (1 - betas) * (1 - schedule.alpha_bar[1:]))
    torch.testing.assert_close(loss_weight(Weighting.VLB, Prediction.NOISE, schedule, t), expected, rtol=1e-8, atol=0)


def test_monotone_elbo__summation_by_parts(generator):
    """Weights that rise with the noise make a weighted sum of the terms an average of sums that begin later."""
    weight = torch.tensor([0.2, 0.2, 0.7, 1.5, 4.0], dtype=F64)
    terms = torch.rand(3, 5, generator=generator, dtype=F64)
    torch.testing.assert_close(monotone_bound(weight, terms), terms @ weight, rtol=1e-12, atol=0)
    for wrong in ([1.0, 0.9], [-0.1, 0.5]):
        with pytest.raises(ValueError, match="falls as noise is added"):
            monotone_bound(torch.tensor(wrong, dtype=F64), terms[:, :2])


@pytest.mark.parametrize("variance", [Variance.LARGE, "exact"])
@pytest.mark.parametrize("u", [1, 3, 5])
def test_monotone_elbo(expected_terms, variance, u):
    """Closed form, data N(.3, .25): the terms after u, with L_T and the entropy of the added noise, bound the surprise
    at *noisy* data, E[-log p(x_u)], for a denoiser that errs; for the exact one only the prior gap is lost.
    """
    schedule, steps = Schedule(linear_betas(6, 0.05, 0.5)), torch.arange(1, 7, dtype=F64)
    exact = reverse_variance(schedule, 0.25 / (1 + 0.25 * schedule.snr(steps)), steps - 1, steps)
    table = exact if variance == "exact" else schedule.betas
    denoise = gaussian(schedule, 0.3 if variance == "exact" else -0.2, 0.5)
    x0 = tensor(0.3 - 0.5, 0.3 + 0.5)[:, None]  # has the data's first two moments
    terms = expected_terms(denoise, x0, table)
    only_u = (torch.arange(2, 7) > u).to(F64)  # the weight that rises from 0 to 1 after u
    bound = (monotone_bound(only_u, terms[:, 1:-1]) + terms[:, -1]).mean()
    sigma2 = 1 - schedule.alpha_bar[u]
    bound = bound + 0.5 * (2 * math.pi * math.e * sigma2).log()
    # The model's own x_u: from N(0, 1) down the steps T..u+1, each multiply, shift, add noise.
    mean, model_variance = tensor(0.0), tensor(1.0)
    for step in range(6, u, -1):
        t = torch.full((2,), float(step), dtype=F64)
        x = tensor(0.0, 1.0)[:, None]
        at_0, at_1 = posterior_mean(schedule, denoise(x, t), x, t - 1, t)[:, 0]
        mean, model_variance = at_0 + (at_1 - at_0) * mean, (at_1 - at_0) ** 2 * model_variance + table[step - 1]
    true_mean, true_variance = 0.3 * schedule.alpha_bar[u].sqrt(), 0.25 * schedule.alpha_bar[u] + sigma2
    surprise = 0.5 * (2 * math.pi * model_variance).log()
    surprise = surprise + 0.5 * (true_variance + (true_mean - mean) ** 2) / model_variance
    entropy = 0.5 * (2 * math.pi * math.e * true_variance).log()
    if variance == "exact":
        alpha_bar = schedule.alpha_bar[-1].item()
        gap = isotropic_kl(tensor(0.09 * alpha_bar), 1, 1 - 0.75 * alpha_bar, 1.0)
        torch.testing.assert_close(bound, entropy + gap[0], rtol=1e-9, atol=0)
        assert bound > surprise > entropy
    else:
        assert bound > surprise + 1e-3 > entropy + 1e-2


def test_disc_decoder():
    """A grey level that is hit exactly costs 1.7128 bits at std .01; at black and white only one side counts."""
    log_likelihood = discretized_gaussian_log_likelihood(GREY_LEVELS, GREY_LEVELS, 0.01)
    assert bool((bits_per_dim(-log_likelihood[1:-1], 1) - 1.7128).abs().max() < 5e-5)
    black_and_white = torch.full((2,), norm.logcdf(1 / 255 / 0.01), dtype=F64)
    torch.testing.assert_close(log_likelihood[[0, -1]], black_and_white, rtol=1e-12, atol=0)


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.3, 5.0])
def test_disc_decoder__sums_to_one(std):
    """The probabilities of all 256 grey levels make 1, wherever the mean is."""
    mean = torch.linspace(-1.7, 1.7, 35, dtype=F64)[:, None].expand(35, 256)
    probability = discretized_gaussian_log_likelihood(GREY_LEVELS.expand(35, 256), mean, std).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(35, dtype=F64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("std", [1e-4, 0.01, 1.0])
def test_disc_decoder__tails(dtype, tolerance, std):
    """mpmath with 50 digits agrees, up to tens of thousands of standard deviations from the mean on either side."""
    levels, mean = GREY_LEVELS[[0, 1, 77, 127, 128, 254, 255]].to(dtype), torch.tensor(0.3, dtype=dtype)
    actual = discretized_gaussian_log_likelihood(levels, mean.expand_as(levels), std)
    assert actual.dtype == dtype
    with mpmath.workdps(50):
        half, expected = mpmath.mpf(1) / 255, []
        for k, offset in enumerate(mpmath.mpf(level) - mpmath.mpf(mean.item()) for level in levels.tolist()):
            lower, upper = (edge / std / mpmath.sqrt(2) for edge in (offset - half, offset + half))
            sign = mpmath.sign(offset)  # from the mean outwards, where erfc is small and exact
            near, far = mpmath.erfc(min(sign * lower, sign * upper)), mpmath.erfc(max(sign * lower, sign * upper))
            expected.append(float(mpmath.log((near - (0 if k in (0, 6) else far)) / 2)))
    torch.testing.assert_close(actual.double(), tensor(*expected), rtol=tolerance, atol=tolerance)


def test_bpd():
    """If all 256 grey levels are alike a sample costs D log 256 nats, which are 8 bits for each element."""
    assert bits_per_dim(tensor(48 * math.log(256), 0.0), 48).tolist() == pytest.approx([8, 0])


@pytest.mark.parametrize("variance", Variance)
def test_bpd__image_known_by_heart(generator, variance):
    """The denoiser of a single image pays 1.7128 bits for L_0, nothing for the steps with beta~, and then L_T.

    With beta each step still costs D/2 (r - 1 - log r), r = beta~ / beta.
    """
    schedule = Schedule(linear_betas(20, 1e-4, 0.5))
    image = GREY_LEVELS[[1, 60, 128, 254]].view(1, 1, 2, 2)
    terms = vlb_terms(EmpiricalDenoiser(schedule, image), image, variance, generator)
    assert bits_per_dim(terms[0, 0], 4).item() == pytest.approx(1.7128, abs=5e-5)
    ratio = (fixed_variances(schedule)[Variance.SMALL] / fixed_variances(schedule)[variance])[1:]
    torch.testing.assert_close(terms[0, 1:-1], 2 * (ratio - 1 - ratio.log()), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(terms[:, -1], prior_gap(schedule, image))
