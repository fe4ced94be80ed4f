"""How the text encoder looks at a prompt: equation causal."""

import math

import torch
import torch.nn.functional as F

from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig, causal_attention

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def test_causal(generator):
    """It equals PyTorch's scaled_dot_product_attention with a causal mask, in float64, with heads."""
    query, key, value = (normal(generator, 2, 3, 7, 8) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(causal_attention(query, key, value), expected, rtol=1e-12, atol=1e-14)


def test_causal__weights(generator):
    """The weights A[i, j], read off as derivatives, are 0 for j > i, positive elsewhere, and sum to 1."""
    query, key, value = (normal(generator, 5, 4) for _ in range(3))
    weights = torch.autograd.functional.jacobian(lambda v: causal_attention(query, key, v), value)[:, 0, :, 0]
    assert torch.equal(weights > 0, torch.ones(5, 5, dtype=torch.bool).tril())
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=F64))
    first = math.exp(float(query[1] @ key[0]) / 2)
    second = math.exp(float(query[1] @ key[1]) / 2)
    torch.testing.assert_close(weights[1, 0].item(), first / (first + second))


def test_causal__token_j_never_alters_those_before_it(generator):
    """In the whole encoder: with another token at place j, all places before it keep their bits and all others not."""
    torch.manual_seed(0)
    config = TextEncoderConfig(vocabulary=20, width=16, mlp_width=32, layers=3, heads=2, max_length=8)
    encoder = TextEncoder(config).double().eval()
    tokens = torch.randint(0, 19, (1, 8), generator=generator)
    with torch.no_grad():
        before = encoder(tokens)
        for j in range(8):
            changed = tokens.clone()
            changed[0, j] = 19
            moved = (encoder(changed) - before).abs().amax(2)[0]
            assert not moved[:j].any()
            assert bool((moved[j:] > 1e-6).all())
