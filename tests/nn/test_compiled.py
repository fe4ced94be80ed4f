"""Compiled, in the precision that is trained in, the network computes the gradients that it computes uncompiled."""

import torch
from torch import nn

from fromnoise.nn.unet import UNet, UNetConfig


def test_gradients():
    torch.manual_seed(0)
    torch._dynamo.reset()
    config = UNetConfig(channels=(32, 64), attention_levels=(False, False), layers_per_block=1, norm_groups=8)
    network = UNet(config).to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        if not bool(parameter.any()):  # a branch that starts at zero would hide what stands before it
            nn.init.normal_(parameter, std=0.05)
    x = torch.randn(4, 1, 8, 8).contiguous(memory_format=torch.channels_last)

    def gradients():
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x, torch.arange(4))
        (output.float() - x).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    eager = gradients()
    network.compile()
    compiled = gradients()
    largest = max(gradient.norm() for gradient in eager.values())
    for name, gradient in eager.items():
        assert gradient.any(), name
        assert (compiled[name] - gradient).norm() < 0.1 * (gradient.norm() + 0.01 * largest), name
