"""A request becomes images: which classes, which sampler, how many steps, from which seed."""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.images import to_pixels
from fromnoise.devices import DTYPES, resolve_device, rows_at_a_time
from fromnoise.diffusion import samplers, solvers
from fromnoise.diffusion.guidance import AutoguidedDenoiser, GuidedDenoiser
from fromnoise.diffusion.parameterization import ClippedDenoiser, Denoiser, NetworkDenoiser, Prediction
from fromnoise.diffusion.process import noise_like
from fromnoise.errors import UserError
from fromnoise.models import Model, open_model
from fromnoise.nn.unet import UNet

SAMPLERS: dict[str, Callable[..., Iterator[samplers.Moment]]] = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
    "euler": solvers.euler,
    "heun": solvers.heun,
    "dpmpp-2m": solvers.dpmpp_2m,
    "dpmpp-2m-sde": solvers.dpmpp_2m_sde,
}
DEFAULT_SAMPLER, DEFAULT_STEPS = "dpmpp-2m-sde", 11
DEFAULT_STEPS_OF_OTHERS = 30


@dataclass(frozen=True)
class Request:
    """What to draw. None means the model's own setting, from its scheduler's config."""

    n: int = 64
    classes: tuple[int, ...] | None = None
    """repeated in order until there are n images; none: all classes, where there are any"""
    sampler: str = DEFAULT_SAMPLER
    steps: int | None = None
    """how often the network is asked for an image, guidance not counted; none: 11, 30 for any other sampler than
    dpmpp-2m-sde and dpmpp-2m, or as many as there are steps"""
    spacing: str | None = None
    """none: karras for heun"""
    eta: float = 0.0
    variance: str | None = None
    clip: bool | None = None
    guidance: float = 1.0
    guide: str | None = None
    """a worse model of the same images that guidance leads away from, by its name; none: the null class"""
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    """the noise levels sigma / alpha that are guided, above the first and up to the second; none: all"""
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    dtype: str = "fp32"

    def validate(self, model: Model) -> None:
        """Refuses what this model cannot do, with a `UserError` of one line."""
        if self.sampler not in SAMPLERS:
            raise UserError(f"unknown sampler {self.sampler!r}: there are {', '.join(SAMPLERS)}")
        if self.spacing is not None and self.spacing not in list(samplers.Spacing):
            raise UserError(f"unknown spacing {self.spacing!r}: there are {', '.join(samplers.Spacing)}")
        if self.variance is not None and self.variance not in list(samplers.Variance):
            raise UserError(f"unknown variance {self.variance!r}: there are {', '.join(samplers.Variance)}")
        if self.dtype not in DTYPES:
            raise UserError(f"unknown dtype {self.dtype!r}: there are {', '.join(DTYPES)}")
        for name, least in (("n", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        if self.seed + self.n > 2**63:
            raise UserError(f"seed must be below 2^63, not {self.seed}")
        total = model.scheduler.num_train_timesteps
        if self.steps is not None and not 1 <= self.steps <= total:
            raise UserError(
                f"steps must be between 1 and {total}, the number this model was trained with, not {self.steps}"
            )
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta must be between 0 and 1, not {self.eta}")
        if self.eta and self.sampler != "ddim":
            raise UserError(f"eta belongs to the ddim sampler; {self.sampler} has none")
        if self.variance and self.sampler != "ddpm":
            raise UserError(f"variance belongs to the ddpm sampler; {self.sampler} has none")
        guidance = self.guidance
        if not math.isfinite(guidance):
            raise UserError(f"guidance must be a finite number, not {guidance}")
        if not 0 <= self.guidance_rescale <= 1:
            raise UserError(f"guidance-rescale must be between 0 and 1, not {self.guidance_rescale}")
        low, high = self.guidance_interval or (0, 1)
        if not 0 <= low < high:
            raise UserError(f"guidance-interval takes two noise levels, the lower first, not {low} {high}")
        for option in ("guidance_rescale", "guidance_interval", "guide"):
            if guidance == 1 and getattr(self, option):
                flag = option.replace("_", "-")
                raise UserError(f"{flag} changes the guidance, and there is none at 1: leave --{flag} out")
        if guidance != 1 and model.null_class is None and self.guide is None:
            kind = "was trained without a null class" if model.num_classes else "is unconditional"
            raise UserError(
                f"guidance needs a model that knows 'no class'; this one {kind}: leave --guidance out, or give --guide"
            )
        self.open_guide(model)
        if self.classes is not None and not model.num_classes:
            raise UserError("this model is unconditional: leave --classes out")
        for label in self.classes or ():
            if not 0 <= label < model.num_classes:
                raise UserError(f"there is no class {label}: this model knows 0 to {model.num_classes - 1}")
        channels_in, channels_out = model.unet.config.in_channels, model.unet.config.out_channels
        if channels_in != channels_out or channels_in not in (1, 3):
            raise UserError(
                f"images have 1 channel (grey) or 3 (colour): this model takes {channels_in}, predicts {channels_out}"
            )

    def open_guide(self, model: Model) -> Model | None:
        """The model of `guide`, if there is one.

        Raises:
            UserError: it cannot be opened, or is no model of the same images.
        """
        if self.guide is None:
            return None
        guide = open_model(self.guide)

        def kind(of: Model) -> tuple[object, ...]:
            config, scheduler = of.unet.config, of.scheduler
            betas = (scheduler.num_train_timesteps, scheduler.beta_schedule, scheduler.beta_start, scheduler.beta_end)
            return config.in_channels, config.out_channels, config.sample_size, of.num_classes, betas

        if kind(guide) != kind(model):
            raise UserError(
                f"--guide {self.guide} differs in its images, classes or noise: give another model of these"
            )
        return guide

    def num_steps(self, model: Model) -> int:
        """How many steps are taken; one of Heun's asks the network twice, but for the last."""
        usual = DEFAULT_STEPS if self.sampler in (DEFAULT_SAMPLER, "dpmpp-2m") else DEFAULT_STEPS_OF_OTHERS
        evaluations = self.steps or min(usual, model.scheduler.num_train_timesteps)
        return (evaluations + 1) // 2 if self.sampler == "heun" else evaluations

    def evaluations(self, model: Model) -> int:
        """How often the network is asked for one image; where it is guided, it is asked twice."""
        asked_at = self.times(model)[:-1]
        if self.sampler == "heun":  # at both ends of each step but the last
            asked_at += asked_at[1:]
        low, high = self.guidance_interval or (0, math.inf)
        levels = model.scheduler.schedule().noise_to_signal(torch.tensor(asked_at, dtype=torch.float64))
        guided = (levels > low) & (levels <= high) & (self.guidance not in (0, 1))
        return len(asked_at) + int(guided.sum())

    def times(self, model: Model) -> list[float]:
        """The falling list of times that are visited, 0 at its end."""
        scheduler = model.scheduler
        spacing = self.spacing or ("karras" if self.sampler == "heun" else scheduler.timestep_spacing)
        return samplers.sampling_times(
            scheduler.schedule(), self.num_steps(model), samplers.Spacing(spacing), scheduler.steps_offset
        )

    def labels(self, model: Model) -> Tensor | None:
        """The class of each image, ``(n,)``; none for an unconditional model."""
        if not model.num_classes:
            return None
        classes = torch.tensor(self.classes or range(model.num_classes))
        return classes.repeat(self.n // len(classes) + 1)[: self.n]


def placed(network: UNet, device: torch.device, dtype: torch.dtype) -> UNet:
    """A copy of a model's network to be asked on a device, channels-last."""
    copied: UNet = copy.deepcopy(network).eval().requires_grad_(False)
    return copied.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.inference_mode()
def generate(model: Model, request: Request, progress: Callable[[int], None] | None = None) -> Tensor:
    """Draws the images of a request, uint8 ``(n, C, H, W)``.

    Image i draws everything it needs, its initial noise first, from a CPU generator seeded with ``seed + i``. It does
    not depend on the batch size or its neighbours, and on the device only by the rounding of its arithmetic.

    Args:
        progress: called with the number of images times steps just done.

    Raises:
        UserError: the request does not fit the model.
    """
    request.validate(model)
    device, dtype = resolve_device(request.device), DTYPES[request.dtype]

    def denoiser(of: Model) -> Denoiser:
        network = placed(of.unet, device, dtype)
        rows = rows_at_a_time(of.unet.config, device)

        def predict(x: Tensor, timestep: Tensor, **condition: Tensor) -> Tensor:
            """The network's prediction, ``rows`` rows at a time; the last ones are filled up from the first."""
            order = torch.arange(math.ceil(len(x) / rows) * rows, device=device) % len(x)
            parts = [
                network(x[part].to(dtype), timestep[part], **{name: value[part] for name, value in condition.items()})
                for part in order.split(rows)
            ]
            return torch.cat(parts)[: len(x)]

        return NetworkDenoiser(predict, of.scheduler.schedule(), Prediction(of.scheduler.prediction_type))

    scheduler = model.scheduler
    denoise, guide = denoiser(model), request.open_guide(model)
    if request.guidance != 1:
        scale, rescale, interval = (
            request.guidance,
            request.guidance_rescale,
            request.guidance_interval or (0, math.inf),
        )
        if guide is not None:
            denoise = AutoguidedDenoiser(denoise, denoiser(guide), scale, rescale=rescale, interval=interval)
        else:
            null = {"class_labels": torch.tensor(model.null_class)}
            denoise = GuidedDenoiser(denoise, scale, null, rescale=rescale, interval=interval)
    if scheduler.clip_sample if request.clip is None else request.clip:
        denoise = ClippedDenoiser(denoise, scheduler.clip_sample_range)
    times = request.times(model)
    options: dict[str, dict[str, Any]] = {
        "ddpm": {"variance": samplers.Variance(request.variance or scheduler.variance_type)},
        "ddim": {"eta": request.eta},
    }
    sampler = functools.partial(SAMPLERS[request.sampler], **options.get(request.sampler, {}))
    labels = request.labels(model)

    config = model.unet.config
    shape = (1, config.in_channels, config.sample_size, config.sample_size)
    batches = []
    for indices in torch.arange(request.n).split(request.batch_size):
        generators = [torch.Generator().manual_seed(request.seed + int(i)) for i in indices]
        x = noise_like(torch.empty(len(indices), *shape[1:], device=device), generators)
        condition = {} if labels is None else {"class_labels": labels[indices].to(device)}
        for moment in sampler(denoise, x, times, generators, **condition):
            x = moment.x
            if progress is not None:
                progress(len(x))
        batches.append(to_pixels(x).cpu())
    return torch.cat(batches)
