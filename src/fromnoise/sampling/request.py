"""What is asked for: plain values, the same on the command line and in Python. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fromnoise.errors import UserError

MOST_IMAGES = 1_000_000  # of one request, or at a time
MOST_PIXELS = 8192  # of a side
MOST_GUIDANCE = 1000  # beyond it there is nothing but rounding


def unset(metavar: str, default: str) -> Any:
    """How ``--help`` shows an option that may be left out: what it takes, and what happens without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def _texts(name: str, default: str) -> Any:
    """As `unset`, for a text under another name that may be given several times."""
    return tyro.conf.arg(name=name, metavar="TEXT", help_behavior_hint=f"(default: {default})")


def _numbers(words: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words[0].split(","))
    except ValueError:
        raise UserError(f"--classes takes class numbers with commas, 0,1,2, not {words[0]!r}") from None


_NUMBERS = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="0,1,2",
    instance_from_str=_numbers,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [",".join(map(str, value or ()))],
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw, and how. None leaves it to the model, or to what is usual for the sampler."""

    n: Annotated[
        int | None,
        unset("N", "8 of each class, 1 of each prompt, or 64; evaluate: 10000, or 2000 prompts of each kind"),
    ] = None
    """how many images"""
    classes: Annotated[tuple[int, ...] | None, _NUMBERS, unset("0,1,2", "all")] = None
    """class numbers with commas, repeated in order until there are n images"""
    prompts: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _texts("prompt", "none")] = ()
    """what the picture shows, in words; given several times, one image of each"""
    negative_prompt: Annotated[str | None, unset("TEXT", "empty")] = None
    """what guidance leads away from, in words"""
    height: Annotated[int | None, unset("PIXELS", "what the model was trained at")] = None
    """of the images"""
    width: Annotated[int | None, unset("PIXELS", "what the model was trained at")] = None
    """of the images"""
    init_image: Annotated[Path | None, unset("FILE", "none: noise")] = None
    """a picture to begin with instead of noise, which sets the size too"""
    strength: Annotated[float | None, unset("S", "0.8, or 1 with a mask")] = None
    """how much of the way the picture is taken back to noise, from 0 (it stays) to 1 (hardly anything is left)"""
    mask: Annotated[Path | None, unset("FILE", "none")] = None
    """a picture that is white where the initial image is painted anew, and black where it stays"""
    sampler: Annotated[str | None, unset("NAME", "dpmpp-2m-sde, or dpmpp-2m for a prompt")] = None
    """dpmpp-2m-sde (DPM-Solver++ with noise added back at each step, good in a dozen steps), dpmpp-2m (without), ddpm
    (ancestral), ddim (deterministic, unless eta is above 0), euler (the rule of ddim, at the times
    and with the first noise of diffusers' Euler) or heun"""
    steps: Annotated[int | None, unset("N", "25 for a prompt, else 11 for dpmpp-2m and dpmpp-2m-sde, else 30")] = None
    """network evaluations for an image, twice that with guidance; heun takes two for each step but the last, and DDPM
    was published with 1000"""
    spacing: Annotated[str | None, unset("NAME", "the model's, karras for heun")] = None
    """which times are visited: leading, trailing, linspace, karras or log-snr"""
    eta: float = 0.0
    """ddim: how much fresh noise each step adds, from 0 (none) to 1 (the same as ddpm)"""
    variance: Annotated[str | None, unset("NAME", "the model's")] = None
    """ddpm: fixed_small or fixed_large"""
    clip: Annotated[bool | None, tyro.conf.Suppress] = None
    """whether each predicted image is kept in range"""
    guidance: Annotated[float | None, unset("S", "7.5 for a prompt, else 1")] = None
    """how strongly the class or the prompt is followed: 1 as trained; more exaggerates it and costs double"""
    guide: Annotated[str | None, unset("MODEL", "the model itself, asked for no class")] = None
    """guide away from another, worse model of the same images, which works for unconditional models, too"""
    guidance_rescale: Annotated[float, tyro.conf.arg(metavar="PHI")] = 0.0
    """how much of the contrast that guidance adds is taken back, from 0 (none) to 1 (all)"""
    guidance_interval: Annotated[tuple[float, float] | None, unset("LO HI", "all")] = None
    """guide only above the noise level LO and up to HI (noise to signal, sigma / alpha): elsewhere it costs half"""
    seed: int = 0
    """image i is drawn from seed + i, whatever the batch size"""
    batch_size: int = 64
    """images at a time"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """fp32 loses nothing; bf16 is faster on some processors and differs by a grey level here and there, sometimes
    visibly"""
