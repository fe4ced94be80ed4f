"""The autoencoder computes what diffusers' ``AutoencoderKL`` computes, with its weights under its names."""

import pytest
import torch
from diffusers import AutoencoderKL
from parity import randomise, relative_error

from fromnoise.interop.autoencoder import autoencoder_config_from_diffusers, modern_autoencoder_state
from fromnoise.nn.autoencoder import Autoencoder, AutoencoderConfig

SMALL = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
    "sample_size": 16,
}

VARIANTS = {
    "two_levels": {},
    "four_levels": {
        "block_out_channels": (8, 16, 32, 32),  # as in Stable Diffusion, whose widths are 16 times these
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    },
    "one_level": {
        "block_out_channels": (16,),
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    },
    "grey": {"in_channels": 1, "out_channels": 2, "latent_channels": 3},
    "no_attention": {"mid_block_add_attention": False},
    "no_quant_conv": {"use_quant_conv": False},
    "no_post_quant_conv": {"use_post_quant_conv": False},
}
MEMORY_FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


def both(**changes):
    """The same network with the same random weights, theirs and ours."""
    there = randomise(AutoencoderKL(**SMALL | changes))
    config = autoencoder_config_from_diffusers({"_class_name": "AutoencoderKL", **there.config})
    here = Autoencoder(config)
    here.load_state_dict(there.state_dict(), strict=True)
    return there, here.eval()


def images(config, height=16, width=16):
    return torch.rand((2, config.in_channels, height, width), generator=torch.Generator().manual_seed(1)) * 2 - 1


@MEMORY_FORMATS
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_equals_diffusers(variant, memory_format):
    there, here = both(**VARIANTS[variant])
    here = here.to(memory_format=memory_format)
    x = images(here.config)
    mean, log_variance = here.encode(x.to(memory_format=memory_format))
    expected = there.encode(x).latent_dist
    factor = here.config.size_multiple
    assert mean.shape == (2, here.config.latent_channels, 16 // factor, 16 // factor)
    assert relative_error(mean, expected.mean) < 1e-5
    assert relative_error(log_variance, expected.logvar) < 1e-5
    assert relative_error(here.decode(expected.mean), there.decode(expected.mean).sample) < 1e-5


@torch.no_grad()
def test_other_sizes_than_the_training_size():
    there, here = both()
    x = images(here.config, 12, 24)
    mean, _ = here.encode(x)
    assert relative_error(mean, there.encode(x).latent_dist.mean) < 1e-5
    assert relative_error(here.decode(mean), there.decode(mean).sample) < 1e-5


@torch.no_grad()
def test_log_variance_is_clamped_as_by_diffusers():
    there, here = both()
    for network in (there, here):
        network.quant_conv.bias[4:] = torch.tensor([-100.0, 100.0, 0.0, 0.0])  # mean, then log-variance
    x = images(here.config)
    _, log_variance = here.encode(x)
    assert (log_variance[:, 0] == -30).all() and (log_variance[:, 1] == 20).all()
    assert relative_error(log_variance, there.encode(x).latent_dist.logvar) < 1e-5


@torch.no_grad()
def test_names_of_older_releases():
    """What diffusers wrote before its release 0.16, and the attention of the CompVis release, 1x1 convolutions."""
    _, here = both()
    legacy = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, tensor in here.state_dict().items():
        renamed = key
        for modern, before in legacy.items():
            renamed = renamed.replace(f".{modern}.", f".{before}.")
        old[renamed] = tensor[:, :, None, None] if renamed != key and tensor.ndim == 2 else tensor
    changed = [key for key in old if key not in here.state_dict()]
    assert len(changed) == 16 and sum(old[key].ndim == 4 for key in changed) == 8  # encoder and decoder, q k v out
    modern = modern_autoencoder_state(old)
    assert modern.keys() == here.state_dict().keys()
    assert all(torch.equal(modern[key], tensor) for key, tensor in here.state_dict().items())
    assert modern_autoencoder_state(here.state_dict()).keys() == here.state_dict().keys()


def test_stable_diffusion_has_these_sizes():
    """Its published number of parameters, and the sizes of a picture and its latents."""
    with torch.device("meta"):
        network = Autoencoder(AutoencoderConfig())
        assert sum(parameter.numel() for parameter in network.parameters()) == 83_653_863
        mean, log_variance = network.encode(torch.empty(1, 3, 512, 512))
        assert mean.shape == log_variance.shape == (1, 4, 64, 64)
        assert network.decode(mean).shape == (1, 3, 512, 512)
