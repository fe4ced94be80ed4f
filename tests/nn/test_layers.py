"""What `test_parity` does not see: that a shortcut computes what it says, its gradients included."""

import torch
import torch.nn.functional as F

from fromnoise.nn.layers import Upsample


def test_upsampling_is_each_pixel_four_times_then_a_convolution():
    torch.manual_seed(0)
    upsample = Upsample(3).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.conv2d(larger, upsample.conv.weight, upsample.conv.bias, padding=1)
    result = upsample(x)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    upstream, inputs = torch.randn_like(expected), (x, *upsample.parameters())
    gradients, truths = (torch.autograd.grad(y, inputs, upstream) for y in (result, expected))
    for gradient, truth in zip(gradients, truths, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-11, atol=1e-11)
