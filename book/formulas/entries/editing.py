"""Chapter 11: Stable Diffusion, and what it changes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import Draws
from formulas.values import Family
from formulas.vocabulary import SCHEDULE, Given, at, noising
from fromnoise.diffusion import guidance, inpainting


@printed()
def negative(draw: Draws) -> Iterator[Case]:
    """The denoiser's guess is what it is told."""
    told, not_wanted, s = draw.normal(1, 3), draw.normal(1, 3), 2.7

    class Obedient:
        schedule = SCHEDULE

        def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            return condition["context"]

    denoise = guidance.GuidedDenoiser(Obedient(), s, {"context": not_wanted})
    yield {
        r"\tilde x_0": denoise(draw.normal(1, 3), at(4), context=told),
        r"\hat x_n": not_wanted,
        r"\hat x_c": told,
        "s": s,
    }


@printed()
def img2img(draw: Draws) -> Iterator[Case]:
    for start in (3, 6):
        z, noise = draw.normal(1, 3), draw.normal(1, 3)
        x = inpainting.start_from(SCHEDULE, z, float(start), noise)
        yield noising(start - 1) | {"x_": Family({start: x}), "t_0": start, "z": z, r"\epsilon": noise}


@printed()
def inpaint(draw: Draws) -> Iterator[Case]:
    """A picture of one pixel, and masks in between, which show both shares."""
    for m in (0.0, 0.3, 1.0):
        known, guess, x = draw.normal(1, 1), draw.normal(1, 1), draw.normal(1, 1)
        mask = torch.full_like(known, m)
        denoise = inpainting.InpaintingDenoiser(Given(guess), known, mask, draw.normal(1, 1), start=6.0)
        yield {r"\tilde x_0": denoise(x, at(3)), "m": m, "z": known, r"\hat x_0": guess}
