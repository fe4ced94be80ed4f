"""A network in another precision is a copy, which takes the memory of its own weights and no more."""

import copy

import torch
from torch import nn
from torch.profiler import profile

from fromnoise.models.placing import placed


def small_network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 512), nn.Linear(512, 512)
    )
    network[4].weight.requires_grad_(False)
    return network


def test_where_it_is_already_a_network_is_itself():
    network = small_network()
    assert placed(network, "cpu", torch.float32) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_in_another_precision_it_is_a_copy():
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    converted = placed(network, "cpu", torch.bfloat16)
    assert type(converted) is nn.Sequential and converted[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in converted.state_dict().items():
        floating = before[name].is_floating_point()
        torch.testing.assert_close(value, before[name].bfloat16() if floating else before[name], rtol=0, atol=0)
    with torch.no_grad():
        for weight in converted.parameters():
            weight.zero_()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    wanted = [weight.requires_grad for weight in network.parameters()]
    assert [weight.requires_grad for weight in converted.parameters()] == wanted and wanted.count(False) == 1


def test_a_weight_that_two_layers_share_is_one_weight_still():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    converted = placed(network, "cpu", torch.bfloat16)
    assert converted[0].weight is converted[1].weight


def test_no_weight_is_copied_before_it_is_converted():
    network = small_network()
    with profile(profile_memory=True) as recorded:
        converted = placed(network, "cpu", torch.bfloat16)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in recorded.key_averages())
    weights = sum(value.nbytes for value in converted.state_dict().values())
    assert 0.9 * weights < taken < 1.1 * weights
