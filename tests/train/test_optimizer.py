"""The optimiser: which weights Muon moves and how, and that nothing it remembers is lost."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from fromnoise.nn.autoencoder import Autoencoder, AutoencoderConfig
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.train.config import LoopConfig
from fromnoise.train.optimizer import Optimizer, as_matrix, learning_rate_at

MUON = LoopConfig(optimizer="muon", learning_rate=1e-2)


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(
        sample_size=8, channels=(16, 32), attention_levels=(False, True), norm_groups=8, num_class_embeds=3
    )
    network = UNet(config).to(memory_format=torch.channels_last)
    for parameter in network.parameters():  # nothing at 0, so that each weight has a gradient
        nn.init.normal_(parameter, std=0.1)
    return network


def give_gradients(network: UNet, seed: int) -> None:
    torch.manual_seed(seed)
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    network(x.contiguous(memory_format=torch.channels_last), torch.arange(4), labels).square().mean().backward()


def test_a_convolution_as_a_matrix():
    """Its product with a patch is what the convolution makes of the patch; and it is the same memory."""
    convolution = nn.Conv2d(3, 5, 3, bias=False).to(memory_format=torch.channels_last)
    matrix = as_matrix(convolution.weight.detach())
    patch = torch.randn(1, 3, 3, 3)
    by_matrix = matrix @ patch.permute(0, 2, 3, 1).flatten()
    assert torch.allclose(by_matrix, convolution(patch).flatten(), atol=1e-6)
    matrix.zero_()
    assert not convolution.weight.any()


def test_steps_of_matrices_are_orthogonal_and_as_long_as_said(network):
    """The singular values of a Muon step are about 1 each, but for the faintest, times the scale."""
    before = copy.deepcopy(dict(network.named_parameters()))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    Optimizer(network, MUON).step(1e-2)
    checked = 0
    for name, weight in network.named_parameters():
        moved = weight.detach() - before[name].detach()
        assert moved.any(), name
        if weight.ndim < 2 or not name.startswith(("down_blocks", "mid_block", "up_blocks")):
            assert 0.9e-2 < moved.abs().max() < 1.1e-2, name  # AdamW's first step is the sign, times the rate
            continue
        matrix = as_matrix(moved)
        values = torch.linalg.svdvals(matrix) / (1e-2 * 0.2 * max(matrix.shape) ** 0.5)
        assert values.max() < 1.3, name
        assert (values > 0.6).double().mean() > 0.85, name
        checked += 1
    assert checked == 12 * 3 + 7 + 6 * 4 + 2  # residual blocks, their shortcuts, attention, down- and upsampling


def test_muon_moves_the_middle_of_every_kind_of_network(network):
    """Of U-Nets, autoencoders and transformers, wherever in a network these stand, but not next to a picture."""

    def moved(there: nn.Module) -> set[str]:
        return set(Optimizer(there.to(memory_format=torch.channels_last), MUON).matrices)

    def matrices(there: nn.Module) -> set[str]:
        return {name for name, weight in there.named_parameters() if weight.ndim >= 2}

    assert all(name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for name in moved(network))
    autoencoder = Autoencoder(AutoencoderConfig(sample_size=8, channels=(8, 16), norm_groups=4))
    ends = {f"{part}.conv_{end}.weight" for part in ("encoder", "decoder") for end in ("in", "out")}
    assert matrices(autoencoder) - moved(autoencoder) == ends | {"quant_conv.weight", "post_quant_conv.weight"}
    encoder = TextEncoder(TextEncoderConfig(vocabulary=20, width=16, mlp_width=32, layers=2, heads=2, max_length=8))
    embeddings = {f"embeddings.{name}_embedding.weight" for name in ("token", "position")}
    assert matrices(encoder) - moved(encoder) == embeddings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_is_torchs_in_the_precision_of_the_run(network, dtype, monkeypatch):
    """Bit for bit. Torch's own computes in bf16 always, so for fp32 its conversion is taken away."""
    if dtype == torch.float32:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    ours = Optimizer(network, dataclasses.replace(MUON, weight_decay=0.1), dtype)
    theirs = {name: nn.Parameter(matrix.clone()) for name, matrix in ours.matrices.items()}
    oracle = torch.optim.Muon(theirs.values(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed, rate in enumerate((1e-2, 2e-2, 1e-3)):
        give_gradients(network, seed)
        for name, matrix in theirs.items():
            matrix.grad = as_matrix(network.get_parameter(name).grad).clone()
        oracle.param_groups[0]["lr"] = rate
        ours.step(rate)
        oracle.step()
    for name, matrix in theirs.items():
        assert as_matrix(network.get_parameter(name)).equal(matrix), name
        assert ours.state()[f"momentum_buffer.{name}"].equal(oracle.state[matrix]["momentum_buffer"])


@pytest.mark.parametrize("settings", [MUON, dataclasses.replace(MUON, optimizer="adamw")])
def test_what_it_remembers_goes_with_the_checkpoint(network, settings):
    optimizer = Optimizer(network, settings)
    for seed in range(3):
        give_gradients(network, seed)
        optimizer.step(1e-2)
    assert optimizer.never_had_gradient() == []
    twin = copy.deepcopy(network)
    resumed = Optimizer(twin, settings)
    assert len(resumed.never_had_gradient()) == len(list(twin.parameters()))
    for name, value in resumed.state().items():
        value.copy_(optimizer.state()[name])
    for one, its_optimizer in ((network, optimizer), (twin, resumed)):
        give_gradients(one, 4)
        its_optimizer.step(1e-2)
    for (name, weight), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert weight.equal(other), name


def test_one_that_never_learned_is_named(network):
    optimizer = Optimizer(network, MUON)
    give_gradients(network, 0)
    for name in ("mid_block.resnets.0.conv1.weight", "conv_in.bias"):
        network.get_parameter(name).grad = None
    optimizer.step(1e-2)
    assert sorted(optimizer.never_had_gradient()) == ["conv_in.bias", "mid_block.resnets.0.conv1.weight"]


def test_a_copy_is_not_moved_in_silence(network):
    with pytest.raises(ValueError, match="conv1.weight is not channels-last"):
        Optimizer(network.to(memory_format=torch.contiguous_format), MUON)


def test_learning_rate_rises_then_falls_to_its_floor():
    config = LoopConfig(steps=100, warmup_steps=10, learning_rate=2.0)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 * 0.5))
    assert rates[100] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)
