"""The two formulas inside the network: equations attention and sinusoid."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding

from fromnoise.nn.attention import attention
from fromnoise.nn.layers import timestep_embedding

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def test_attention(generator):
    """It equals PyTorch's scaled_dot_product_attention in float64, with heads, and with fewer keys than queries."""
    query, key, value = normal(generator, 2, 3, 5, 8), normal(generator, 2, 3, 4, 8), normal(generator, 2, 3, 4, 8)
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected, rtol=1e-12, atol=1e-14)


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
