"""The numbers that make the noise of one model differ from that of another."""

from dataclasses import dataclass, replace

import torch

from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas, zero_terminal_snr

LEAST_SIGNAL = 2.0**-24
"""alpha-bar at the end of `NoiseConfig.with_signal`, as in diffusers' solvers"""

OPEN_KEYS = ("clip_sample", "timestep_spacing", "set_alpha_to_one")
"""what a `NoiseConfig` may leave open, as None: each sampler has a default of its own"""


@dataclass(frozen=True)
class NoiseConfig:
    """How a model was trained and is to be sampled: the keys of diffusers' ``scheduler_config.json`` that decide it.

    The defaults are those of diffusers' ``DDPMScheduler`` and ``DDIMScheduler``. None leaves one of the `OPEN_KEYS` to
    the sampler.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    """linear, scaled_linear, or squaredcos_cap_v2, which is the cosine schedule"""
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"
    """epsilon, sample (the clean image) or v_prediction"""
    variance_type: str = "fixed_small"
    """fixed_small (the posterior's) or fixed_large (beta)"""
    clip_sample: bool | None = True
    """clip each predicted clean image to [-clip_sample_range, clip_sample_range]"""
    clip_sample_range: float = 1.0
    timestep_spacing: str | None = "leading"
    """leading, trailing or linspace"""
    steps_offset: int = 0
    """added to leading timesteps"""
    set_alpha_to_one: bool | None = True
    """ddim: the last step goes to alpha-bar 1, not to that of the first timestep"""
    trained_betas: tuple[float, ...] | None = None
    """the betas themselves, instead of a schedule with a name"""
    rescale_betas_zero_snr: bool = False
    """the schedule ends in nothing but noise, by `zero_terminal_snr`"""
    use_karras_sigmas: bool = False
    """euler, heun and DPM-Solver++ space their times by noise level, as `karras_sigmas`"""
    use_exponential_sigmas: bool = False
    """the same, with equal factors between the noise levels"""
    final_sigmas_type: str = "zero"
    """euler and DPM-Solver++: the last step goes to zero noise, or to sigma_min, that of the first timestep"""

    def schedule(self) -> Schedule:
        """alpha(t) and sigma(t)."""
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float64)
        elif self.beta_schedule == "squaredcos_cap_v2":
            betas = cosine_betas(self.num_train_timesteps)
        else:
            named = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}[self.beta_schedule]
            betas = named(self.num_train_timesteps, self.beta_start, self.beta_end)
        return Schedule(zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas)

    def settled(self, usual: "NoiseConfig") -> "NoiseConfig":
        """The same, with each of the `OPEN_KEYS` that is left open as it is in ``usual``."""
        return replace(self, **{key: getattr(usual, key) for key in OPEN_KEYS if getattr(self, key) is None})

    def with_signal(self) -> "NoiseConfig":
        """The same, with a little of the image left at the end if nothing was: no noise level is infinite."""
        alpha_bar = self.schedule().alpha_bar
        if alpha_bar[-1] > 0:
            return self
        falling = 1 + 1e-6 * torch.arange(len(alpha_bar) - 1, -1, -1)  # so that no two timesteps are as noisy
        alpha_bar = torch.maximum(alpha_bar, LEAST_SIGNAL * falling)
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
        return replace(self, trained_betas=tuple(betas.tolist()), rescale_betas_zero_snr=False)
