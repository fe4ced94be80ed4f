"""An ``AutoencoderKL`` config is translated exactly, or refused by the name of the key."""

import inspect
import json
from dataclasses import asdict

import pytest
from diffusers import AutoencoderKL

from fromnoise.errors import UserError
from fromnoise.interop.autoencoder import (
    AutoencoderKLFile,
    autoencoder_config_from_diffusers,
    autoencoder_config_to_diffusers,
)
from fromnoise.nn.autoencoder import AutoencoderConfig

STABLE_DIFFUSION_1 = {  # vae/config.json of Stable Diffusion 1.4, which leaves the scaling factor out
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def refusal(**changes):
    """The message with which the config is refused after these changes."""
    with pytest.raises(UserError) as caught:
        autoencoder_config_from_diffusers(STABLE_DIFFUSION_1 | changes, "here.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_stable_diffusion():
    assert autoencoder_config_from_diffusers(STABLE_DIFFUSION_1) == AutoencoderConfig()


def test_keys_and_defaults_are_those_of_diffusers():
    signature = inspect.signature(AutoencoderKL.__init__).parameters
    assert asdict(AutoencoderKLFile()) == {key: signature[key].default for key in signature if key != "self"}


@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig(),
        AutoencoderConfig(1, 2, 3, 8, (8, 16), 1, False, False, True, 4, 0.5),
        AutoencoderConfig(channels=(64,), quant_conv=True, post_quant_conv=False),
    ],
    ids=["stable_diffusion", "small", "one_level"],
)
def test_round_trip(config):
    content = json.loads(json.dumps(autoencoder_config_to_diffusers(config)))
    assert autoencoder_config_from_diffusers(content) == config
    assert set(content) - {"_class_name", "_diffusers_version"} == set(asdict(AutoencoderKLFile()))


@pytest.mark.parametrize(
    "inert",
    [{"act_fn": "swish"}, {"force_upcast": False}, {"sample_size": [512, 512]}, {"_name_or_path": "x"}],
    ids=str,
)
def test_what_changes_nothing_is_accepted(inert):
    assert autoencoder_config_from_diffusers(STABLE_DIFFUSION_1 | inert) == AutoencoderConfig()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "AutoencoderTiny"),
        ("act_fn", "gelu"),
        ("shift_factor", 0.1159),
        ("latents_mean", [0.0, 0.0, 0.0, 0.0]),
        ("latents_std", [1.0, 1.0, 1.0, 1.0]),
        ("down_block_types", ["DownEncoderBlock2D"] * 3),
        ("up_block_types", ["UpDecoderBlock2D"] * 5),
        ("up_block_types", ["AttnUpDecoderBlock2D"] * 4),
        ("scaling_factor", 0.0),
        ("latent_channels", "4"),
        ("layers_per_block", 0),
        ("mid_block_add_attention", 1),
        ("block_out_channels", []),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}")


def test_numbers_that_do_not_fit_together():
    assert refusal(norm_num_groups=24) == "here.json: channels 128 is not a multiple of norm_groups 24"
    assert refusal(double_z=True) == "here.json: unknown key double_z"
