"""The noise schedules: equations linear, cosine, scaled-linear, zero-snr, karras and respace."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

from fromnoise.diffusion.process import forward_jump
from fromnoise.diffusion.schedules import (
    Schedule,
    cosine_betas,
    karras_sigmas,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)

F64 = torch.float64


def test_linear():
    """From 1e-4 to .02 in equal steps, ending at alpha_bar_T = 4.0358e-5; diffusers has the same to float32."""
    betas = linear_betas()
    assert (len(betas), betas[0].item(), betas[-1].item()) == (1000, 1e-4, 0.02)
    torch.testing.assert_close(betas.diff(), torch.full((999,), 0.0199 / 999, dtype=F64), rtol=1e-9, atol=0)
    assert Schedule(betas).alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-5)
    torch.testing.assert_close(betas.float(), DDPMScheduler(beta_schedule="linear").betas)


def test_cosine():
    """alpha_bar follows cos^2 until the cap of .999, which only the last beta meets; diffusers has the same betas."""
    betas = cosine_betas()
    assert int((betas == 0.999).sum()) == 1
    assert betas[-1] == 0.999
    alpha_bar = Schedule(betas).alpha_bar
    for t in (0, 1, 250, 500, 999):
        f, f0 = (math.cos((s / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for s in (t, 0))
        assert alpha_bar[t].item() == pytest.approx(f / f0, rel=1e-10)
    torch.testing.assert_close(
        betas.float(), DDPMScheduler(beta_schedule="squaredcos_cap_v2").betas, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(
        cosine_betas(50).float(), DDPMScheduler(50, beta_schedule="squaredcos_cap_v2").betas, rtol=1e-5, atol=1e-7
    )


def test_scaled_linear():
    """The roots are equally spaced; alpha_bar_T = .0046601, so that alpha(T) = .068265; diffusers has the same."""
    betas = scaled_linear_betas()
    assert (len(betas), betas[0].item(), betas[-1].item()) == pytest.approx((1000, 0.00085, 0.012), rel=1e-12)
    step = (math.sqrt(0.012) - math.sqrt(0.00085)) / 999
    torch.testing.assert_close(betas.sqrt().diff(), torch.full((999,), step, dtype=F64), rtol=1e-9, atol=0)
    schedule = Schedule(betas)
    assert schedule.alpha_bar[-1].item() == pytest.approx(0.0046601, abs=5e-8)
    assert schedule.alpha(torch.tensor([1000.0], dtype=F64)).item() == pytest.approx(0.068265, abs=5e-7)
    oracle = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    torch.testing.assert_close(betas.float(), oracle.betas)


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas(), scaled_linear_betas(), linear_betas(2, 0.1, 0.5)])
def test_zero_snr(betas):
    """Alpha is 0 at T, as before at 1, and affine in the old one; diffusers, in float32, has the same betas."""
    zero = zero_terminal_snr(betas)
    before, after = Schedule(betas).alpha_bar[1:].sqrt(), Schedule(zero).alpha_bar[1:].sqrt()
    assert zero[-1] == 1
    assert after[-1] == 0
    assert after[0].item() == pytest.approx(before[0].item(), rel=1e-12)
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(zero.float(), rescale_zero_terminal_snr(betas.float()), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras(rho):
    """The paper's formula, number by number, with both ends; sigmas fall, and rho = 1 spaces them evenly."""
    count, least, most = 18, 0.002, 80.0
    sigmas = karras_sigmas(count, least, most, rho)
    for i, sigma in enumerate(sigmas.tolist()):
        expected = (most ** (1 / rho) + i / (count - 1) * (least ** (1 / rho) - most ** (1 / rho))) ** rho
        assert sigma == pytest.approx(expected, rel=1e-10)
    assert (sigmas[0].item(), sigmas[-1].item()) == pytest.approx((most, least), rel=1e-12)
    assert bool((sigmas.diff() < 0).all())
    if rho == 1:
        torch.testing.assert_close(sigmas.diff(), sigmas.diff()[:1].expand(count - 1), rtol=1e-9, atol=0)


def test_respace():
    """The shorter schedule has the marginals of the times it visits, and its betas are the variances of the jumps."""
    full, visited = Schedule(linear_betas()), [1, 2, 300, 301, 1000]
    short = full.respaced(visited)
    assert short.num_timesteps == 5
    index, times = torch.arange(1, 6, dtype=F64), torch.tensor(visited, dtype=F64)
    torch.testing.assert_close(short.alpha(index), full.alpha(times), rtol=1e-12, atol=0)
    torch.testing.assert_close(short.sigma(index), full.sigma(times), rtol=1e-12, atol=0)
    before = torch.cat([torch.zeros(1, dtype=F64), times[:-1]])
    torch.testing.assert_close(short.betas, forward_jump(full, before, times)[1].square(), rtol=1e-9, atol=0)
    torch.testing.assert_close(full.respaced(list(range(1, 1001))).betas, full.betas, rtol=1e-10, atol=0)
