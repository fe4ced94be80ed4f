"""Checks of chapter 1."""

import math

import torch
from torch import Tensor

from exercises import Function, exercise, expect, refuse
from fromnoise.diffusion.schedules import cosine_betas, linear_betas, scaled_linear_betas


@exercise
def variance_after_two_steps(answer: Function) -> None:
    for first, second in ((0.3, 0.4), (0.05, 0.6)):
        truth = (1 - second) * first + second
        got = answer(first, second)
        refuse(
            got,
            [
                (first + second, "the second step also weakens the noise of the first; scale that before adding"),
                ((1 - first) * (1 - second), "that is what is left of the picture's variance; the noise is due"),
                (math.sqrt(truth), "that is the standard deviation; the variance is due"),
                ((1 - second) ** 2 * first + second, "x_1 is multiplied by sqrt(1 - beta_2), so its variance by what?"),
                (math.sqrt(1 - second) * first + second, "a factor is squared when the variance is taken"),
                (
                    (math.sqrt((1 - second) * first) + math.sqrt(second)) ** 2,
                    "you added standard deviations; of independent noises the variances add",
                ),
                (first * second, "noises are added, not multiplied, so their variances are added"),
            ],
        )
        expect(
            got, truth, "what has become of the variance of the first noise after the second step, plus the second's"
        )


@exercise
def add_noise(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    betas = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    x0, noise = torch.randn((2, 3, 1, 2, 3), generator=generator, dtype=torch.float64)
    t = torch.tensor([1, 3, 4])
    bars = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])

    def mix(share: Tensor, spread: Tensor) -> Tensor:
        return share.reshape(-1, 1, 1, 1) * x0 + spread.reshape(-1, 1, 1, 1) * noise

    bar, late, step = bars[t], bars[t + 1], 1 - betas[t - 1]
    got = answer(betas, x0.clone(), t, noise.clone())
    refuse(
        got,
        [
            (bar.sqrt() * x0 + (1 - bar).sqrt() * noise, "the factors ran along the width: shape them (B, 1, 1, 1)"),
            (mix(late.sqrt(), (1 - late).sqrt()), "you are one step late: betas[0] belongs to t = 1"),
            (mix(step.sqrt(), (1 - step).sqrt()), "that is a single step; the product of all up to t is due"),
            (mix(bar, 1 - bar), "both roots are missing: alpha-bar and 1 - alpha-bar are squares of the factors"),
            (mix(bar.sqrt(), 1 - bar), "the noise is multiplied by a variance; its root is due"),
            (mix(bar, (1 - bar).sqrt()), "the picture's factor is the root of alpha-bar"),
            (mix(bar.sqrt(), 1 - bar.sqrt()), "sigma is not 1 - a; the squares of the two make 1"),
            (mix((1 - bar).sqrt(), bar.sqrt()), "picture and noise are exchanged"),
        ],
    )
    hint = "root of alpha-bar_t times the picture, plus root of 1 - alpha-bar_t times the noise, picture by picture"
    expect(got, mix(bar.sqrt(), (1 - bar).sqrt()), hint)
    t = torch.tensor([0, 5, 2])
    clean = answer(betas, x0.clone(), t, noise.clone())
    expect(
        clean[:1], x0[:1], "right from t = 1 on, but at t = 0 the picture must be clean: does an index -1 wrap around?"
    )
    expect(clean, mix(bars[t].sqrt(), (1 - bars[t]).sqrt()), hint)


@exercise
def time_of_equal_parts(answer: Function) -> None:
    for betas in (linear_betas(), scaled_linear_betas(), cosine_betas()):
        bar = torch.cumprod(1 - betas, 0)

        def first(where: Tensor) -> int:
            return int(where.nonzero()[0]) + 1

        truth = first(bar <= 0.5)
        got = answer(betas.clone())
        refuse(
            got,
            [
                (truth - 1, "one too early: the entry 0 of a list of products belongs to t = 1"),
                (truth + 1, "one too late"),
                (first(bar.sqrt() <= 0.5), "that is where a_t is a half; but equal parts are a_t = sigma_t"),
                (first(bar**2 <= 1 - bar), "that divides a squared by sigma; the SNR has sigma squared below"),
                (first(bar <= (1 - bar) ** 2), "that divides a by sigma squared; the SNR has a squared above"),
            ],
        )
        expect(got, truth, "multiply up 1 - beta until the product is a half or less, and count", tolerance=1e-6)


@exercise
def steps_until(answer: Function) -> None:
    for beta, left in ((0.02, 0.01), (0.5, 0.3), (0.001, 0.5), (0.3, 0.05)):
        truth = math.ceil(2 * math.log(left) / math.log(1 - beta))
        got = answer(beta, left)
        mistakes = [
            (truth / 2, "the picture is multiplied by the root of 1 - beta in each step, not by 1 - beta"),
            (
                math.ceil(math.log(left) / math.log(1 - beta)),
                "the picture's factor is the root of what you multiplied up",
            ),
            (2 * math.log(left) / math.log(1 - beta), "steps are whole: the first number that is large enough is due"),
            (truth - 1, "one step fewer leaves a little more than that"),
            (truth + 1, "one step too many"),
        ]
        refuse(got, [mistake for mistake in mistakes if mistake[0] != truth])
        hint = f"wrong for beta = {beta}, left = {left}: after n steps a is sqrt(1 - beta) to the power n; solve for n"
        expect(got, truth, hint, tolerance=1e-6)
