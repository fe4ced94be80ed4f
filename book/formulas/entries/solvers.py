"""Chapter 7: fewer steps."""

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import Draws
from formulas.entries.sampling import seeded
from formulas.values import Family, Samples
from formulas.vocabulary import LINE, SCHEDULE, at, noising
from fromnoise.diffusion import exact, parameterization, process, samplers, schedules, solvers


class Some:
    """A denoiser that is no simple function of what it is given."""

    schedule = SCHEDULE

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return torch.sin(1.3 * x) + 0.1 * t[:, None]


def at_scale(y: Tensor, t: float) -> Tensor:
    """What `Some` guesses at y, at the scale of the image."""
    return Some()(SCHEDULE.alpha(at(t)) * y, at(t))


@printed()
def edm_ode(draw: Draws) -> Iterator[Case]:
    y, level = draw.normal(1, 3), draw.uniform(0.5, 3, 1)

    def guess_at(y: Tensor, r: Tensor) -> Tensor:
        return torch.sin(1.3 * y) + 0.1 * r

    slope = solvers.edm_ode(y, guess_at(y, level), level)
    yield {r"\frac{dy}{dr}": slope, "y": y, "r": level, r"\hat x_0": guess_at}


@printed()
def gauss_flow(draw: Draws) -> Iterator[Case]:
    for _ in range(2):
        start, end, mean, std = (float(draw.uniform(0.3, 2)) for _ in range(4))
        y = draw.normal(1)
        yield {
            "y(r_0)": y,
            "y(r)": exact.gaussian_flow(y, start, end, mean, std),
            r"\mu": mean,
            "s": std,
            "r": end,
            "r_0": start,
        }


def _one_step(draw: Draws, solver: str) -> Iterator[Case]:
    for t, u in ((6, 3), (4, 2)):
        y = draw.normal(1, 3)
        r_t, r_u = (SCHEDULE.noise_to_signal(at(time)) for time in (t, u))
        end = samplers.final(getattr(solvers, solver)(Some(), SCHEDULE.alpha(at(t)) * y, [t, u], seeded()))
        slope = solvers.edm_ode(y, at_scale(y, t), r_t)
        there = y + (r_u - r_t) * slope
        yield noising(t, u) | {
            "y_": Family({t: y, u: end / SCHEDULE.alpha(at(u))}),
            "y'": there,
            r"\hat x_0": at_scale(y, t),
            r"\hat x_0(y_t, r_t)": at_scale(y, t),
            r"\hat x_0(y', r_u)": at_scale(there, u),
            "d_": Family({t: slope, u: solvers.edm_ode(there, at_scale(there, u), r_u)}),
        }


@printed()
def euler(draw: Draws) -> Iterator[Case]:
    yield from _one_step(draw, "euler")


@printed()
def heun(draw: Draws) -> Iterator[Case]:
    yield from _one_step(draw, "heun")


@printed(1e-8)
def exp_int(draw: Draws) -> Iterator[Case]:
    for t, u in ((6, 3), (4, 2)):
        x, guess = draw.normal(1, 3), draw.normal(1, 3)
        end = solvers.exponential_step(x, guess, samplers.Time(SCHEDULE, t, x), samplers.Time(SCHEDULE, u, x))
        yield noising(t, u) | {"x_": Family({t: x, u: end}), r"\hat x_0(\lambda)": guess}


def _two_steps(draw: Draws, solver: str) -> Iterator[Case]:
    for before, t, u in ((7, 5, 2), (8, 7, 3)):
        x, noises = draw.normal(1, 3), seeded()
        first, second = getattr(solvers, solver)(Some(), x, [before, t, u], seeded())
        process.noise_like(x, noises)  # that of the first step
        yield noising(t, u) | {
            "x_": Family({t: first.x, u: second.x}),
            r"\hat x_0": Some()(first.x, at(t)),
            r"\hat x_0'": Some()(x, at(before)),
            "h": SCHEDULE.log_snr(at(u)) - SCHEDULE.log_snr(at(t)),
            "h'": SCHEDULE.log_snr(at(t)) - SCHEDULE.log_snr(at(before)),
            "z": process.noise_like(x, noises),
        }


