"""Upsampling by one transposed convolution is its formula, gradients included."""

import pytest
import torch

from fromnoise.nn.fast import upsampling
from fromnoise.nn.fast.upsampling import formula, upsample


def test_upsample_is_its_formula():
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 4), (6, 3, 3, 3), (6,))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    results = [upsample(*inputs), formula(*inputs)]
    grad = torch.randn(2, 6, 10, 8, dtype=torch.float64)
    ours, theirs = ((result, *torch.autograd.grad(result, inputs, grad)) for result in results)
    for value, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("size", "summed"), [(8, False), (9, True)])
def test_few_positions_are_left_to_the_formula_unless_there_are_gradients(size, summed, monkeypatch):
    """Two rows of 8x8 positions are few."""
    calls, convolve = [], upsampling.convolve
    monkeypatch.setattr(upsampling, "convolve", lambda *a, **options: calls.append(a) or convolve(*a, **options))
    x, weight, bias = torch.randn(2, 3, size, 8), torch.randn(6, 3, 3, 3), torch.randn(6)
    with torch.no_grad():
        torch.testing.assert_close(upsample(x, weight, bias), formula(x, weight, bias))
    assert bool(calls) == summed
    upsample(x, weight, bias)
    assert len(calls) == 1 + summed
