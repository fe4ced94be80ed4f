"""The attention kernel is its formula, and is used where it is meant to be."""

import math

import pytest
import torch

from fromnoise.nn import attention as plain
from fromnoise.nn.fast import attention as fast
from fromnoise.nn.fast.attention import formula, fused_attention
from fromnoise.nn.fast.kernels import TYPES, library

DTYPES = [dtype for dtype, name in TYPES.items() if hasattr(library(fast.SOURCE), f"attention_{name}")]
ERRORS = {torch.float32: 2e-6, torch.bfloat16: 4e-3}  # of the result's norm; a number of bf16 is good to 4e-3

SHAPES = {  # batch, heads, queries, keys, head_dim
    "Stable Diffusion's own": (2, 2, 1024, 1024, 40),
    "the words of a text": (1, 3, 700, 77, 80),
    "whole tiles and panels": (1, 1, 512, 64, 48),
    "one of everything": (1, 1, 1, 1, 2),
    "wide heads": (1, 1, 37, 45, 512),
    "panels of one vector": (2, 1, 9, 33, 64),
}


def example(batch, heads, queries, keys, head_dim, dtype):
    torch.manual_seed(0)
    numbers = (torch.randn(batch, count, heads, head_dim).to(dtype) for count in (queries, keys, keys))
    query, key, value = (x.transpose(1, 2) for x in numbers)
    return 2 * query, key, value


def refuse(*arguments):
    raise AssertionError("PyTorch's kernel was called")


@pytest.fixture
def only_the_kernel(monkeypatch):
    monkeypatch.setattr(fast, "formula", refuse)


def error(found, *inputs):
    truth = formula(*(x.double() for x in inputs))
    assert found.shape == truth.shape and found.dtype == inputs[0].dtype
    return (found - truth).norm() / truth.norm()


def test_the_kernel_is_there_where_it_can_be_built():
    built = library(fast.SOURCE) is not None
    assert (torch.float32 in DTYPES) == built
    assert (torch.bfloat16 in DTYPES) == (built and fast.DOT_PRODUCTS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_attention_is_its_formula(shape, dtype, only_the_kernel, monkeypatch):
    monkeypatch.setattr(fast, "MATRICES", False)
    inputs = example(*shape, dtype)
    found = fused_attention(*inputs)
    assert error(found, *inputs) < ERRORS[dtype]
    assert torch.equal(found, fused_attention(*(x.contiguous() for x in inputs)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_the_largest_score_may_be_anything(dtype, only_the_kernel, monkeypatch):
    """Scores of thousands neither overflow nor vanish, and those far below the largest have no weight."""
    monkeypatch.setattr(fast, "MATRICES", False)
    query, key, value = example(1, 2, 20, 50, 16, dtype)
    key = 40 * key
    for sign in (1, -1):
        found = fused_attention(sign * 40 * query, key, value)
        assert found.isfinite().all()
        assert error(found, sign * 40 * query, key, value) < ERRORS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_equal_scores_give_the_average(dtype, only_the_kernel, monkeypatch):
    """So the keys that fill up a tile have no weight."""
    monkeypatch.setattr(fast, "MATRICES", False)
    _, key, value = example(1, 1, 1, 35, 16, torch.float32)
    found = fused_attention(torch.zeros(1, 1, 3, 16).to(dtype), key.to(dtype), value.to(dtype))
    expected = value.to(dtype).double().mean(2, keepdim=True).expand(1, 1, 3, 16)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-7 if dtype == torch.float32 else 1e-3)


@pytest.mark.skipif(torch.float32 not in DTYPES, reason="no kernel can be built here: PyTorch's is used")
@torch.no_grad()
def test_not_a_number_is_not_hidden(only_the_kernel):
    query, key, value = example(1, 1, 3, 40, 16, torch.float32)
    query[0, 0, 1, 0] = math.nan
    found = fused_attention(query, key, value)
    assert found[0, 0, 1].isnan().all() and found[0, 0, 0].isfinite().all()


def test_elsewhere_pytorch_s_own_is_used(monkeypatch):
    inputs = example(1, 2, 20, 30, 16, torch.float32)
    calls = []
    monkeypatch.setattr(fast, "call", lambda *arguments: calls.append(arguments))
    with torch.no_grad():
        fused_attention(*inputs)
        assert len(calls) == (torch.float32 in DTYPES)
        calls.clear()
        for other in (
            [x.double() for x in inputs],
            [x[..., :15] for x in inputs],
            [x[0] for x in inputs],
            [inputs[0].to("meta"), inputs[1].to("meta"), inputs[2].to("meta")],
        ):
            assert fused_attention(*other).shape == other[0].shape
        monkeypatch.setattr(fast, "MATRICES", True)
        fused_attention(*(x.bfloat16() for x in inputs))
    learned = [x.clone().requires_grad_() for x in inputs]
    fused_attention(*learned).sum().backward()  # there is no gradient of the kernel's
    assert all(x.grad is not None for x in learned)
    assert not calls
    monkeypatch.setattr(fast, "library", lambda source: None)
    with torch.no_grad():
        torch.testing.assert_close(fused_attention(*inputs), formula(*inputs))


@torch.no_grad()
def test_few_scores_keep_their_bits(monkeypatch):
    """16x16 positions, the most that a preset has, are two matrix products, as in training."""
    monkeypatch.setattr(plain, "fused_attention", refuse)
    few = example(1, 2, 256, 256, 16, torch.float32)
    torch.testing.assert_close(plain.attention(*few), formula(*few))
    with pytest.raises(AssertionError, match="PyTorch's kernel was called"):
        plain.attention(*example(1, 2, 257, 256, 16, torch.float32))
