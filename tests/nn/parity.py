"""What the comparisons with diffusers and transformers share."""

import torch


@torch.no_grad()
def randomise(network):
    """Every parameter random, the norms' too, so that none is left out unseen; activations stay of order one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(draw / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.3 * draw + (name.endswith("weight")))
    return network.eval()


def relative_error(found, expected):
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()
