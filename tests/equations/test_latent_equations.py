"""What an autoencoder is trained for: equations vae-kl, scale, edge-error and psnr."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Independent, Normal, kl_divergence
from torchmetrics.functional.image import peak_signal_noise_ratio

from fromnoise.diffusion.latents import kl_to_standard_normal, scaling_factor
from fromnoise.diffusion.likelihood import gaussian_kl
from fromnoise.diffusion.reconstruction import edge_error, psnr

F64 = torch.float64


def gaussians(generator, shape=(3, 2, 4, 5)):
    return tuple(torch.randn(shape, generator=generator, dtype=F64) for _ in range(2))


def test_vae_kl(generator):
    """Summed over each sample, it is the divergence of torch, and of the formula for any covariance."""
    mean, log_variance = gaussians(generator)
    found = kl_to_standard_normal(mean, log_variance)
    there = Independent(Normal(mean, (log_variance / 2).exp()), 3)
    standard = Independent(Normal(torch.zeros_like(mean), 1.0), 3)
    torch.testing.assert_close(found, kl_divergence(there, standard))
    covariance = log_variance.exp().flatten(1).diag_embed()
    zero, one = torch.zeros_like(mean).flatten(1), torch.eye(40, dtype=F64)
    torch.testing.assert_close(found, gaussian_kl(mean.flatten(1), covariance, zero, one))


def test_vae_kl__monte_carlo(generator, within_four_sigma):
    """The mean of ``log q(z) - log p(z)`` over draws from q."""
    mean, log_variance = torch.tensor([0.7, -1.0], dtype=F64), torch.tensor([-2.0, 0.5], dtype=F64)
    z = mean + (log_variance / 2).exp() * torch.randn((100_000, 2), generator=generator, dtype=F64)
    log_ratio = Normal(mean, (log_variance / 2).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    within_four_sigma(log_ratio.sum(1), kl_to_standard_normal(mean[None], log_variance[None])[0])


def test_vae_kl__diffusers(generator):
    mean, log_variance = gaussians(generator)
    expected = DiagonalGaussianDistribution(torch.cat([mean, log_variance], dim=1)).kl()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_vae_kl__least():
    """It is 0 for a standard normal, and there its gradient is 0 too."""
    mean, log_variance = (torch.zeros((1, 3), dtype=F64, requires_grad=True) for _ in range(2))
    divergence = kl_to_standard_normal(mean, log_variance)
    divergence.sum().backward()
    assert divergence.item() == 0 and not mean.grad.any() and not log_variance.grad.any()


@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_scale(generator, shift):
    """Scaled latents have a variance of 1 about their mean, whatever the mean."""
    latents = torch.randn((4, 4, 8, 8), generator=generator, dtype=F64) / 0.18215 + shift
    scaled = latents * scaling_factor(latents)
    assert scaled.var(correction=0).item() == pytest.approx(1, abs=1e-12)
    assert scaling_factor(latents).item() == pytest.approx(0.18215, rel=0.1)


def test_scale__channels_together(generator):
    """One number for all channels: those that vary more still do after scaling."""
    latents = torch.randn((64, 2, 8, 8), generator=generator, dtype=F64) * torch.tensor([1.0, 3.0])[:, None, None]
    deviations = (latents * scaling_factor(latents)).std((0, 2, 3))
    assert (deviations[1] / deviations[0]).item() == pytest.approx(3, rel=0.1)
    assert scaling_factor(5 * latents).item() == pytest.approx(scaling_factor(latents).item() / 5)


def pair(generator, shape=(3, 2, 8, 12)):
    return tuple(torch.rand(shape, generator=generator, dtype=F64) * 2 - 1 for _ in range(2))


def halved(x):
    """Each 2x2 pixels as their mean."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_edge_error(generator):
    """It equals the sums, written out by pixel and neighbour, at both resolutions."""
    output, target = pair(generator)
    expected = torch.zeros(3, dtype=F64)
    for one, other in ((output, target), (halved(output), halved(target))):
        for a, b in ((one, other), (one.mT, other.mT)):
            rows = range(a.shape[2] - 1)
            wrong = [(a[:, :, y + 1] - a[:, :, y]) - (b[:, :, y + 1] - b[:, :, y]) for y in rows]
            expected += torch.stack(wrong).abs().mean((0, 2, 3)) / 4
    torch.testing.assert_close(edge_error(output, target), expected)


def test_edge_error__blur():
    """Surfaces that are too light cost nothing. A blurred outline costs more, the wider the blur is."""
    picture = torch.full((1, 1, 24, 24), -1.0, dtype=F64)
    picture[..., 12:] = 1
    assert edge_error(picture + 0.25, picture).item() == 0
    wide = F.pad(picture, (8, 8, 0, 0), "replicate")
    widths = [F.avg_pool2d(wide[..., 8 - n : 32 + n], (1, 2 * n + 1), 1) for n in (0, 1, 2, 4, 8)]
    costs = [edge_error(blurred, picture).item() for blurred in widths]
    assert costs[0] == 0
    assert all(less < more for less, more in pairwise(costs))


def test_psnr(generator):
    """It is that of torchmetrics, each picture by itself."""
    output, target = pair(generator)
    expected = [peak_signal_noise_ratio(o, t, data_range=2.0) for o, t in zip(output, target, strict=True)]
    torch.testing.assert_close(psnr(output, target), torch.stack(expected))


def test_psnr__one_grey_level():
    """48 decibels; and what lies outside [-1, 1] is clipped."""
    white = torch.ones((2, 3, 4, 4), dtype=F64)
    assert psnr(white - 2 / 255, white).tolist() == pytest.approx([20 * math.log10(255)] * 2)
    assert psnr(white - 2 / 255, white)[0].item() == pytest.approx(48.13, abs=0.01)
    assert psnr(white * 7, white).equal(psnr(white, white))


def test_psnr__of_an_exact_copy_is_that_of_one_level_in_one_value():
    grey = torch.zeros((1, 3, 8, 8), dtype=F64)
    other = grey.clone()
    other[0, 0, 0, 0] += 2 / 255
    assert psnr(grey, grey).item() == pytest.approx(psnr(grey, other).item())
    assert psnr(grey, grey).item() == pytest.approx(10 * math.log10(255**2 * 192))
