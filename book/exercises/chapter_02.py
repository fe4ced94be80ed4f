"""Checks of chapter 2."""

import torch
from torch import Tensor

from exercises import Function, Wrong, exercise, expect, refuse, values
from fromnoise.diffusion.exact import EmpiricalDenoiser
from fromnoise.diffusion.schedules import Schedule, linear_betas


@exercise
def variance_given_both_ends(answer: Function) -> None:
    for betas in (torch.tensor([0.1, 0.2, 0.5, 0.6], dtype=torch.float64), linear_betas(5, 0.05, 0.3)):
        bars = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
        for t in (3, 2, 4, len(betas)):
            beta, before, now = betas[t - 1], bars[t - 1], bars[t]
            mistakes = [
                (beta, "that is beta_t, the variance of the step forwards; knowing x_0 makes it smaller"),
                (((1 - before) / (1 - now) * beta).sqrt(), "that is the standard deviation; the variance is due"),
                ((1 - now) / (1 - before) * beta, "the fraction is upside down: this is larger than beta_t"),
                (before / now * beta, "it takes 1 minus each alpha-bar, the noise, not alpha-bar itself"),
            ]
            if t < len(betas):
                late = (1 - now) / (1 - bars[t + 1])
                hint = "one step late: betas[0] belongs to t = 1"
                mistakes += [(late * beta, f"your alpha-bars are {hint}"), (late * betas[t], f"you are {hint}")]
            got = answer(betas.clone(), t)
            refuse(got, mistakes)
            hint = "the share of the noise that was there before the step, 1 - alpha-bar_{t-1} of 1 - alpha-bar_t"
            expect(got, (1 - before) / (1 - now) * beta, f"wrong for t = {t}: {hint}", tolerance=1e-6)
        expect(
            answer(betas.clone(), 1),
            0.0,
            "right from t = 2 on, but for t = 1 it must be 0, because alpha-bar_0 is 1; does an index -1 wrap around?",
            tolerance=1e-9,
        )


@exercise
def two_point_denoiser(answer: Function) -> None:
    for alpha, sigma, shape in ((0.8, 0.6, (9,)), (0.6, 0.8, (3, 3)), (1.0, 1.5, (9, 1))):
        x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(shape)
        truth, z = torch.tanh(alpha * x / sigma**2), x / sigma**2
        got = answer(x.clone(), alpha, sigma)
        mistakes = [
            (torch.sigmoid(2 * alpha * z), "that is the probability of +1; the average of +1 and -1 is due"),
            (torch.tanh(alpha * z / 2), "a factor of 2: (x + a)^2 - (x - a)^2 is 4 a x; halve it once"),
            (torch.tanh(2 * alpha * z), "a factor of 2: (e^z - e^-z) / (e^z + e^-z) is tanh(z), not tanh(2z)"),
            (alpha * x / (alpha**2 + sigma**2), "that is the line for normal data of variance 1; these are two points"),
            (-truth, "the sign is turned: a positive x_t speaks for +1"),
        ]
        if alpha != 1:
            mistakes.append((torch.tanh(z), "the bells stand at +alpha and -alpha, not at +1 and -1"))
        mistakes.append((torch.tanh(alpha * x / sigma), "a bell has sigma squared in its exponent, not sigma"))
        refuse(got, mistakes)
        hint = "weigh +1 and -1 by the bells N(x; alpha, sigma^2) and N(x; -alpha, sigma^2), divided by their sum"
        expect(got, truth, hint)
    far = values(answer(torch.tensor([50.0], dtype=torch.float64), 0.9999, 0.01))
    if far is not None and bool(far.isnan().any()):
        raise Wrong("right, but with little noise both bells round to 0 and 0 / 0 is nan; there is a closed form")
    expect(far, torch.ones(1), "with little noise and x_t > 0 the answer is +1")


@exercise
def two_point_step(answer: Function) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for before, now in ((0.9, 0.45), (0.6, 0.5), (1.0, 0.7)):  # alpha-bar at t - 1 and at t
        x0_hat, keep, beta = torch.tanh(now**0.5 * x / (1 - now)), now / before, 1 - now / before
        of_x0, of_x = before**0.5 * beta / (1 - now), keep**0.5 * (1 - before) / (1 - now)
        got = answer(x.clone(), before, now)
        if before < 1:
            refuse(
                got,
                [
                    (x0_hat, "that is the best guess at x_0; x_{t-1} still has noise in it"),
                    (before**0.5 * x0_hat, "that forgets what x_t tells about the noise in x_{t-1}"),
                    (of_x * x0_hat + of_x0 * x, "the two factors are exchanged"),
                    (of_x0 * x0_hat, "the part of x_t is missing"),
                    (x / keep**0.5, "that only undoes the shrinking; part of x_t is noise of the last step"),
                ],
            )
        hint = "the posterior mean, with E[x_0 | x_t] = tanh(a_t x_t / sigma_t^2) in the place of x_0"
        expect(got, of_x0 * x0_hat + of_x * x, f"wrong for alpha-bars {before} and {now}: {hint}")


@exercise
def dataset_denoiser(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    schedule = Schedule(torch.tensor([0.1, 0.5]))
    for count, size, pictures, time in ((6, 4, 3, 2.0), (5, 7, 2, 1.0), (4, 1, 4, 2.0)):
        data = torch.rand((count, size), generator=generator, dtype=torch.float64) * 2 - 1
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        noise = torch.randn((pictures, size), generator=generator, dtype=torch.float64)
        x = alpha * data[:pictures] + sigma * noise
        truth = EmpiricalDenoiser(schedule, data)(x, t.expand(pictures))

        def average(x: Tensor, data: Tensor, scale: float, width: float, root: bool = False) -> Tensor:
            square = (x[:, None] - scale * data).square().sum(-1)
            return torch.softmax(-(square.sqrt() if root else square) / width, dim=1) @ data

        two = 2 * sigma**2
        mistakes = [
            (
                average(x, data, 1.0, two),
                "compare x with alpha times each image: that is where noise would have left it",
            ),
            (average(x, data, alpha, sigma**2), "the 2 in 2 sigma^2 is missing: a bell is exp(-d^2 / (2 variance))"),
            (average(x, data, alpha, 2 * sigma), "that divides by 2 sigma; the variance sigma^2 is due"),
            (average(x, data, alpha, two, root=True), "the distance must be squared"),
            (alpha * truth, "average the images themselves, not alpha times the images: the answer is a guess at x_0"),
            (data.mean(0).expand(pictures, size), "that is the plain average; how near x is to each must matter"),
        ]
        got = answer(x.clone(), alpha, sigma, data.clone())
        refuse(got, mistakes)
        hint = "weights softmax(-|x - alpha x_i|^2 / (2 sigma^2)) over the images i, then the weighted average"
        expect(got, truth, hint)
    sharp = answer(0.9999 * data[:1] + 0.3, 0.9999, 0.005, data)
    if (value := values(sharp)) is not None and bool(value.isnan().any()):
        raise Wrong("right, but with little noise every exp() rounds to 0 and 0 / 0 is nan; torch.softmax avoids that")
    nearest = (0.9999 * data[:1] + 0.3 - 0.9999 * data).square().sum(-1).argmin()
    expect(sharp, data[nearest][None], "with little noise the answer must be the nearest image")
