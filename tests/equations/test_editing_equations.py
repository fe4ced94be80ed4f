"""Drawing from a picture: equations img2img and inpaint, and negative, guidance away from a prompt."""

import math

import pytest
import torch
from every_sampler import SAMPLERS
from scipy.integrate import quad

from fromnoise.diffusion.exact import EmpiricalDenoiser, gaussian_denoiser, gaussian_flow
from fromnoise.diffusion.guidance import GuidedDenoiser
from fromnoise.diffusion.inpainting import InpaintingDenoiser, cut_times, put_back, start_from
from fromnoise.diffusion.process import per_sample
from fromnoise.diffusion.samplers import Spacing, ddim, ddpm, final, sampling_times
from fromnoise.diffusion.schedules import Schedule, linear_betas, scaled_linear_betas
from fromnoise.diffusion.solvers import heun

F64 = torch.float64
SCHEDULE = Schedule(linear_betas())


class Gaussian:
    """The exact denoiser of N(mean, variance), pixel by pixel; a condition moves the mean and sets the variance."""

    schedule = SCHEDULE

    def __init__(self, mean=0.7, variance=0.25):
        self.mean, self.variance = torch.tensor(mean, dtype=F64), torch.tensor(variance, dtype=F64)

    def __call__(self, x, t, **condition):
        alpha, sigma = (per_sample(value, x) for value in (self.schedule.alpha(t), self.schedule.sigma(t)))
        mean, variance = (condition.get(name, getattr(self, name)) for name in ("mean", "variance"))
        return gaussian_denoiser(x, alpha, sigma, mean, variance)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_img2img(strength):
    """On N(.7, .25) a picture z ends as the mean plus k (z - mean) plus k r times its noise, with the noise level r and
    k = std / sqrt(std^2 + r^2): with more strength less is left of it, and more of the data's own variance is there.
    """
    times, z = cut_times(sampling_times(SCHEDULE, 100, Spacing.LOG_SNR), strength), 1.9
    level = SCHEDULE.noise_to_signal(torch.tensor(times[:1], dtype=F64)).item()
    noise = torch.tensor([[0.0], [1.0]], dtype=F64)  # the map is affine in the noise
    x = start_from(SCHEDULE, torch.full((2, 1), z, dtype=F64), times[0], noise)
    offset, one = final(heun(Gaussian(), x, times, torch.Generator())).flatten().tolist()
    k = 0.5 / math.hypot(0.5, level)
    assert offset == pytest.approx(0.7 + k * (z - 0.7), abs=1e-3)
    assert one - offset == pytest.approx(k * level, abs=1e-3)
    assert offset == pytest.approx(gaussian_flow(torch.tensor(z), level, 0.0, 0.7, 0.5).item(), abs=1e-3)
    assert (level > 50) == (strength == 1)


def test_img2img__fresh_noise(within_four_sigma, generator):
    """A sampler with fresh noise draws from p(x_0 | x_t): mean and variance of that in closed form, by Monte Carlo. The
    picture counts by k^2 there, less than without: k is below 1.
    """
    times, z = cut_times([float(t) for t in range(1000, -1, -1)], 0.25), torch.full((5_000, 1), 1.9, dtype=F64)
    level = SCHEDULE.noise_to_signal(torch.tensor(times[:1], dtype=F64)).item()
    noise = torch.randn(z.shape, generator=generator, dtype=F64)
    x = final(ddpm(Gaussian(), start_from(SCHEDULE, z, times[0], noise), times, generator))
    squared = 0.25 / (0.25 + level**2)  # k^2
    mean = 0.7 + squared * (1.9 - 0.7)
    within_four_sigma(x, mean)
    within_four_sigma((x - mean).square(), squared * level**2 + (squared * level) ** 2)


