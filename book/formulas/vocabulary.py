"""The symbols that most formulas share, with the values that the package's own schedule gives them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from formulas.draws import F64
from formulas.values import Family
from fromnoise.diffusion.schedules import FlowSchedule, Schedule

SCHEDULE = Schedule(torch.tensor([0.05, 0.12, 0.1, 0.22, 0.3, 0.26, 0.41, 0.55], dtype=F64))
"""Eight steps, no two alike, and in no order."""

LINE = FlowSchedule()


class Given:
    """A denoiser whose guess is known beforehand, the same at every x and t."""

    def __init__(self, guess: Tensor):
        self.schedule, self.guess = SCHEDULE, guess

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return self.guess.expand_as(x)


def at(t: float) -> Tensor:
    """A time as the package takes it, ``(1,)``."""
    return torch.tensor([t], dtype=F64)


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def counted(rows: Iterable[Tensor]) -> Family:
    """Numbers or vectors by their place, from 1."""
    return Family(dict(enumerate(rows, start=1)))


def noisy_variance(t: int, variance: Tensor) -> Tensor:
    """That of the data at time t, if it is so much at time 0."""
    return SCHEDULE.alpha(at(t)) ** 2 * variance + SCHEDULE.sigma(at(t)) ** 2


def noising(t: int, u: int | None = None, schedule: Schedule = SCHEDULE) -> dict[str, Any]:
    """What the schedule says at all times, and which time is meant by t, u and T."""
    case = {
        "t": t,
        "T": schedule.num_timesteps,
        "I": 1.0,
    } | tables(schedule)
    return case if u is None else case | {"u": u}


@cache
def tables(schedule: Schedule) -> dict[str, Any]:
    """What has a time as its index, by its letter."""
    times = torch.arange(schedule.num_timesteps + 1, dtype=F64)
    from_0 = {
        r"\bar\alpha_": schedule.alpha_bar,
        "a_": schedule.alpha(times),
        r"\sigma_": schedule.sigma(times),
        r"\mathrm{SNR}_": schedule.snr(times),
        r"\lambda_": schedule.log_snr(times),
        "r_": schedule.noise_to_signal(times),
    }
    from_1 = {r"\beta_": schedule.betas, r"\alpha_": 1 - schedule.betas}
    first = dict.fromkeys(from_0, 0) | dict.fromkeys(from_1, 1)
    return {name: Family(dict(enumerate(table, first[name]))) for name, table in (from_0 | from_1).items()}
