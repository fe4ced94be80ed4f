"""Chapters 4 and 5: the network, and how its weights are averaged."""

from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Family
from fromnoise.nn import attention as attending
from fromnoise.nn import layers
from fromnoise.train import ema as averaging


@printed()
def sinusoid(draw: Draws) -> Iterator[Case]:
    """A frequency is the slope of its sine at time 0."""
    dims = 8

    def embedding(t: Tensor) -> Tensor:
        return layers.timestep_embedding(t.reshape(1).double(), dims)[0]

    frequencies = torch.autograd.functional.jacobian(embedding, torch.zeros(1, dtype=F64))[: dims // 2, 0]
    waves = {k: lambda t, k=k: embedding(t)[k] for k in range(dims)}
    for i in range(dims // 2):
        yield {
            "e_": Family(waves, calls=True),
            r"\omega_": Family(dict(enumerate(frequencies))),
            "t": draw.uniform(3, 900),
            "d": dims,
            "i": i,
            "over i": range(dims // 2),
        }


@printed()
def attention(draw: Draws) -> Iterator[Case]:
    query, key, value = draw.normal(4, 6), draw.normal(5, 6), draw.normal(5, 2)
    yield {r"\mathrm{attention}": attending.attention, "Q": query, "K": key, "V": value, "d_h": query.shape[-1]}


@printed()
def ema(draw: Draws) -> Iterator[Case]:
    before, after, decay = draw.normal(3), draw.normal(3), 0.15  # less than the first update's least decay
    average = averaging.EMA([before], decay)
    average.update([after])
    names = r"\theta_{\text{ema}}'", r"\theta_{\text{ema}}", r"\theta'", r"\delta"
    yield dict(zip(names, (average.shadow[0], before, after, decay), strict=True))
