"""The numbers that make the noise of one model differ from that of another."""

from dataclasses import dataclass

from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas


@dataclass(frozen=True)
class NoiseConfig:
    """How a model was trained and is to be sampled: the keys of diffusers' ``scheduler_config.json`` that decide it.

    The defaults are those of diffusers' ``DDPMScheduler`` and ``DDIMScheduler``.
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
    clip_sample: bool = True
    """clip each predicted clean image to [-clip_sample_range, clip_sample_range]"""
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    """leading, trailing or linspace"""
    steps_offset: int = 0
    """added to leading timesteps"""
    set_alpha_to_one: bool = True
    """the last step goes to alpha-bar 1, not to that of the first timestep"""

    def schedule(self) -> Schedule:
        """alpha(t) and sigma(t)."""
        if self.beta_schedule == "squaredcos_cap_v2":
            return Schedule(cosine_betas(self.num_train_timesteps))
        betas = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}[self.beta_schedule]
        return Schedule(betas(self.num_train_timesteps, self.beta_start, self.beta_end))
