"""Chapter 1: adding noise."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Family, Law, Samples
from formulas.vocabulary import SCHEDULE, at, counted, noising
from fromnoise.diffusion import likelihood, process, schedules


def standard_normal(draw: Draws) -> Samples:
    """What the package draws as noise."""
    return Samples(process.noise_like(torch.zeros(4000, 3, dtype=F64), draw.generator))


@printed()
def forward_step(draw: Draws) -> Iterator[Case]:
    noise = standard_normal(draw)
    for t in (2, 5):
        before, epsilon = draw.normal(1, 3), draw.normal(1, 3)
        after = process.forward_step(before, SCHEDULE.betas[t - 1 : t], epsilon)
        family = Family({t - 1: before, t: after})
        yield noising(t) | {"x_": family, r"\epsilon": epsilon, r"draws of \epsilon": noise}


@printed()
def reparam(draw: Draws) -> Iterator[Case]:
    covariance, mean, epsilon = draw.covariance(3), draw.normal(3), draw.normal(3)
    root = torch.linalg.cholesky(covariance)
    yield {
        "x": process.reparameterize(mean, root, epsilon),
        r"\mu": mean,
        "L": root,
        r"\Sigma": covariance,
        r"\epsilon": epsilon,
        r"draws of \epsilon": standard_normal(draw),
        "I": 1.0,
    }


@printed()
def forward_marginal(draw: Draws) -> Iterator[Case]:
    noise = standard_normal(draw)
    for t in (1, 6):
        x0, epsilon = draw.normal(1, 3), draw.normal(1, 3)
        x_t = process.forward_marginal(SCHEDULE, x0, at(t), epsilon)
        yield noising(t) | {"x_": Family({0: x0, t: x_t}), r"\epsilon": epsilon, r"draws of \epsilon": noise}


@printed()
def forward_jump(draw: Draws) -> Iterator[Case]:
    for u, t in ((2, 5), (1, 7)):
        alpha, sigma = process.forward_jump(SCHEDULE, at(u), at(t))
        x_u, epsilon = draw.normal(1, 3), draw.normal(1, 3)
        family = Family({u: x_u, t: alpha * x_u + sigma * epsilon})
        yield noising(t, u) | {"x_": family, "a_{t|u}": alpha, r"\sigma_{t|u}": sigma, r"\epsilon": epsilon}


@printed()
def forward_cov(draw: Draws) -> Iterator[Case]:
    for u, t in ((2, 5), (3, 4)):

        def path(noises: torch.Tensor, last: int) -> torch.Tensor:
            x = torch.tensor([0.7], dtype=F64)
            for step in range(last):
                x = process.forward_step(x, SCHEDULE.betas[step : step + 1], noises[step : step + 1])
            return x

        zero = torch.zeros(8, dtype=F64)
        of_u, of_t = (torch.autograd.functional.jacobian(lambda e, n=n: path(e, n), zero) for n in (u, t))
        yield noising(t, u) | {r"\mathrm{Cov}(x_u,x_t|x_0)": (of_u * of_t).sum()}


def _betas(betas: torch.Tensor, first: float, last: float) -> Iterator[Case]:
    for t in range(2, len(betas)):
        table = dict(enumerate(betas, start=1)) | {1: first, len(betas): last}
        yield {"t": t, "T": len(betas), r"\beta_": Family(table)}


@printed()
def linear(draw: Draws) -> Iterator[Case]:
    yield from _betas(schedules.linear_betas(7, 0.02, 0.31), 0.02, 0.31)


@printed()
def scaled_linear(draw: Draws) -> Iterator[Case]:
    yield from _betas(schedules.scaled_linear_betas(7, 0.02, 0.31), 0.02, 0.31)


@printed()
def cosine(draw: Draws) -> Iterator[Case]:
    steps, start = 9, math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    kept = torch.cat([torch.ones(1, dtype=F64), (1 - schedules.cosine_betas(steps, max_beta=1.0)).cumprod(0)])
    betas = schedules.cosine_betas(steps)
    shared = {
        "T": steps,
        r"\bar\alpha_": Family(dict(enumerate(kept))),
        r"\beta_": counted(betas),
        "f": lambda t: kept[int(t)] * start,
    }
    for t in range(1, steps + 1):
        yield shared | {"t": t}


@printed()
def snr(draw: Draws) -> Iterator[Case]:
    for t in (1, 5):
        yield noising(t)


@printed()
def prior_gap(draw: Draws) -> Iterator[Case]:
    x0 = draw.normal(3)
    last = float(SCHEDULE.num_timesteps)
    case: dict[str, Any] = noising(2) | {
        "D": 3,
        "x_": Family({(0, i): value for i, value in enumerate(x0, start=1)}),
        "q(x_T|x_0)": Law((SCHEDULE.alpha(at(last)) * x0)[:, None], SCHEDULE.sigma(at(last))[0] ** 2),
        "value": likelihood.prior_gap(SCHEDULE, x0[None]),
    }
    yield case
