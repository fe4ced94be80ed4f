"""A ``UNet2DModel`` config is translated exactly, or refused by the name of the key."""

import inspect
import json
from dataclasses import asdict

import pytest
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.training_utils import EMAModel

from fromnoise.errors import UserError
from fromnoise.interop.unet import (
    OF_AVERAGES,
    UNet2DConditionModelFile,
    UNet2DModelFile,
    unet_config_from_diffusers,
    unet_config_to_diffusers,
)
from fromnoise.nn.unet import UNetConfig

SMALL = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}

LEGACY = {  # google/ddpm-cifar10-32/config.json
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def refusal(**changes):
    """The message with which the small config is refused after these changes."""
    with pytest.raises(UserError) as caught:
        unet_config_from_diffusers(SMALL | changes, "here.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_legacy_config():
    assert unet_config_from_diffusers(LEGACY) == UNetConfig(
        in_channels=3,
        out_channels=3,
        sample_size=32,
        channels=(128, 256, 256, 256),
        attention_levels=(False, True, False, False),
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [(UNet2DModelFile, UNet2DModel), (UNet2DConditionModelFile, UNet2DConditionModel)]
)
def test_keys_and_defaults_are_those_of_diffusers(ours, theirs):
    signature = inspect.signature(theirs.__init__).parameters
    defaults = {key: signature[key].default for key in signature if key != "self"}
    averaged = EMAModel([], model_cls=theirs).state_dict().keys() - {"shadow_params"}
    assert averaged == set(OF_AVERAGES)
    assert asdict(ours()) == defaults | dict.fromkeys(averaged)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(in_channels=3, out_channels=6, num_class_embeds=11, scale_shift=True, head_dim=32),
        UNetConfig(
            sample_size=8, channels=(32, 64), attention_levels=(True, False), middle_attention=False, layers_per_block=1
        ),
        UNetConfig(norm_groups=8, norm_eps=1e-6, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0),
    ],
)
def test_round_trip(config):
    file = json.dumps(unet_config_to_diffusers(config))
    assert unet_config_from_diffusers(json.loads(file)) == config


@pytest.mark.parametrize(
    "inert",
    [
        {"dropout": 0.3},
        {"num_train_timesteps": 17},
        {"_name_or_path": "somewhere"},
        {"act_fn": "swish"},
        {"time_embedding_dim": 128},
        {"time_embedding_dim": None},
        {"mid_block_scale_factor": 1.0},
        {"attn_norm_num_groups": 32},
        {"attn_norm_num_groups": None},
        {"sample_size": [8, 8]},
        {"class_embed_type": None},
        {"resnet_time_scale_shift": "default"},
        {"norm_eps": 1e-5},
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(inert):
    assert unet_config_from_diffusers(SMALL | inert) == unet_config_from_diffusers(SMALL)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "gelu"),
        ("center_input_sample", True),
        ("class_embed_type", "timestep"),
        ("time_embedding_type", "fourier"),
        ("time_embedding_dim", 64),
        ("mid_block_scale_factor", 2),
        ("mid_block_type", None),
        ("downsample_type", "resnet"),
        ("upsample_type", "resnet"),
        ("attn_norm_num_groups", 8),
        ("resnet_time_scale_shift", "ada_group"),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("downsample_padding", 2),
        ("sample_size", [8, 16]),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}: {json.dumps(value)} is not supported: it should be ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("in_channels", "3"),
        ("out_channels", True),
        ("layers_per_block", 0),
        ("block_out_channels", []),
        ("block_out_channels", [32, "64"]),
        ("down_block_types", "DownBlock2D"),
        ("down_block_types", ["DownBlock2D", "ResnetDownsampleBlock2D"]),
        ("add_attention", 1),
        ("norm_eps", None),
        ("norm_num_groups", None),
        ("flip_sin_to_cos", "yes"),
        ("dropout", "none"),
        ("sample_size", None),
        ("sample_size", [8, 8, 8]),
        ("center_input_sample", 0),
        ("downsample_padding", 1.0),
        ("num_class_embeds", [11]),
        ("in_channels", 10**9),
        ("out_channels", 2**63),
        ("block_out_channels", [32, 10**9]),
        ("block_out_channels", [32] * 1000),
        ("layers_per_block", 10**6),
        ("num_class_embeds", 10**12),
        ("sample_size", 2**30),
        ("sample_size", [2**30, 2**30]),
        ("norm_eps", 0),
        ("norm_eps", -1e-5),
        ("norm_eps", 1e30),
        ("freq_shift", 1e9),
    ],
)
def test_wrong_type_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}")


def test_unknown_key_is_refused_by_name():
    assert refusal(cross_attention_dim=768) == "here.json: unknown key cross_attention_dim"


def test_missing_size_is_refused_by_name():
    without = {key: value for key, value in SMALL.items() if key != "sample_size"}
    with pytest.raises(UserError, match="sample_size: null"):
        unet_config_from_diffusers(without)


def test_other_classes():
    assert refusal(_class_name="VQModel").startswith('here.json: _class_name: "VQModel"')
    assert refusal(_class_name=None).startswith("here.json: _class_name: null")


def test_numbers_that_do_not_fit_together():
    assert "norm_groups 24" in refusal(norm_num_groups=24)
    assert "3 levels" in refusal(block_out_channels=[32, 64, 64])
    assert "sample_size 7" in refusal(sample_size=7)
    assert "channels 2 leave" in refusal(block_out_channels=[2, 2], norm_num_groups=1, freq_shift=1)


def test_scale_shift_without_middle_normalisation_is_refused():
    """With scale_shift, diffusers reads a null attn_norm_num_groups as no normalisation in the middle attention."""
    shifted = SMALL | {"resnet_time_scale_shift": "scale_shift"}
    public = {key: value for key, value in shifted.items() if key != "_class_name"}
    assert UNet2DModel(**public).mid_block.attentions[0].group_norm is None
    assert refusal(resnet_time_scale_shift="scale_shift").startswith("here.json: attn_norm_num_groups: null")
    assert unet_config_from_diffusers(shifted | {"attn_norm_num_groups": 32}).scale_shift
    assert unet_config_from_diffusers(shifted | {"add_attention": False}).scale_shift
