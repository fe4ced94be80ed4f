"""Chapter 12: fewer steps by another training, and changes of low rank."""

from collections.abc import Iterator

import torch

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.entries.bounds import network
from formulas.values import Average, Family
from formulas.vocabulary import SCHEDULE, at, noising
from fromnoise.diffusion import distillation
from fromnoise.nn import lora as adapters
from fromnoise.train import ema as averaging


@printed()
def reflow(draw: Draws) -> Iterator[Case]:
    cases, errors = [], []
    for t in (0.2, 0.5, 0.9):
        noise, end = draw.normal(1, 3), draw.normal(1, 3)
        errors.append(3 * distillation.reflow_loss(network, noise, end, at(t)))
        cases.append({"t": t, "z": end, r"\epsilon": noise})
    yield {"E": Average.over(cases), r"u_\theta": network, "value": torch.cat(errors).mean()}


@printed()
def prog_distill(draw: Draws) -> Iterator[Case]:
    for t, u in ((6, 3), (4, 2)):
        x_t, x_u = draw.normal(1, 3), draw.normal(1, 3)
        target = distillation.distillation_target(SCHEDULE, x_t, x_u, at(t), at(u))
        yield noising(t, u) | {r"\tilde x": target, "x_": Family({t: x_t, u: x_u})}


@printed()
def consistency(draw: Draws) -> Iterator[Case]:
    level, least, std = draw.uniform(0.5, 3, 1), 0.2, 0.6
    names = r"c_{\text{skip}}", r"c_{\text{out}}"
    values = distillation.consistency_coefficients(level, least, std)
    yield dict(zip(names, values, strict=True)) | {"r": level, "s": std, r"r_{\min}": least}


@printed()
def lora(draw: Draws) -> Iterator[Case]:
    weight, rank, alpha = draw.normal(3, 5), 2, 1.7
    change = adapters.LowRank(weight, rank, alpha, draw.generator)
    with torch.no_grad():
        change.B.copy_(draw.normal(3, rank))
        yield {"W'": change(weight), "W": weight, r"\alpha": alpha, "k": rank, "B": change.B, "A": change.A}


@printed()
def power_ema(draw: Draws) -> Iterator[Case]:
    for n, gamma in ((3, 0.5), (40, 6.94)):
        decay = torch.tensor(averaging.power_decay(n, gamma), dtype=F64)
        yield {r"\delta_": Family({n: decay}), "n": n, r"\gamma": gamma}
