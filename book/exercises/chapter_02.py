"""Checks of chapter 2."""

import torch
from torch import Tensor

from exercises import Function, Wrong, exercise, expect
from fromnoise.diffusion.exact import EmpiricalDenoiser
from fromnoise.diffusion.schedules import Schedule


def same(got: object, other: Tensor | float) -> bool:
    """Whether an answer is this particular, wrong, one."""
    if not isinstance(got, Tensor | int | float):
        return False
    value, other = torch.as_tensor(got).double(), torch.as_tensor(other).double()
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-4, atol=1e-7)


@exercise
def variance_given_both_ends(answer: Function) -> None:
    betas = torch.tensor([0.1, 0.2, 0.5, 0.6], dtype=torch.float64)
    bars = torch.cumprod(1 - betas, 0)  # from alpha-bar_1 on
    t = 3
    truth = (1 - bars[t - 2]) / (1 - bars[t - 1]) * betas[t - 1]
    wrong = {
        betas[t - 1]: "that is beta_t, the variance of the step forwards; knowing x_0 makes it smaller",
        truth.sqrt(): "that is the standard deviation; the variance is due",
        (1 - bars[t - 1]) / (1 - bars[t - 2]) * betas[t - 1]: "the fraction is upside down: this is larger than beta_t",
        bars[t - 2] / bars[t - 1] * betas[t - 1]: "it takes 1 minus each alpha-bar, the noise, not alpha-bar itself",
        (1 - bars[t - 1])
        / (1 - bars[t])
        * betas[t - 1]: "your alpha-bars are one step late: betas[0] belongs to t = 1",
        (1 - bars[t - 1]) / (1 - bars[t]) * betas[t]: "you are one step late: betas[0] belongs to t = 1",
    }
    got = answer(betas, t)
    for value, hint in wrong.items():
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "the share of the noise that was there before the step, 1 - alpha-bar_{t-1} of 1 - alpha-bar_t")
    expect(
        answer(betas, 1),
        0.0,
        "right for t = 3, but for t = 1 it must be 0, because alpha-bar_0 is 1; does an index -1 wrap around?",
        tolerance=1e-9,
    )


@exercise
def two_point_denoiser(answer: Function) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    alpha, sigma = 0.8, 0.6
    truth = torch.tanh(alpha * x / sigma**2)
    got = answer(x, alpha, sigma)
    wrong = [
        (torch.sigmoid(2 * alpha * x / sigma**2), "that is the probability of +1; the average of +1 and -1 is due"),
        (torch.tanh(x / sigma**2), "the bells stand at +alpha and -alpha, not at +1 and -1"),
        (torch.tanh(alpha * x / sigma), "a bell has the variance sigma squared in its exponent, not sigma"),
        (torch.tanh(alpha * x / (2 * sigma**2)), "a factor of 2: (x + a)^2 - (x - a)^2 is 4 a x; halve it once"),
        (torch.tanh(2 * alpha * x / sigma**2), "a factor of 2: (e^z - e^-z) / (e^z + e^-z) is tanh(z), not tanh(2z)"),
        (alpha * x / (alpha**2 + sigma**2), "that is the line for Gaussian data of variance 1; these are two points"),
        (-truth, "the sign is turned: a positive x_t speaks for +1"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "weigh +1 and -1 by the bells N(x; alpha, sigma^2) and N(x; -alpha, sigma^2), made to sum to 1")
    far = answer(torch.tensor([50.0], dtype=torch.float64), 0.9999, 0.01)
    if torch.is_tensor(far) and bool(far.isnan().any()):
        raise Wrong("right, but with little noise both bells round to 0 and 0 / 0 is nan; there is a closed form")
    expect(far, torch.ones(1), "with little noise and x_t > 0 the answer is +1")


@exercise
def dataset_denoiser(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.rand((6, 4), generator=generator, dtype=torch.float64) * 2 - 1
    schedule, t = Schedule(torch.tensor([0.1, 0.5])), torch.tensor(2.0, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    x = alpha * data[:3] + sigma * torch.randn((3, 4), generator=generator, dtype=torch.float64)
    truth = EmpiricalDenoiser(schedule, data)(x, t.expand(3))
    got = answer(x, alpha, sigma, data)

    def average(scale: float, width: float, root: bool = False) -> Tensor:
        square = (x[:, None] - scale * data).square().sum(-1)
        return torch.softmax(-(square.sqrt() if root else square) / width, dim=1) @ data

    wrong = [
        (average(1.0, 2 * sigma**2), "compare x with alpha times each image: that is where noise would have left it"),
        (average(alpha, sigma**2), "the 2 in 2 sigma^2 is missing: a bell is exp(-d^2 / (2 variance))"),
        (average(alpha, 2 * sigma), "that divides by 2 sigma; the variance sigma^2 is due"),
        (average(alpha, 2 * sigma**2, root=True), "the distance must be squared"),
        (alpha * truth, "average the images themselves, not alpha times the images: the answer is a guess at x_0"),
        (data.mean(0).expand(3, 4), "that is the plain average of the data; how near x is to each must matter"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "weights softmax(-|x - alpha x_i|^2 / (2 sigma^2)) over the images i, then the weighted average")
    sharp = answer(0.9999 * data[:1] + 0.3, 0.9999, 0.005, data)
    if torch.is_tensor(sharp) and bool(sharp.isnan().any()):
        raise Wrong("right, but with little noise every exp() rounds to 0 and 0 / 0 is nan; torch.softmax avoids that")
    nearest = (0.9999 * data[:1] + 0.3 - 0.9999 * data).square().sum(-1).argmin()
    expect(sharp, data[nearest][None], "with little noise the answer must be the nearest image")
