"""Checks of the exercises in chapter 5."""

import math

import torch

from exercises import Function, Wrong, exercise, expect
from fromnoise.diffusion.schedules import Schedule, cosine_betas


def differs(got: object, wrong: torch.Tensor) -> bool:
    """Whether an answer is not this particular wrong one."""
    value = torch.as_tensor(got) if isinstance(got, torch.Tensor | int | float) else None
    return value is None or value.shape != wrong.shape or not torch.allclose(value.double(), wrong, rtol=1e-4)


@exercise
def loss_of_zero(answer: Function) -> None:
    schedule = Schedule(cosine_betas(100))
    t = torch.tensor([1.0, 30.0, 70.0, 100.0], dtype=torch.float64)
    a, sigma, square = schedule.alpha(t), schedule.sigma(t), 0.3
    got = answer(schedule, t, square)
    hints = [
        (a + sigma * square, "these are a and sigma themselves; the error is squared, and so are they"),
        (sigma.square() + a.square() * square, "a and sigma are exchanged: in v it is the noise that a multiplies"),
        (torch.ones_like(a), "1 is right only if the pixels have a mean square of 1"),
        (a.square() - sigma.square() * square, "the square of a difference has no minus before its second square"),
        ((a - sigma * square**0.5).square(), "expand the square first: its mixed term has the mean 0"),
        (a.square() + sigma.square() * square**2, "mean_square is a mean of squares already"),
    ]
    for wrong, hint in hints:
        if not differs(got, wrong):
            raise Wrong(hint)
    expect(got, a.square() + sigma.square() * square, "expand (a noise - sigma x0)^2 and take the mean of each term")
    got = answer(schedule, t[1:3], 1.5)
    expect(
        got, (a.square() + sigma.square() * 1.5)[1:3], "right for one mean_square and four times, but not for others"
    )


