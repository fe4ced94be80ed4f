"""Chapter 6: guidance, and what chapter 7 adds to it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from fromnoise.diffusion import guidance, solvers
from fromnoise.diffusion.exact import gaussian_denoiser


@printed()
def cfg_w(draw: Draws) -> Iterator[Case]:
    w, without, told = 1.7, draw.normal(1, 3), draw.normal(1, 3)
    names = r"\tilde\epsilon", r"\hat\epsilon_\varnothing", r"\hat\epsilon_c", "w"
    yield dict(zip(names, (guidance.guide(without, told, 1 + w), without, told, w), strict=True))


@printed()
def cfg_s(draw: Draws) -> Iterator[Case]:
    s, without, told = 2.7, draw.normal(1, 3), draw.normal(1, 3)
    names = r"\tilde\epsilon", r"\hat\epsilon_\varnothing", r"\hat\epsilon_c", "s"
    yield dict(zip(names, (guidance.guide(without, told, s), without, told, s), strict=True))


@printed(1e-6)
def cfg_gauss(draw: Draws) -> Iterator[Case]:
    """The guided curve of two Gaussians around 0, followed by the method of Runge and Kutta."""
    w, told, any_digit = 1.4, 0.5, 0.9

    def slope(y: Tensor, r: float) -> Tensor:
        one, level = torch.ones((), dtype=F64), torch.tensor(r, dtype=F64)
        without, with_it = (gaussian_denoiser(y, one, level, 0 * one, one * std**2) for std in (any_digit, told))
        return solvers.edm_ode(y, guidance.guide(without, with_it, 1 + w), level)

    noise = torch.tensor(1.3, dtype=F64)
    top, steps = math.log(1e4), 400
    y, step, curve = noise * 1e4, -(math.log(1e4) + 1) / steps, []
    for count in range(steps):  # in the logarithm of r, from so much noise that y is the noise times r
        low, middle, high = (math.exp(top + (count + part) * step) for part in (0, 0.5, 1))
        k1 = low * slope(y, low)
        k2 = middle * slope(y + step / 2 * k1, middle)
        k3 = middle * slope(y + step / 2 * k2, middle)
        y = y + step / 6 * (k1 + 2 * k2 + 2 * k3 + high * slope(y + step * k3, high))
        curve.append((high, y))
    for r, y in curve[299::50]:
        yield {"y(r)": y, "r": r, "d_c": told, "d": any_digit, "w": w, r"\epsilon": noise}


@printed()
def interval(draw: Draws) -> Iterator[Case]:
    low, high, s = 0.4, 2.5, 1.8
    for r in (0.1, 0.4, 0.5, 2.5, 2.6):
        scale = guidance.guidance_at(torch.tensor([r], dtype=F64), s, (low, high))
        yield {"s(r)": scale, "s": s, "r": r, r"r_{\text{low}}": low, r"r_{\text{high}}": high}


@printed()
def rescale(draw: Draws) -> Iterator[Case]:
    guided, told, share = 2 * draw.normal(1, 6), draw.normal(1, 6), 0.7
    names = r"\hat x", r"\hat x_g", r"\hat x_c", r"\phi"
    yield dict(zip(names, (guidance.rescale_guided(guided, told, share), guided, told, share), strict=True))
