"""The formulas inside the network: equations attention, cross-attn, geglu and sinusoid."""

import math

import diffusers.models.activations
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from fromnoise.nn.attention import CrossAttention, attention
from fromnoise.nn.layers import timestep_embedding
from fromnoise.nn.transformer import GEGLU

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


@pytest.mark.parametrize(("queries", "keys"), [(5, 4), (520, 130)])
@pytest.mark.parametrize("upcast", [False, True])
def test_attention(generator, queries, keys, upcast):
    """It equals the formula in einsum's letters, in float64, with heads, for few scores and for many."""
    query, key, value = (normal(generator, 2, 3, tokens, 8) for tokens in (queries, keys, keys))
    weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", query, key) / math.sqrt(8), dim=-1)
    expected = torch.einsum("bhnm,bhmd->bhnd", weights, value)
    torch.testing.assert_close(attention(query, key, value, upcast=upcast), expected, rtol=1e-10, atol=1e-12)


def test_attention__brute_force(generator):
    """One output in Python floats: exp(q k_j / sqrt(head_dim)), normalised over j, times the values."""
    query, key, value = normal(generator, 3, 6), normal(generator, 4, 6), normal(generator, 4, 6)
    weights = [math.exp(float(query[1] @ k) / math.sqrt(6)) for k in key]
    expected = sum(w / sum(weights) * v for w, v in zip(weights, value, strict=True))
    torch.testing.assert_close(attention(query, key, value)[1], expected, rtol=1e-12, atol=1e-14)


def test_attention__every_position_reaches_every_other(generator):
    """Changing value j changes output i for all i and j, in each channel by the same weight; weights sum to 1."""
    query, key, value = (normal(generator, 5, 4) for _ in range(3))
    weights = torch.autograd.functional.jacobian(lambda v: attention(query, key, v), value)  # (i, d, j, d')
    of_channel = weights.diagonal(dim1=1, dim2=3)  # (i, j, d)
    assert bool((of_channel > 0).all())
    torch.testing.assert_close(of_channel, of_channel[..., :1].expand(5, 5, 4))
    torch.testing.assert_close(of_channel.sum(1), torch.ones(5, 4, dtype=F64))
    before = attention(query, key, value)
    for j in range(5):
        moved = value.clone()
        moved[j] += 1
        assert bool(((attention(query, key, moved) - before).abs() > 1e-6).all())


def test_cross_attn(generator):
    """With one token in the context the output is its value, whatever asks; with two, an average of their values."""
    layer = CrossAttention(8, 6, heads=2).to(F64)
    tokens, one, other = normal(generator, 3, 5, 8), normal(generator, 3, 1, 6), normal(generator, 3, 1, 6)
    ours, theirs = (layer.to_out[0](layer.to_v(token)) for token in (one, other))
    torch.testing.assert_close(layer(tokens, one), ours.expand(3, 5, 8))

    between = (layer.to_out[0].weight.inverse() @ (layer(tokens, torch.cat([one, other], 1)) - theirs).mT).mT
    share = between / (
        layer.to_v(one) - layer.to_v(other)
    )  # of the first token: one number for each head of 4 channels
    assert bool(((share > 0) & (share < 1)).all())
    torch.testing.assert_close(share, share[..., [0, 0, 0, 0, 4, 4, 4, 4]])


def test_cross_attn__brute_force(generator):
    """Queries come from the tokens, keys and values from the context: one head at a time, in matrix products."""
    layer = CrossAttention(8, 6, heads=2).to(F64)
    tokens, context = normal(generator, 3, 5, 8), normal(generator, 3, 7, 6)
    weights = (projection.weight.T for projection in (layer.to_q, layer.to_k, layer.to_v))
    q, k, v = (x @ weight for x, weight in zip((tokens, context, context), weights, strict=True))
    heads = [torch.softmax(q[..., h] @ k[..., h].mT / 2, -1) @ v[..., h] for h in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(layer(tokens, context), layer.to_out[0](torch.cat(heads, -1)))
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(layer(tokens, context[:, order]), layer(tokens, context))  # words have no place


def test_geglu(generator):
    """It equals (x W) * gelu(x V) with the Gaussian's own distribution function, and diffusers' GEGLU."""
    layer, theirs = GEGLU(5, 3).to(F64), diffusers.models.activations.GEGLU(5, 3).to(F64)
    x = 3 * normal(generator, 2, 4, 5)
    (w, v), (b, c) = layer.proj.weight.chunk(2), layer.proj.bias.chunk(2)
    gate = x @ v.T + c
    gelu = gate * torch.distributions.Normal(0.0, 1.0).cdf(gate)
    torch.testing.assert_close(layer(x), (x @ w.T + b) * gelu)
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), theirs(x))


def test_sinusoid(generator):
    """Entries are sin and cos of t 10000^(-2i/d) in Python floats; the dot product of two depends on t - s alone."""
    t = torch.tensor([0.0, 1.0, 17.5, 999.0], dtype=F64)
    angles = [[time * 10_000 ** (-2 * i / 8) for i in range(4)] for time in t.tolist()]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    torch.testing.assert_close(timestep_embedding(t, 8), torch.tensor(expected, dtype=F64), rtol=1e-10, atol=1e-12)

    base = torch.rand(20, generator=generator, dtype=F64) * 900
    for distance in (0.0, 3.0, 50.0):
        dot = (timestep_embedding(base, 8) * timestep_embedding(base + distance, 8)).sum(1)
        closed = sum(math.cos(distance * 10_000 ** (-i / 4)) for i in range(4))
        torch.testing.assert_close(dot, torch.full_like(dot, closed), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("flip", "shift"), [(False, 1), (True, 0)])
@pytest.mark.parametrize("dim", [32, 33])
def test_sinusoid__diffusers(flip, shift, dim):
    """In DDPM's and in Stable Diffusion's form, and for odd lengths, it equals diffusers' function to float32."""
    t = torch.arange(0, 1000, 37)
    expected = get_timestep_embedding(t, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    actual = timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=shift)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
