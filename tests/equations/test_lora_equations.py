"""A change of low rank: equation lora."""

import pytest
import torch
from torch import nn

from fromnoise.nn.layers import Conv2d
from fromnoise.nn.lora import LowRank, add_lora, merge
from fromnoise.nn.unet import UNet, UNetConfig

F64 = torch.float64


def layers():
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5)).double(), nn.Sequential(Conv2d(4, 7, 3, padding=1)).double()


def trained(parameters, generator):
    """The changes, as if they had been trained."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=F64))


def test_lora(generator):
    """Number by number: W + alpha / k times the sum over the k columns of B and rows of A."""
    weight = torch.randn(5, 3, 2, 2, generator=generator, dtype=F64)
    change = LowRank(weight, rank=2, alpha=6.0, generator=generator)
    trained(change.parameters(), generator)
    got = change(weight)
    for d in range(5):
        for c in range(12):
            added = 3.0 * sum(change.B[d, k] * change.A[k, c] for k in range(2))
            torch.testing.assert_close(got.flatten(1)[d, c], weight.flatten(1)[d, c] + added)


def test_lora__starts_at_the_network(generator):
    """B is 0 at first, so nothing is changed; A is not 0, or nothing would ever be."""
    for network, shape in zip(layers(), ((2, 6), (2, 4, 5, 5)), strict=True):
        x = torch.randn(shape, generator=generator, dtype=F64)
        before = network(x)
        added = add_lora(network, 2, ["0"], generator)
        assert torch.equal(network(x), before)
        network(x).square().sum().backward()
        assert any(float(parameter.grad.abs().max()) > 0 for parameter in added)


def test_lora__rank(generator):
    """The change has the rank that was asked for, and no more."""
    network, _ = layers()
    before = network[0].weight.detach().clone()
    trained(add_lora(network, 3, ["0"], generator), generator)
    assert int(torch.linalg.matrix_rank(network[0].weight - before)) == 3


def test_lora__merge(generator):
    """Merged, the network computes the same, and has the same names and shapes of weights as before."""
    for network, shape in zip(layers(), ((2, 6), (2, 4, 5, 5)), strict=True):
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        x = torch.randn(shape, generator=generator, dtype=F64)
        before = network(x)
        trained(add_lora(network, 2, ["0"], generator, alpha=1.0), generator)
        changed = network(x)
        assert bool(((changed - before).abs() > 1e-6).all())
        merge(network)
        torch.testing.assert_close(network(x), changed, rtol=1e-12, atol=1e-12)
        assert {name: value.shape for name, value in network.state_dict().items()} == shapes


def test_lora__only_the_change_is_trained(generator):
    """Of a whole U-Net: the frozen weights have no gradient, and the new ones are k (rows + columns) for each layer."""
    config = UNetConfig(sample_size=8, channels=(8, 16), attention_levels=(False, True), norm_groups=8, head_dim=8)
    network = UNet(config)
    old = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = [layer for name, layer in network.named_modules() if name.endswith((".to_q", ".conv1"))]
    expected = sum(3 * (layer.weight.shape[0] + layer.weight[0].numel()) for layer in chosen)
    added = add_lora(network, 3, ["to_q", "conv1"], generator)
    assert sum(parameter.numel() for parameter in added) == expected
    nn.init.ones_(network.conv_out.weight)
    network(torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([3.0, 700.0])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == any(parameter is one for one in added), name
    merge(network)
    kept = network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in old.items() if name != "conv_out.weight")
    assert kept.keys() == old.keys()


@pytest.mark.parametrize("alpha", [1.0, 8.0])
def test_lora__alpha(alpha, generator):
    """The change grows with alpha, and falls with the rank that it is divided by."""
    weight = torch.zeros(4, 4, dtype=F64)
    change = LowRank(weight, rank=4, alpha=alpha, generator=generator)
    trained(change.parameters(), generator)
    torch.testing.assert_close(change(weight), alpha / 4 * change.B @ change.A)
