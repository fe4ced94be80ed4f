"""The symbols that most formulas share, with the values that the package's own schedule gives them."""

from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import Schedule
from formulas.draws import F64
from formulas.values import Family

SCHEDULE = Schedule(torch.tensor([0.05, 0.12, 0.1, 0.22, 0.3, 0.26, 0.41, 0.55], dtype=F64))
"""Eight steps, no two alike, and in no order."""


def at(t: float) -> Tensor:
    """A time as the package takes it, ``(1,)``."""
    return torch.tensor([t], dtype=F64)


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def noising(t: int, u: int | None = None, schedule: Schedule = SCHEDULE) -> dict[str, Any]:
    """What the schedule says at all times, and which time is meant by t, u and T."""
    case = {
        "t": t,
        "T": schedule.num_timesteps,
        "I": 1.0,
        r"\beta_": Family(lambda k: schedule.betas[_step(k)]),
        r"\alpha_": Family(lambda k: 1 - schedule.betas[_step(k)]),
        r"\bar\alpha_": Family(lambda k: schedule.alpha_bar[_time(k)]),
        "a_": Family(lambda k: schedule.alpha(at(_time(k)))),
        r"\sigma_": Family(lambda k: schedule.sigma(at(_time(k)))),
        r"\mathrm{SNR}_": Family(lambda k: schedule.snr(at(_time(k)))),
        r"\lambda_": Family(lambda k: schedule.log_snr(at(_time(k)))),
        "r_": Family(lambda k: schedule.noise_to_signal(at(_time(k)))),
    }
    return case if u is None else case | {"u": u}


def _time(k: int) -> int:
    if k < 0:
        raise IndexError
    return k


def _step(k: int) -> int:
    return _time(k - 1)
