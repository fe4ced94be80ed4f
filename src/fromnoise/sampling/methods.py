"""What a sampler is, and what it takes from a model's noise: where it starts, which times it visits, where it ends."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from fromnoise.diffusion import samplers, solvers
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.diffusion.samplers import Moment, Spacing, sampling_times
from fromnoise.models import Model


@dataclass(frozen=True)
class Sampler:
    """What a sampler is."""

    run: Callable[..., Iterator[Moment]]
    evaluations: int = 30  # how often it asks the network for an image unless told otherwise
    spacing: Spacing | None = None  # which times it visits unless told otherwise; none: the model's
    options: tuple[str, ...] = ()  # those of a request that only it takes
    asks: int = 1  # how often it asks the network in a step; in the last one, once
    by_level: bool = False  # whether it heeds how the model spaces noise levels; then none may be infinite
    k_diffusion: bool = False  # whether the model's own times are as in k-diffusion: linspace is not rounded, spaced
    # noise levels lie between those of these times, and the first noise is only as large as `start_scale`
    spare: int = 0  # how many more own times there would be, of which the cleanest are left out; see `sampling_times`
    usual: NoiseConfig = NoiseConfig()  # what it does where the model's file leaves it open
    stops: tuple[str, bool | str] | None = None  # the key and value of a model's noise with which it ends at time 1


_SIGMA_MIN = ("final_sigmas_type", "sigma_min")
_SOLVER = NoiseConfig(clip_sample=False, timestep_spacing="linspace")
_dpm_solver = partial(Sampler, evaluations=11, by_level=True, spare=1, usual=_SOLVER, stops=_SIGMA_MIN)
_k_diffusion = partial(Sampler, by_level=True, k_diffusion=True, usual=_SOLVER)
SAMPLERS = {
    "ddpm": Sampler(samplers.ddpm, options=("variance",)),
    "ddim": Sampler(samplers.ddim, options=("eta",), stops=("set_alpha_to_one", False)),
    "euler": _k_diffusion(solvers.euler, stops=_SIGMA_MIN),
    "heun": _k_diffusion(solvers.heun, spacing=Spacing.KARRAS, asks=2),
    "dpmpp-2m": _dpm_solver(solvers.dpmpp_2m),
    "dpmpp-2m-sde": _dpm_solver(solvers.dpmpp_2m_sde),
}
"""what a model's own config decides is decided as by the scheduler of the same name in diffusers

What the config leaves open is as ``from_config`` of this scheduler makes it. Two things differ: heun's times are spaced
by noise level unless the model's own spacing is asked for, and every sampler clips if the config says so.
"""


def startable(model: Model, sampler: Sampler) -> Model:
    """The model, with noise that leaves nothing open, and where it starts an alpha to divide by."""
    noise = model.noise.settled(sampler.usual)
    needed = sampler.by_level or noise.prediction_type == Prediction.NOISE
    return replace(model, noise=noise.with_signal() if needed else noise)


def _own_spacing(sampler: Sampler, noise: NoiseConfig) -> tuple[Spacing, Spacing]:
    """How the model spaces times that are whole, and how it spaces those of the sampler: so, or by noise level."""
    whole = Spacing(str(noise.timestep_spacing))
    own = Spacing.KARRAS if noise.use_karras_sigmas else Spacing.LOG_SNR if noise.use_exponential_sigmas else whole
    return whole, own if sampler.by_level else whole


def spaced_times(asked: str | None, sampler: Sampler, noise: NoiseConfig, steps: int) -> tuple[Spacing, list[float]]:
    """How the times are spaced, and the times: as is asked for, or as the model says, or as is usual for the sampler.

    The model's own times are those of the sampler's class in diffusers, also if they are asked for by name; any other
    spacing is as `Spacing` says.
    """
    schedule, offset = noise.schedule(), noise.steps_offset
    whole, own = _own_spacing(sampler, noise)
    spacing = Spacing(asked or (sampler.spacing if own is whole else None) or own)
    if spacing is own:
        rounded, spare = not sampler.k_diffusion, sampler.spare
        times = sampling_times(schedule, steps, whole, offset, rounded=rounded, spare=spare)
        if own is not whole:
            ends = (times[0], times[-2]) if sampler.k_diffusion else (schedule.end, 1.0)
            times = sampling_times(schedule, steps, own, ends=ends)
    else:
        times = sampling_times(schedule, steps, spacing, offset)
    if sampler.stops is not None and getattr(noise, sampler.stops[0]) == sampler.stops[1]:
        times[-1] = 1.0
    return spacing, times


def start_scale(sampler: Sampler, noise: NoiseConfig, spacing: str | None, start: float) -> float:
    """What the first noise, at time ``start``, is multiplied by.

    diffusers' Euler and Heun take sigma(t) noise for x at the first time t, unless their times are leading, as all
    others take the noise. So do these, at the model's own times.
    """
    whole, own = _own_spacing(sampler, noise)
    if not sampler.k_diffusion or whole is Spacing.LEADING or spacing != own:
        return 1.0
    return float(noise.schedule().sigma(torch.tensor(start, dtype=torch.float64)))
