"""Chapter 10: words."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from formulas.check import Case, printed
from formulas.draws import Draws
from formulas.values import Family
from formulas.vocabulary import counted
from fromnoise.evaluate import likeness
from fromnoise.nn import attention, clip, text_encoder, transformer


@printed()
def causal(draw: Draws) -> Iterator[Case]:
    query, key, value = draw.normal(4, 3), draw.normal(4, 3), draw.normal(4, 2)
    result = text_encoder.causal_attention(query, key, value)
    for i in range(1, 5):
        yield {
            "o_": counted(result),
            "q_": counted(query),
            "k_": counted(key),
            "v_": counted(value),
            "d_h": 3,
            "i": i,
        }


@printed()
def infonce(draw: Draws) -> Iterator[Case]:
    similarity = draw.normal(4, 4)
    for i in (1, 3):
        yield {
            "L_": counted(clip.infonce(similarity)),
            "s_": Family({(i + 1, j + 1): similarity[i, j] for i in range(4) for j in range(4)}),
            "B": 4,
            "i": i,
        }


@printed()
def clip_score(draw: Draws) -> Iterator[Case]:
    picture, caption = draw.normal(5), draw.normal(5)
    yield {"C": likeness.clip_scores(picture[None], caption[None]), "f": picture, "g": caption}


@printed(1e-6)
def cross_attn(draw: Draws) -> Iterator[Case]:
    """With one head, of which the whole width is the head's."""
    layer = attention.CrossAttention(4, 3, heads=1).double()
    tokens, context = draw.normal(5, 4), draw.normal(2, 3)

    def cross(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x[None], y[None])[0]

    for weight in layer.parameters():
        weight.data = draw.normal(*weight.shape)
    to_out = cast(nn.Linear, layer.to_out[0])
    yield {
        r"\mathrm{cross}": cross,
        "X": tokens,
        "Y": context,
        "W_Q": layer.to_q.weight.data.T,
        "W_K": layer.to_k.weight.data.T,
        "W_V": layer.to_v.weight.data.T,
        "W_O": to_out.weight.data.T,
        "b_O": to_out.bias.data.expand(5, 4),
        "d_h": 4,
    }


@printed()
def geglu(draw: Draws) -> Iterator[Case]:
    layer, x = transformer.GEGLU(3, 4).double(), draw.normal(2, 3)
    for weight in layer.parameters():
        weight.data = draw.normal(*weight.shape)
    (value, gate), (value_bias, gate_bias) = layer.proj.weight.data.chunk(2), layer.proj.bias.data.chunk(2)
    yield {
        r"\mathrm{geglu}": lambda x: layer(x).detach(),
        "x": x,
        "W": value.T,
        "V": gate.T,
        "b_W": value_bias.expand(2, 4),
        "b_V": gate_bias.expand(2, 4),
    }
