"""A request resolved against a model, once: the one place where a request is refused."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from fromnoise.devices import DTYPES, resolve_device, rows_at_a_time
from fromnoise.diffusion.guidance import AutoguidedDenoiser, GuidedDenoiser
from fromnoise.diffusion.inpainting import cut_times
from fromnoise.diffusion.parameterization import ClippedDenoiser, Denoiser, NetworkDenoiser, Prediction
from fromnoise.diffusion.samplers import Moment, Spacing, Variance, final
from fromnoise.errors import UserError
from fromnoise.models import Model, open_model
from fromnoise.models.conditioning import Condition, Prompts, Wish
from fromnoise.sampling.editing import Edit, read_edit
from fromnoise.sampling.methods import SAMPLERS, Sampler, spaced_times, start_scale, startable
from fromnoise.sampling.request import MOST_GUIDANCE, MOST_IMAGES, MOST_PIXELS, Request


@dataclass(frozen=True)
class Plan:
    """All that a request comes down to for one model."""

    model: Model
    request: Request  # with nothing left open
    method: Sampler  # the one of its name
    n: int  # how many images are drawn
    wishes: list[Wish]  # what each image is asked to show; empty for a model that cannot be asked
    shape: tuple[int, int, int]  # channels, height and width of what the network sees
    times: list[float]  # the falling list of times that are visited, 0 at its end (or 1, if the model's noise says so)
    device: torch.device
    null: Condition | None = None  # what guidance leads away from; none: there is no guidance, or a guide
    edit: Edit | None = None  # the picture that is drawn over; none: it begins with noise
    guide: Model | None = None  # the model of request.guide
    many: bool = False  # whether the images are so many that a network is shown more of them at a time

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @property
    def sampler(self) -> Callable[..., Iterator[Moment]]:
        """The sampler with its options."""
        return partial(self.method.run, **{name: getattr(self.request, name) for name in self.method.options})

    @property
    def start_scale(self) -> float:
        """What the first noise is multiplied by."""
        return start_scale(self.method, self.model.noise, self.request.spacing, self.times[0])

    @cached_property
    def evaluations(self) -> int:
        """How often a network is asked for one image, found by asking one that answers 0."""
        asked: list[int] = []
        if not self.steps:  # of a picture that stays as it is
            return 0

        def count(x: torch.Tensor, timestep: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return torch.zeros_like(x)

        counter = NetworkDenoiser(count, self.model.noise.schedule(), Prediction.IMAGE)
        condition = self.model.conditioner.encode(self.wishes[:1])
        x, generator = torch.zeros(1, 1, 1, 2), torch.Generator()
        final(self.sampler(self._guided(counter, counter), x, self.times, generator, **condition))
        return sum(asked)

    def denoiser(self, progress: Callable[[int], None] | None = None) -> Denoiser:
        """The model's denoiser, guided and clipped as the request says.

        Args:
            progress: called with the number of images of each question to a network.
        """

        def plain(model: Model) -> Denoiser:
            rows = max(rows_at_a_time(model.unet.config, self.device, self.many), 1 if self.null is None else 2)
            return model.denoiser(self.device, DTYPES[self.request.dtype], rows=rows, progress=progress)

        return self._guided(plain(self.model), None if self.guide is None else plain(self.guide))

    def _guided(self, denoise: Denoiser, worse: Denoiser | None) -> Denoiser:
        request, scale = self.request, self.request.guidance or 0.0
        rescale, interval = request.guidance_rescale, request.guidance_interval or (0, math.inf)
        if worse is not None:
            denoise = AutoguidedDenoiser(denoise, worse, scale, rescale=rescale, interval=interval)
        elif self.null is not None:
            denoise = GuidedDenoiser(denoise, scale, self.null, rescale=rescale, interval=interval)
        limit = self.model.space.limit
        return ClippedDenoiser(denoise, limit) if request.clip and limit is not None else denoise


def plan(model: Model, request: Request) -> Plan:
    """Settles what a request leaves open.

    Raises:
        UserError: a value that no model can have, or that this one cannot.
    """
    usual = model.conditioner.usual
    usual_steps = usual.steps and min(usual.steps, model.noise.num_train_timesteps)
    settled = replace(
        request,
        sampler=request.sampler or usual.sampler,
        steps=usual_steps if request.steps is None else request.steps,
        guidance=usual.guidance if request.guidance is None else request.guidance,
    )
    _check_values(settled)
    sampler = SAMPLERS[settled.sampler or ""]
    model = startable(model, sampler)
    noise, total, asked = model.noise, model.noise.num_train_timesteps, request.classes or request.prompts or None
    if settled.steps is not None and not 1 <= settled.steps <= total:
        raise UserError(
            f"steps must be between 1 and {total}, the number this model was trained with, not {settled.steps}"
        )
    n = usual.each * (len(asked or model.conditioner.names) or 8) if request.n is None else request.n
    if request.seed + n > 2**63:
        raise UserError(f"seed must be below 2^63, not {request.seed}")
    wishes = model.conditioner.wishes(asked, n)
    evaluations = settled.steps or min(sampler.evaluations, total)
    spacing, times = spaced_times(settled.spacing, sampler, noise, math.ceil(evaluations / sampler.asks))
    if request.clip and model.space.limit is None:
        raise UserError("clip keeps pixels in range, and this model works on latents: leave --clip out")
    shape, edit = _shape(model, request)
    if edit is not None:
        settled, times = replace(settled, strength=edit.strength), cut_times(times, edit.strength)
    settled = replace(
        settled,
        n=n,
        steps=evaluations,
        spacing=spacing,
        variance=Variance(request.variance or noise.variance_type) if "variance" in sampler.options else None,
        clip=noise.clip_sample if request.clip is None else request.clip,
    )
    guide = None if request.guide is None else _open_guide(request.guide, model, sampler)
    null = None if guide or settled.guidance == 1 else _null(model, request)
    device = resolve_device(request.device)
    model = model.placed(device, DTYPES[request.dtype])
    return Plan(model, settled, sampler, n, wishes, shape, times, device, null, edit, guide)


def _null(model: Model, request: Request) -> Condition:
    """What guidance leads away from."""
    if request.negative_prompt is not None:
        wishes = model.conditioner.wishes([request.negative_prompt], 1)
        return {name: value[0] for name, value in model.conditioner.encode(wishes).items()}
    if (null := model.conditioner.null()) is None:
        raise UserError(
            "guidance leads away from 'no class', unknown to this model: leave --guidance out, or give --guide"
        )
    return null


def _shape(model: Model, request: Request) -> tuple[tuple[int, int, int], Edit | None]:
    """Channels, height and width of what the network sees; and the picture that is drawn over, at that size."""
    channels, *trained = model.space.image_shape
    network, seen = model.unet.config, model.space.shape[0]
    if channels not in (1, 3) or network.out_channels != seen or network.in_channels not in (seen, 2 * seen + 1):
        raise UserError(
            f"images have 1 channel (grey) or 3 (colour), as many as are predicted: this model draws {channels}, "
            f"takes {network.in_channels} and predicts {network.out_channels}"
        )
    factor = trained[0] // model.space.shape[1]
    multiple, size, edit = factor * network.size_multiple, (request.height, request.width), None
    for side, pixels in zip(("height", "width"), size, strict=True):
        if pixels is not None and (pixels % multiple or not 0 < pixels <= MOST_PIXELS):
            near = min(max(round(pixels / multiple), 1) * multiple, MOST_PIXELS // multiple * multiple)
            raise UserError(
                f"{side} must be a multiple of {multiple} up to {MOST_PIXELS}, not {pixels}: {near} is near"
            )
    if model.inpaints and request.mask is None:
        raise UserError("this model was trained to inpaint: give --init-image and --mask")
    if request.init_image is not None:
        edit = read_edit(request, channels, min(trained), multiple)
        size = edit.picture.shape[2], edit.picture.shape[3]
        if max(size) > MOST_PIXELS:
            drawn = f"{size[1]}x{size[0]}"
            raise UserError(
                f"--init-image would be drawn at {drawn}, and a side has {MOST_PIXELS} pixels at most: crop it, or "
                "give --height and --width"
            )
    height, width = (pixels or usual for pixels, usual in zip(size, trained, strict=True))
    return (seen, height // factor, width // factor), edit


def _check_values(request: Request) -> None:
    """Refuses what no model can do."""
    choices = {"sampler": SAMPLERS, "spacing": list(Spacing), "variance": list(Variance), "dtype": DTYPES}
    for name, there in choices.items():
        if (value := getattr(request, name)) is not None and value not in there:
            raise UserError(f"unknown {name} {value!r}: there are {', '.join(there)}")
    for name, least, most in (("n", 1, MOST_IMAGES), ("batch_size", 1, MOST_IMAGES), ("seed", 0, math.inf)):
        if (value := getattr(request, name)) is not None and not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"{name.replace('_', '-')} must be {bound}, not {value}")
    for name in ("eta", "guidance_rescale"):
        if not 0 <= getattr(request, name) <= 1:
            raise UserError(f"{name.replace('_', '-')} must be between 0 and 1, not {getattr(request, name)}")
    for owner, sampler in SAMPLERS.items():
        for name in sampler.options:
            if getattr(request, name) and name not in SAMPLERS[request.sampler or ""].options:
                raise UserError(f"{name} belongs to the {owner} sampler; {request.sampler} has none")
    if request.guidance is not None and not abs(request.guidance) <= MOST_GUIDANCE:
        raise UserError(f"guidance must be between -{MOST_GUIDANCE} and {MOST_GUIDANCE}, not {request.guidance}")
    low, high = request.guidance_interval or (0, 1)
    if not 0 <= low < high:
        raise UserError(f"guidance-interval takes two noise levels, the lower first, not {low} {high}")
    for name in ("mask", "strength"):
        if getattr(request, name) is not None and request.init_image is None:
            raise UserError(f"{name} belongs to a picture that is drawn over: give --init-image, too")
    if request.strength is not None and not 0 <= request.strength <= 1:
        raise UserError(f"strength must be between 0 (the picture stays) and 1, not {request.strength}")
    if request.classes and request.prompts:
        raise UserError("a model is asked by --classes or by --prompt: leave one of them out")
    if request.guide is not None and request.negative_prompt is not None:
        raise UserError("guidance leads away from the guide or from the negative prompt: leave one of them out")
    for name in ("guidance_rescale", "guidance_interval", "guide", "negative_prompt"):
        if request.guidance == 1 and getattr(request, name):
            flag = name.replace("_", "-")
            raise UserError(f"{flag} changes the guidance, and there is none at 1: leave --{flag} out")


def _open_guide(name: str, model: Model, sampler: Sampler) -> Model:
    """The worse model; refuses one of other images, classes, words or noise."""
    guide = startable(open_model(name), sampler)

    def kind(of: Model) -> tuple[object, ...]:
        unet, asked, betas = of.unet.config, of.conditioner, of.noise.schedule().betas.tolist()
        words = asked.tokenizer.vocabulary if isinstance(asked, Prompts) else None
        return of.space.shape, unet.in_channels, unet.out_channels, unet.context_dim, len(asked.names), words, betas

    if kind(guide) != kind(model):
        raise UserError(f"--guide {name} differs in its images, classes, words or noise: give another model of these")
    return guide