@exercise
def one_ancestral_step(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise, z = torch.randn(3, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    beta, before = 0.3, 0.5
    now = (1 - beta) * before
    small = (1 - before) / (1 - now) * beta
    mean = (x - beta / (1 - now) ** 0.5 * noise) / (1 - beta) ** 0.5
    got = answer(x, noise, z, beta, now, before)
    hints = [
        (mean + small * z, "z is multiplied by the variance; a standard deviation is its square root"),
        (mean + beta**0.5 * z, "the noise has the variance beta; asked for is beta~"),
        (mean + (1 - now) ** 0.5 * z, "the noise is that of x_t, 1 - alpha_bar; the step's own is much smaller"),
        (mean, "there is no noise in it; only the step to t = 0 has none"),
        (
            x - beta / (1 - now) ** 0.5 * noise + small**0.5 * z,
            "the mean is not divided by sqrt(1 - beta), so the image would fade",
        ),
        (
            (x - beta / (1 - now) * noise) / (1 - beta) ** 0.5 + small**0.5 * z,
            "the predicted noise is divided by 1 - alpha_bar; it should be by the root, sigma_t",
        ),
        (
            (x - beta / (1 - now) ** 0.5 * noise + small**0.5 * z) / (1 - beta) ** 0.5,
            "the fresh noise is inside the bracket; only the mean is divided by sqrt(1 - beta)",
        ),
        (
            (x - beta / (1 - now) ** 0.5 * noise) / now**0.5 + small**0.5 * z,
            "the mean is divided by sqrt(alpha_bar), which leads to t = 0; one step is sqrt(1 - beta)",
        ),
    ]
    for wrong, hint in hints:
        if not differs(got, wrong):
            raise Wrong(hint)
    expect(got, mean + small**0.5 * z, "compare with Algorithm 2, line by line")
    last = answer(x, noise, z, 0.3, 0.7, 1.0)
    expect(last, (x - 0.3**0.5 * noise) / 0.7**0.5, "the step to t = 0, where alpha_bar is 1, must add no noise")


@exercise
def one_ddim_step(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x0, z = torch.randn(3, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    a_t, a_u = 0.4, 0.8
    s_t, s_u = (1 - a_t**2) ** 0.5, (1 - a_u**2) ** 0.5
    noise = (x - a_t * x0) / s_t
    got = answer(x, x0, z, a_t, a_u, 0.0)
    hints = [
        (a_u * x0 + s_t * noise, "the noise has still the strength of time t; at u it is sigma_u"),
        (a_u * x0 + s_u**2 * noise, "the noise is multiplied by a variance; take the square root"),
        (a_u * x0 + s_u * (x - a_t * x0), "the predicted noise is not divided by sigma_t"),
        (a_u * x0 + s_u * (x - x0) / s_t, "the image in x is a_t x0_hat; take that away to find the noise"),
        (a_u * x0 + s_u * z, "this forgets the noise in x and takes fresh noise, even at eta = 0"),
        (x0 + s_u * noise, "at time u the image is multiplied by a_u"),
    ]
    for wrong, hint in hints:
        if not differs(got, wrong):
            raise Wrong("at eta = 0: " + hint)
    expect(got, a_u * x0 + s_u * noise, "at eta = 0: x_u is a_u times the image plus sigma_u times the noise in x")
    std = 0.5 * s_u / s_t * (1 - a_t**2 / a_u**2) ** 0.5
    got = answer(x, x0, z, a_t, a_u, 0.5)
    direction = (s_u**2 - std**2) ** 0.5
    root = std / 0.5**0.5
    hints = [
        (a_u * x0 + s_u * noise, "eta is not used"),
        (a_u * x0 + s_u * noise + std * z, "the old noise must make room for the fresh: sqrt(sigma_u^2 - std^2)"),
        (a_u * x0 + direction * noise, "the old noise has made room, but the fresh noise is missing"),
        (a_u * x0 + (s_u - std) * noise + std * z, "variances add up, standard deviations do not"),
        (
            a_u * x0 + (s_u**2 - std**4) ** 0.5 * noise + std**2 * z,
            "the fresh noise is multiplied by its variance; take the square root",
        ),
        (
            a_u * x0 + (s_u**2 - (std**2 / 0.5) ** 2) ** 0.5 * noise + std**2 / 0.5 * z,
            "the fresh noise is multiplied by eta times the variance; take the variance's square root",
        ),
        (
            a_u * x0 + (s_u**2 - root**2) ** 0.5 * noise + root * z,
            "eta multiplies the standard deviation, so the variance has eta squared",
        ),
    ]
    for wrong, hint in hints:
        if not differs(got, wrong):
            raise Wrong("at eta = 0.5: " + hint)
    expected = a_u * x0 + direction * noise + std * z
    expect(got, expected, "at eta = 0.5: compare the fresh noise with Eq. ddim-eta")
    whole = s_u / s_t * (1 - a_t**2 / a_u**2) ** 0.5
    expected = a_u * x0 + (s_u**2 - whole**2) ** 0.5 * noise + whole * z
    expect(answer(x, x0, z, a_t, a_u, 1.0), expected, "right for eta = 0 and 0.5, but not for eta = 1")
    expect(answer(x, x0, z, 0.3, 1.0, 0.7), x0, "the step to t = 0, where a_u is 1, must return the guess itself")


@exercise
def updates_until_forgotten(answer: Function) -> None:
    for decay, left in ((0.999, 0.01), (0.9, 0.5), (0.5, 0.3), (0.8, 0.1), (0.99, 0.25)):
        truth = math.floor(math.log(left) / math.log(decay)) + 1
        got, case = answer(decay, left), f"for decay = {decay} and left = {left}: "
        if got is ... or not hasattr(got, "__float__"):
            expect(got, truth, "")
        number = float(got)
        if number == truth:
            continue
        if abs(number - math.log(left) / math.log(decay)) < 1e-6:
            raise Wrong(case + "that is the exact crossing; a whole number of updates is due, the next above it")
        if number == truth - 1:
            raise Wrong(case + "after that many updates the share is still left or more: one update more is needed")
        if abs(number - math.log(1 - left) / math.log(decay)) <= 1:
            raise Wrong(case + "that is when the fraction left has been forgotten; it is to be what remains")
        if abs(number - 1 / (1 - decay)) <= 1:
            raise Wrong(case + "that is the mean age; after it a share of about 1/e = 0.37 is still there")
        raise Wrong(case + f"{number:g} is not it: after n updates the share is decay^n; solve decay^n < left for n")
