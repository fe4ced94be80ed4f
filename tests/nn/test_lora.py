"""What is refused when layers are given a change of low rank."""

import pytest
import torch
from torch import nn

from fromnoise.errors import UserError
from fromnoise.nn.lora import add_lora, merge


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def network():
    return nn.ModuleDict({"to_q": nn.Linear(4, 4), "not_to_q": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})


def test_a_name_is_the_end_of_a_layers_name(generator):
    """``to_q`` is not the end of ``not_to_q``, and a layer without a matrix is no layer here."""
    changed = network()
    added = add_lora(changed, 1, ["to_q"], generator)
    assert [parameter.shape for parameter in added] == [(1, 4), (4, 1)]
    assert not changed["not_to_q"].weight.requires_grad
    with pytest.raises(UserError, match="no layer is called norm"):
        add_lora(network(), 1, ["norm"], generator)


def test_what_is_refused_leaves_the_network_as_it_was(generator):
    untouched = network()
    for rank, names, message in ((0, ["to_q"], "rank 0"), (1, ["to_q", "to_z"], "no layer is called to_z")):
        with pytest.raises(UserError, match=message):
            add_lora(untouched, rank, names, generator)
        assert all(parameter.requires_grad for parameter in untouched.parameters())
        assert list(untouched.state_dict()) == list(network().state_dict())


def test_twice_is_refused_until_merged(generator):
    changed = network()
    add_lora(changed, 1, ["to_q"], generator)
    with pytest.raises(UserError, match="merge them first"):
        add_lora(changed, 1, ["not_to_q"], generator)
    merge(changed)
    assert len(add_lora(changed, 2, ["not_to_q"], generator)) == 2


def test_a_is_drawn_from_the_generator(generator):
    one, other = (add_lora(network(), 2, ["to_q"], torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[0], add_lora(network(), 2, ["to_q"], generator)[0])
