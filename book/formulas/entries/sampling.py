"""Chapter 5: from noise to a picture, with or without fresh noise."""

from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Family, Law, Samples
from formulas.vocabulary import SCHEDULE, Given, at, counted, noising
from fromnoise.diffusion import process, samplers
from fromnoise.diffusion.samplers import Time, Variance


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@printed()
def ancestral(draw: Draws) -> Iterator[Case]:
    """With the larger variance, which is above 0 at the last step, too."""
    for t in (1, 2, 3, 6):
        x, guess = draw.normal(1, 3), draw.normal(1, 3)
        std = process.forward_jump(SCHEDULE, at(t - 1), at(t))[1]

        def step(x: Tensor, t: int = t, guess: Tensor = guess) -> Tensor:
            start, end = Time(SCHEDULE, t, x), Time(SCHEDULE, t - 1, x)
            return samplers.ancestral_step(x, guess.expand_as(x), start, end, seeded(), Variance.LARGE)

        mean = process.posterior_mean(SCHEDULE, guess, x, at(t - 1), at(t))
        many = x.expand(4000, 3)
        after = step(x)
        yield noising(t) | {
            "x_": Family({t: x, t - 1: after}),
            r"\hat x_0": guess,
            r"\tilde\mu_t": lambda x_t, x0, t=t: process.posterior_mean(SCHEDULE, x0, x_t, at(t - 1), at(t)),
            r"\varsigma_t": std,
            "z": process.noise_like(x, seeded()) if t > 1 else (after - mean) / std,
            "draws of z": Samples((step(many) - mean) / std) if t > 1 else (after - mean) / std,
        }


@printed()
def respace(draw: Draws) -> Iterator[Case]:
    visited = [2, 3, 6, 8]
    betas = SCHEDULE.respaced(visited).betas
    for i in range(1, len(visited) + 1):
        yield noising(2) | {
            r"\beta'_": counted(betas),
            r"\tau_": Family(dict(enumerate([0, *visited]))),
            "i": i,
        }


def ddim_step(x: Tensor, x0_hat: Tensor, t: int, u: int, eta: float) -> Tensor:
    return samplers.final(samplers.ddim(Given(x0_hat), x, [t, u], seeded(), eta=eta))


@printed()
def ddim_marginal(draw: Draws) -> Iterator[Case]:
    """The step is linear in x_t, so that the law of what it makes follows from its slope."""
    for u, t, eta in ((2, 5, 0.6), (3, 4, 0.0)):
        x0 = draw.normal(1, 3)
        middle = SCHEDULE.alpha(at(t)) * x0
        center = ddim_step(middle, x0, t, u, 0.0)
        slope = (ddim_step(middle + 1, x0, t, u, eta) - ddim_step(middle, x0, t, u, eta))[0, 0]
        std = samplers.ddim_std(SCHEDULE, at(u), at(t), eta)[0]
        variance = (slope * SCHEDULE.sigma(at(t))[0]) ** 2 + std**2
        law = Law(center.mT, variance * torch.eye(3, dtype=F64))
        yield noising(t, u) | {"x_u|x_0": law, "x_": Family({0: x0.flatten()}), "I": torch.eye(3, dtype=F64)}


@printed()
def ddim(draw: Draws) -> Iterator[Case]:
    for u, t, eta in ((2, 5, 0.6), (3, 4, 0.3)):
        x, guess = draw.normal(1, 3), draw.normal(1, 3)
        yield noising(t, u) | {
            "x_": Family({t: x, u: ddim_step(x, guess, t, u, eta)}),
            r"\hat x_0": guess,
            r"\hat\epsilon": (x - SCHEDULE.alpha(at(t)) * guess) / SCHEDULE.sigma(at(t)),
            r"\varsigma": samplers.ddim_std(SCHEDULE, at(u), at(t), eta),
            "z": process.noise_like(x, seeded()),
        }


@printed()
def ddim_eta(draw: Draws) -> Iterator[Case]:
    for u, t, eta in ((2, 5, 0.6), (3, 4, 0.3)):
        std = samplers.ddim_std(SCHEDULE, at(u), at(t), eta)
        yield noising(t, u) | {r"\varsigma": std, r"\eta": eta}
