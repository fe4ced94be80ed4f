"""Upsampling by one transposed convolution is its formula, gradients included."""

import torch

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
