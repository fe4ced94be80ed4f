"""The variational bound's terms as squared errors: equation vlb-x0."""

import math

import pytest
import sympy as sp
import torch
from torch.distributions import Normal, kl_divergence

from fromnoise.diffusion.losses import vlb_weight
from fromnoise.diffusion.process import posterior_mean, posterior_variance
from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas

F64 = torch.float64


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