def test_img2img__ends(generator):
    """At strength 0 the picture, bit for bit. At 1 ``alpha(T) z`` is left of it: .068 z in Stable Diffusion."""
    schedule = Schedule(scaled_linear_betas())
    z, noise = torch.randn(2, 3, 4, 5, 5, generator=generator)
    times = sampling_times(schedule, 10, Spacing.TRAILING)
    assert cut_times(times, 0.0) == [0.0]
    assert torch.equal(start_from(schedule, z, 0.0, noise), z)
    assert cut_times(times, 1.0) == times
    left = start_from(schedule, z, times[0], noise) - start_from(schedule, 0 * z, times[0], noise)
    torch.testing.assert_close(left, 0.068265 * z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_inpaint(generator, name, strength):
    """x0_hat is known where the mask is 0 and the denoiser's own where it is 1; what is known comes back from every
    sampler, to rounding by itself and exactly once it is put back.
    """
    data, known, noise = (torch.randn(n, 2, 3, 3, generator=generator, dtype=F64) for n in (5, 4, 4))
    mask = (torch.rand(4, 1, 3, 3, generator=generator) < 0.5).to(F64)
    times = cut_times(sampling_times(SCHEDULE, 12, Spacing.KARRAS), strength)
    inside = EmpiricalDenoiser(SCHEDULE, data)
    denoise = InpaintingDenoiser(inside, known, mask, noise, times[0])

    x, t = torch.randn(known.shape, generator=generator, dtype=F64), torch.full((4,), times[0], dtype=F64)
    torch.testing.assert_close(denoise(x, t), torch.where(mask == 1, inside(x, t), known), rtol=0, atol=0)

    x = noise if strength == 1 else start_from(SCHEDULE, known, times[0], noise)
    drawn = final(SAMPLERS[name](denoise, x, times, generator))
    there = (mask == 0).expand_as(known)
    torch.testing.assert_close(drawn[there], known[there], rtol=0, atol=1e-10)
    assert torch.equal(put_back(known, drawn, mask)[there], known[there])
    assert torch.equal(put_back(known, drawn, mask)[~there], drawn[~there])


class Pair:
    """The exact denoiser of two numbers of variance 1 and correlation rho, ``(B, 2)``."""

    schedule = SCHEDULE

    def __init__(self, rho):
        self.covariance = torch.tensor([[1, rho], [rho, 1]], dtype=F64)

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t)[:, None, None], self.schedule.sigma(t)[:, None, None]
        noisy = alpha.square() * self.covariance + sigma.square() * torch.eye(2, dtype=F64)
        return torch.linalg.solve(noisy, x[..., None]).mT.squeeze(-2) @ self.covariance * alpha[..., 0]


def inpainted(rho, times):
    """What the unknown number ends as: its coefficients of the known one, of its noise and of the unknown one's."""
    known = torch.tensor([[1.0, 0], [0, 0], [0, 0]], dtype=F64)
    noise = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=F64)
    denoise = InpaintingDenoiser(Pair(rho), known, torch.tensor([[0.0, 1.0]], dtype=F64), noise, times[0])
    return final(heun(denoise, start_from(SCHEDULE, known, times[0], noise), times, torch.Generator()))[:, 1]


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_inpaint__joint_gaussian(rho):
    """The unknown one is drawn from N(c a, C), in closed form, not from the exact conditional N(rho a, 1 - rho^2): at
    rho = .9 c is .45 and C is .52, not .19. What was decided while a was noisy stays decided: RePaint's reason.

    With r for the noise level, the flow is ``dy/dr = r ((1 + r^2) y - rho (a + r e)) / ((1 + r^2)^2 - rho^2)``.
    """
    times = sampling_times(SCHEDULE, 100, Spacing.LOG_SNR)
    top = SCHEDULE.noise_to_signal(torch.tensor(times[:1], dtype=F64)).item()

    def determinant(r):
        return (1 + r * r) ** 2 - rho**2

    def integral(power):
        return quad(lambda r: rho * r**power * (determinant(0) / determinant(r)) ** 0.25 / determinant(r), 0, top)[0]

    of_known, of_its_noise = integral(1), integral(2)
    of_noise = top * (determinant(0) / determinant(top)) ** 0.25
    expected = torch.tensor([of_known, of_its_noise, of_noise], dtype=F64)
    torch.testing.assert_close(inpainted(rho, times), expected, rtol=0, atol=1e-3)
    assert of_known < 0.6 * rho  # it makes too little of what is known
    variance = of_its_noise**2 + of_noise**2
    assert variance > 1.1 * (1 - rho**2)
    if rho == 0.9:
        assert (of_known, variance) == pytest.approx((0.45, 0.52), abs=5e-3)