@printed()
def dpmpp2m(draw: Draws) -> Iterator[Case]:
    yield from _two_steps(draw, "dpmpp_2m")


@printed()
def dpmpp2m_sde(draw: Draws) -> Iterator[Case]:
    yield from _two_steps(draw, "dpmpp_2m_sde")


@printed()
def karras(draw: Draws) -> Iterator[Case]:
    levels = schedules.karras_sigmas(6, 0.1, 9.0)
    rho = inspect.signature(schedules.karras_sigmas).parameters["rho"].default
    for i in range(6):
        yield {
            "r_": Family(dict(enumerate(levels))),
            r"r_{\max}": 9.0,
            r"r_{\min}": 0.1,
            r"\rho": rho,
            "N": 6,
            "i": i,
        }


@printed()
def churn(draw: Draws) -> Iterator[Case]:
    x, t = draw.normal(1, 3), at(3)
    raised, time = solvers.add_noise(SCHEDULE, x, t, 0.3, seeded())
    yield {
        r"y_{\hat r}": raised / SCHEDULE.alpha(time),
        "y_r": x / SCHEDULE.alpha(t),
        "r": SCHEDULE.noise_to_signal(t),
        r"\hat r": SCHEDULE.noise_to_signal(time),
        "z": process.noise_like(x, seeded()),
        "draws of z": _added(x, t),
        "I": 1.0,
    }


def _added(x: Tensor, t: Tensor) -> Samples:
    """The noise that is added, many times over."""
    many = x.expand(4000, 3)
    raised, time = solvers.add_noise(SCHEDULE, many, t.expand(4000), 0.3, seeded())
    gain, spread = process.forward_jump(SCHEDULE, t, time[:1])
    return Samples((raised - gain * many) / spread)


@printed()
def precond(draw: Draws) -> Iterator[Case]:
    y, t, std = draw.normal(1, 3), at(4), 0.6

    def network(x: Tensor, level: Tensor) -> Tensor:
        return torch.cos(x * 2.1) + level

    level = SCHEDULE.noise_to_signal(t)
    skip, out, into = parameterization.edm_coefficients(level, std)
    denoise = parameterization.EDMDenoiser(network, SCHEDULE, std)
    yield {
        r"\hat x_0(y, r)": denoise(SCHEDULE.alpha(t) * y, t),
        "y": y,
        "r": level,
        "F": network,
        r"c_{\text{skip}}": skip,
        r"c_{\text{out}}": out,
        r"c_{\text{in}}": into,
    }


@printed()
def coeffs(draw: Draws) -> Iterator[Case]:
    level, std = draw.uniform(0.3, 3, 1), 0.6
    names = r"c_{\text{skip}}", r"c_{\text{out}}", r"c_{\text{in}}"
    yield dict(zip(names, parameterization.edm_coefficients(level, std), strict=True)) | {"r": level, "s": std}


@printed()
def zero_snr(draw: Draws) -> Iterator[Case]:
    changed = schedules.Schedule(schedules.zero_terminal_snr(SCHEDULE.betas))
    for t in range(1, 9):
        yield noising(t) | {"a'_": Family(dict(enumerate(changed.alpha_bar.sqrt())))}


@printed()
def interp(draw: Draws) -> Iterator[Case]:
    for t in (0.2, 0.7):
        x0, noise = draw.normal(1, 3), draw.normal(1, 3)
        x_t = process.forward_marginal(LINE, x0, at(t), noise)
        yield {"x_t": x_t, "x_0": x0, r"\epsilon": noise, "t": t, "over t": (0.0, LINE.end)}


@printed()
def shift(draw: Draws) -> Iterator[Case]:
    for t, k in ((0.2, 3.0), (0.7, 0.4)):
        yield {"t'": schedules.shift(t, k), "t": t, "k": k}
