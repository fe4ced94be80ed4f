"""The ``scheduler_config.json`` of diffusers, translated in both directions."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import AllowInfNan

from fromnoise.configs import Count, refused
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.interop.rules import headed, read_public

Beta = Annotated[float, Gt(0), Lt(1)]

_LINSPACE = {"timestep_spacing": "linspace"}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {},
    "DDIMScheduler": {},
    "PNDMScheduler": {"set_alpha_to_one": False},
    "LMSDiscreteScheduler": _LINSPACE,
    "EulerDiscreteScheduler": _LINSPACE,
    "EulerAncestralDiscreteScheduler": _LINSPACE,
    "HeunDiscreteScheduler": _LINSPACE | {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
    "DPMSolverMultistepScheduler": _LINSPACE,
    "DEISMultistepScheduler": _LINSPACE,
    "UniPCMultistepScheduler": _LINSPACE,
}
"""diffusers' classes that share the betas, and the defaults in which they differ from ``DDPMScheduler``"""


@dataclass(frozen=True, kw_only=True)
class SchedulerFile:
    """The keys of all these classes, with the defaults of ``DDPMScheduler``, or of the classes that have the key."""

    # what a NoiseConfig is made of
    num_train_timesteps: Count = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", None] = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, Ge(0)] = 0
    set_alpha_to_one: bool = True
    # what must be as it is here
    trained_betas: None = None
    rescale_betas_zero_snr: Literal[False] = False
    thresholding: Literal[False] = False
    predict_epsilon: Literal[True] = True
    use_karras_sigmas: Literal[False, None] = False
    use_exponential_sigmas: Literal[False, None] = False
    use_beta_sigmas: Literal[False, None] = False
    use_lu_lambdas: Literal[False] = False
    use_flow_sigmas: Literal[False] = False
    use_dynamic_shifting: Literal[False] = False
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None
    final_sigmas_type: Literal["zero"] = "zero"
    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete"] = "discrete"
    solver_order: Literal[2] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "bh2", "logrho"] = "midpoint"
    lower_order_final: Literal[True] = True
    euler_at_final: Literal[False] = False
    lambda_min_clipped: Annotated[float, AllowInfNan(True), Le(-math.inf)] = -math.inf
    predict_x0: Literal[True] = True
    disable_corrector: Annotated[tuple[int, ...], MaxLen(0)] = ()
    solver_p: None = None
    # what only the keys above, or samplers that are not here, would read
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    flow_shift: float = 1.0
    time_shift_type: str = "exponential"
    skip_prk_steps: bool = False
    tensor_format: str = "pt"


def noise_from_diffusers(content: Mapping[str, Any], origin: str = "scheduler_config.json") -> NoiseConfig:
    """The `NoiseConfig` of a ``scheduler_config.json``.

    A key that is left out takes the default of the class that the file names. A key that this class does not have, or
    a class that is left out, takes that of ``DDPMScheduler``.

    Raises:
        UserError: a key would change the computation, is unknown or of the wrong type; names ``origin`` and the key.
    """
    class_name = content.get("_class_name", "DDPMScheduler")
    if class_name not in list(SCHEDULERS):  # a list, because a file may have something there that has no hash
        raise refused(origin, "_class_name", class_name, f"it should be one of {', '.join(SCHEDULERS)}")
    file = read_public(SchedulerFile, SCHEDULERS[class_name] | dict(content), origin)
    values = {field.name: getattr(file, field.name) for field in fields(NoiseConfig)}
    if file.variance_type != "fixed_large":  # the same variance, kept as its logarithm or not at all
        values["variance_type"] = "fixed_small"
    return NoiseConfig(**values)


def noise_to_diffusers(noise: NoiseConfig) -> dict[str, Any]:
    """The content of a ``scheduler_config.json``."""
    return headed("DDPMScheduler", asdict(noise))
