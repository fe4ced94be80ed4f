"""Compiled, in the precision that is trained in, the network's parts compute the gradients that they do uncompiled."""

import pytest
import torch
from torch import nn

from fromnoise.nn.attention import AttentionBlock
from fromnoise.nn.layers import Downsample, ResidualBlock, Upsample


class Parts(nn.Module):
    """Each part of a U-Net once: what torch.compile builds takes a second or two for each kernel."""

    def __init__(self):
        super().__init__()
        self.down = Downsample(16, padding=1)
        self.residual = ResidualBlock(16, 16, 16, groups=4, eps=1e-5, scale_shift=False)
        self.attention = AttentionBlock(16, head_dim=16, groups=4, eps=1e-5)
        self.up = Upsample(16)

    def forward(self, x, time):
        return self.up(self.attention(self.residual(self.down(x), time)))


@pytest.mark.slow  # a minute, and what it tests changes with the version of PyTorch alone, which is pinned
def test_gradients():
    torch.manual_seed(0)
    torch._dynamo.reset()
    parts = Parts().to(memory_format=torch.channels_last)
    for parameter in parts.parameters():
        if not bool(parameter.any()):  # a branch that starts at zero would hide what stands before it
            nn.init.normal_(parameter, std=0.05)
    x = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    time, target = torch.randn(4, 16), torch.randn(4, 16, 8, 8)

    def gradients():
        parts.zero_grad(set_to_none=False)  # no gradient is then a gradient of zero
        with torch.autocast("cpu", torch.bfloat16):
            output = parts(x, time)
        (output.float() - target).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in parts.named_parameters()}

    eager = gradients()
    parts.compile()
    compiled = gradients()
    largest = max(gradient.norm() for gradient in eager.values())
    for name, gradient in eager.items():
        assert gradient.any(), name
        assert (compiled[name] - gradient).norm() < 0.1 * (gradient.norm() + 0.01 * largest), name