def test_inpaint__certain_data(generator):
    """Where the known part says all, it is heeded: with two images, the one that has the known half is completed."""
    images = torch.tensor([[1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=F64)
    known = images[[0, 1]].repeat(50, 1)
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=F64)
    noise = torch.randn(known.shape, generator=generator, dtype=F64)
    times = sampling_times(SCHEDULE, 50, Spacing.TRAILING)
    denoise = InpaintingDenoiser(EmpiricalDenoiser(SCHEDULE, images), known * (1 - mask), mask, noise, times[0])
    torch.testing.assert_close(final(ddim(denoise, noise, times, generator)), known, rtol=0, atol=1e-2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_negative(generator, scale):
    """The prompt is N(.6, .25), the negative one N(-.2, .25): guidance between them is the denoiser of the Gaussian
    with the mean -.2 + s .8, with one negative for all or one for each; `heun` draws from it.
    """
    x, t = torch.randn(5, 1, generator=generator, dtype=F64), torch.tensor([1.0, 30.0, 300.0, 700.0, 1000.0], dtype=F64)
    asked, negative = torch.full((5, 1), 0.6, dtype=F64), torch.tensor([-0.2], dtype=F64)
    guided = GuidedDenoiser(Gaussian(), scale, {"mean": negative})
    expected = Gaussian(-0.2 + scale * 0.8)(x, t)
    torch.testing.assert_close(guided(x, t, mean=asked), expected, rtol=1e-12, atol=1e-12)

    each = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    guided = GuidedDenoiser(Gaussian(), scale, {"mean": each})
    expected = Gaussian()(x, t, mean=each + scale * (asked - each))
    torch.testing.assert_close(guided(x, t, mean=asked), expected, rtol=1e-12, atol=1e-12)

    times = sampling_times(SCHEDULE, 100, Spacing.LOG_SNR)
    x = torch.tensor([[0.0], [1.0]], dtype=F64)
    offset, one = final(
        heun(GuidedDenoiser(Gaussian(), scale, {"mean": negative}), x, times, generator, mean=asked[:2])
    )
    level = SCHEDULE.noise_to_signal(torch.tensor(times[:1], dtype=F64)).item()
    k = 0.5 / math.hypot(0.5, level)
    assert offset.item() == pytest.approx((1 - k) * (-0.2 + scale * 0.8), abs=1e-3)
    assert (one - offset).item() == pytest.approx(k * math.hypot(1, level), abs=1e-3)


def test_negative__leads_further_than_the_empty_prompt(generator):
    """With s the empty prompt's mean 0 gives s .6, and the negative one's -.2 a mean that is larger by (s - 1) .2."""
    x, t = torch.randn(5, 1, generator=generator, dtype=F64), torch.full((5,), 500.0, dtype=F64)
    asked = torch.full((5, 1), 0.6, dtype=F64)
    for mean in (0.0, -0.2):
        guided = GuidedDenoiser(Gaussian(), 7.5, {"mean": torch.tensor([mean], dtype=F64)})(x, t, mean=asked)
        torch.testing.assert_close(guided, Gaussian(7.5 * 0.6 - 6.5 * mean)(x, t), rtol=1e-12, atol=1e-12)
