"""The ``scheduler_config.json`` of diffusers, translated in both directions."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

from fromnoise.configs import refused
from fromnoise.diffusion.noise import OPEN_KEYS, NoiseConfig
from fromnoise.interop.rules import headed, read_public

Beta = Annotated[float, Gt(0), Lt(1)]
MAX_TIMESTEPS = 100_000
FAINTEST = 1e-30  # alpha-bar before the last timestep: below it, numbers of single precision overflow
NOISIEST_START = 0.2  # alpha-bar at the first timestep: below it, the cleanest image that is seen shows next to nothing

SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {},
    "DDIMScheduler": {},
    "PNDMScheduler": {},
    "LMSDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverMultistepScheduler": {"variance_type": None},
    "DEISMultistepScheduler": {"algorithm_type": "deis", "solver_type": "logrho"},
    "UniPCMultistepScheduler": {"solver_type": "bh2"},
}
"""diffusers' classes that share the betas, and their defaults that are not those of ``DDPMScheduler``

The `OPEN_KEYS` are not among them: what a file does not say of these, the sampler says (`sampling.methods.SAMPLERS`).
"""

_NOT_OF_SOLVERS = {"variance_type": "fixed_small", "clip_sample_range": 1.0}
_SECOND_ORDER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
_SECOND_ORDER |= {"lower_order_final": True, "euler_at_final": False, "thresholding": False}


@dataclass(frozen=True, kw_only=True)
class SchedulerFile:
    """The keys of all these classes, with the defaults of ``DDPMScheduler``, or of the classes that have the key."""

    # what a NoiseConfig is made of
    num_train_timesteps: Annotated[int, Gt(0), Le(MAX_TIMESTEPS)] = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", None] = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: Annotated[float, Ge(0.01)] = 1.0
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, Ge(0)] = 0
    set_alpha_to_one: bool = True
    trained_betas: tuple[Annotated[float, Gt(0), Le(1)], ...] | None = None
    rescale_betas_zero_snr: bool = False
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_lu_lambdas: bool = False  # another name of the same
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    # what must be as it is here
    thresholding: Literal[False] = False
    predict_epsilon: Literal[True] = True
    use_beta_sigmas: Literal[False, None] = False
    use_flow_sigmas: Literal[False] = False
    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete"] = "discrete"
    lambda_min_clipped: Annotated[float, AllowInfNan(True), Le(-math.inf)] = -math.inf
    sigma_min: float | None = None  # if noise levels are spaced
    sigma_max: float | None = None
    # what only the keys above, or samplers that are not here, would read
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    use_dynamic_shifting: bool = False
    shift_terminal: float | None = None
    flow_shift: float | None = 1.0
    time_shift_type: str = "exponential"
    skip_prk_steps: bool = False
    tensor_format: str = "pt"
    solver_order: int = 2
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    predict_x0: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: dict[str, Any] | None = None


def noise_from_diffusers(content: Mapping[str, Any], origin: str = "scheduler_config.json") -> NoiseConfig:
    """The `NoiseConfig` of a ``scheduler_config.json``.

    A key that is left out takes the default of the class that the file names, or of ``DDPMScheduler`` if that class
    does not have the key or no class is named. One of the `OPEN_KEYS` that is left out stays open: as diffusers'
    ``from_config`` does, a sampler takes from the file what is written there, and the rest from its own class.

    Raises:
        UserError: a key would change the computation, is unknown or of the wrong type, or the betas can draw nothing
            but grey; names ``origin`` and the key.
    """
    class_name = content.get("_class_name", "DDPMScheduler")
    if class_name not in list(SCHEDULERS):  # a list, because a file may have something there that has no hash
        raise refused(origin, "_class_name", class_name, f"it should be one of {', '.join(SCHEDULERS)}")
    file = read_public(SchedulerFile, SCHEDULERS[class_name] | dict(content), origin)
    values = {field.name: getattr(file, field.name) for field in fields(NoiseConfig)}
    if file.variance_type != "fixed_large":  # the same variance, kept as its logarithm or not at all
        values["variance_type"] = "fixed_small"
    values |= {key: None for key in OPEN_KEYS if key not in content}
    values["use_karras_sigmas"] = bool(file.use_karras_sigmas)
    values["use_exponential_sigmas"] = bool(file.use_exponential_sigmas or file.use_lu_lambdas)
    noise = NoiseConfig(**values)
    if noise.use_karras_sigmas and noise.use_exponential_sigmas:
        raise refused(origin, "use_karras_sigmas", True, "noise levels are spaced in one way, and the file names two")
    for key in ("sigma_min", "sigma_max"):
        if (noise.use_karras_sigmas or noise.use_exponential_sigmas) and getattr(file, key) is not None:
            raise refused(origin, key, getattr(file, key), "it should be null, which is the schedule's own")
    _check_betas(noise, origin)
    return noise


def _check_betas(noise: NoiseConfig, origin: str) -> None:
    """Refuses betas that make no schedule, or one that shows too little of the image."""
    if noise.trained_betas is not None and len(noise.trained_betas) != noise.num_train_timesteps:
        wanted = f"it should be a list of num_train_timesteps numbers, {noise.num_train_timesteps}"
        raise refused(origin, "trained_betas", noise.trained_betas, wanted)
    key = "beta_end" if noise.trained_betas is None else "trained_betas"
    try:
        alpha_bar = noise.schedule().alpha_bar.tolist()
    except ValueError as problem:
        raise refused(origin, key, getattr(noise, key), str(problem)) from None
    if alpha_bar[-2] < FAINTEST or (len(alpha_bar) > 2 and alpha_bar[1] < NOISIEST_START):
        raise refused(origin, key, getattr(noise, key), "betas so large leave nothing of the image: use smaller ones")


def noise_to_diffusers(noise: NoiseConfig, class_name: str = "DDPMScheduler") -> dict[str, Any]:
    """The content of a ``scheduler_config.json``, in which what is open is left out.

    Of ``DPMSolverMultistepScheduler`` it is the content with which that draws as ``dpmpp-2m`` does here. What its file
    has no key for is written only where it would be read as something else.
    """
    written = {key: value for key, value in asdict(noise).items() if value is not None or key not in OPEN_KEYS}
    if class_name == "DPMSolverMultistepScheduler":
        written = {
            key: value for key, value in written.items() if _NOT_OF_SOLVERS.get(key, ...) != value
        } | _SECOND_ORDER
    return headed(class_name, written)
