"""Chapter 6: guidance, and what chapter 7 adds to it."""

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

    y, r, step = torch.tensor(1.3, dtype=F64), 0.3, 0.01
    values = {r: y}
    for count in range(1, 221):
        k1 = slope(y, r)
        k2 = slope(y + step / 2 * k1, r + step / 2)
        k3 = slope(y + step / 2 * k2, r + step / 2)
        y = y + step / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + step * k3, r + step))
        r = 0.3 + count * step
        values[r] = y
    for r in list(values)[::55]:
        yield {"y(r)": values[r], "r": r, "d_c": told, "d": any_digit, "w": w}


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
