"""A ``UNet2DConditionModel`` config is translated exactly, or refused by the name of the key."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from small_sd import OF_SD15

from fromnoise.errors import UserError
from fromnoise.interop.unet import (
    modern_unet_state,
    unet_config_from_diffusers,
    unet_config_to_diffusers,
)
from fromnoise.nn.unet import UNet, UNetConfig

SD15 = {  # stable-diffusion-v1-5, unet/config.json
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
INPAINTING = SD15 | {"_diffusers_version": "0.6.0.dev0", "in_channels": 9}  # stable-diffusion-inpainting
SD21_BASE = SD15 | {  # stable-diffusion-2-1-base
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
SD21 = SD21_BASE | {"sample_size": 96, "upcast_attention": True}  # stable-diffusion-2-1
SDXL = SD15 | {  # stable-diffusion-xl-base-1.0
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
PUBLISHED = {"SD 1.5": SD15, "SD 1.5 inpainting": INPAINTING, "SD 2.1 base": SD21_BASE, "SD 2.1": SD21}

OF_SD21 = replace(OF_SD15, sample_size=96, context_dim=1024, heads=(5, 10, 20, 20), linear_projection=True)
CONFIGS = {
    "SD 1.5": OF_SD15,
    "SD 1.5 inpainting": replace(OF_SD15, in_channels=9),
    "SD 2.1 base": replace(OF_SD21, sample_size=64),
    "SD 2.1": replace(OF_SD21, upcast_attention=True),
}


def read(content):
    return unet_config_from_diffusers(content, "here.json")


def refusal(**changes):
    """The message with which SD 1.5's config is refused after these changes."""
    with pytest.raises(UserError) as caught:
        read(SD15 | changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
    assert read(PUBLISHED[name]) == CONFIGS[name]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("SD 1.5", 859_520_964),
        ("SD 1.5 inpainting", 859_535_364),
        ("SD 2.1 base", 865_910_724),
        ("SD 2.1", 865_910_724),
    ],
)
def test_parameters(name, count):
    """As many as the published networks have, in tensors of the same names and shapes as diffusers' class."""
    with torch.device("meta"):
        ours = UNet(read(PUBLISHED[name]))
        theirs = UNet2DConditionModel.from_config(PUBLISHED[name])
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    shapes = ({key: tensor.shape for key, tensor in unet.state_dict().items()} for unet in (ours, theirs))
    assert next(shapes) == next(shapes)


def test_what_is_left_out_takes_the_default_of_its_own_class():
    assert read({"_class_name": "UNet2DConditionModel", "sample_size": 64}) == replace(OF_SD15, context_dim=1280)


@pytest.mark.parametrize(
    "config",
    [
        *CONFIGS.values(),
        replace(OF_SD15, scale_shift=True, num_class_embeds=7, norm_groups=16, norm_eps=1e-6, layers_per_block=1),
        replace(OF_SD15, attention_levels=(False, True, False, True), flip_sin_to_cos=False, freq_shift=1),
        replace(OF_SD15, downsample_padding=0, heads=(1, 2, 4, 8)),
    ],
)
def test_round_trip(config):
    file = json.dumps(unet_config_to_diffusers(config))
    assert read(json.loads(file)) == config


@pytest.mark.parametrize(
    "inert",
    [
        {"dropout": 0.3},
        {"_name_or_path": "somewhere"},
        {"act_fn": "swish"},
        {"time_embedding_dim": 1280},
        {"sample_size": [64, 64]},
        {"layers_per_block": [2, 2, 2, 2]},
        {"cross_attention_dim": [768] * 4},
        {"attention_head_dim": [8] * 4},
        {"transformer_layers_per_block": [1, 1, 1, 1]},
        {"only_cross_attention": [False] * 4},
        {"mid_block_only_cross_attention": False},
        {"mid_block_type": "UNetMidBlock2DCrossAttn"},
        {"upcast_attention": None},
        {"addition_time_embed_dim": 256},
        {"addition_embed_type_num_heads": 32},
        {"projection_class_embeddings_input_dim": 2816},
        {"resnet_out_scale_factor": 1},
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(inert):
    assert read(SD15 | inert) == OF_SD15


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "gelu"),
        ("addition_embed_type", "image"),
        ("attention_type", "gated"),
        ("center_input_sample", True),
        ("class_embed_type", "projection"),
        ("class_embeddings_concat", True),
        ("conv_in_kernel", 1),
        ("conv_out_kernel", 1),
        ("cross_attention_dim", [768, 768, 768, 1024]),
        ("cross_attention_norm", "layer_norm"),
        ("dual_cross_attention", True),
        ("encoder_hid_dim", 4096),
        ("encoder_hid_dim_type", "text_proj"),
        ("layers_per_block", [2, 2, 2, 1]),
        ("mid_block_only_cross_attention", True),
        ("mid_block_scale_factor", 2),
        ("mid_block_type", None),
        ("mid_block_type", "UNetMidBlock2D"),
        ("num_attention_heads", 8),
        ("resnet_out_scale_factor", 1.4),
        ("resnet_skip_time_act", True),
        ("resnet_time_scale_shift", "ada_group"),
        ("reverse_transformer_layers_per_block", [1, 1, 1, 1]),
        ("sample_size", [64, 96]),
        ("time_cond_proj_dim", 256),
        ("time_embedding_act_fn", "silu"),
        ("time_embedding_dim", 640),
        ("time_embedding_type", "fourier"),
        ("timestep_post_act", "silu"),
        ("transformer_layers_per_block", 2),
        ("up_block_types", ["CrossAttnUpBlock2D"] * 4),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}: {json.dumps(value)} is not supported: it should be ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_head_dim", None),
        ("attention_head_dim", [8, 0, 8, 8]),
        ("cross_attention_dim", "768"),
        ("down_block_types", ["AttnDownBlock2D"] * 4),
        ("only_cross_attention", [True, True, True, False]),
        ("transformer_layers_per_block", [1, 2, 10, 10]),
        ("upcast_attention", 1),
        ("use_linear_projection", "yes"),
        ("norm_num_groups", None),
        ("sample_size", None),
    ],
)
def test_wrong_type_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}")


def test_sdxl_is_named():
    assert refusal(**SDXL).startswith('here.json: addition_embed_type: "text_time" is not supported: ')
    assert "SDXL" in refusal(**SDXL)


def test_unknown_key_is_refused_by_name():
    assert refusal(add_attention=True) == "here.json: unknown key add_attention"


def test_numbers_that_do_not_fit_together():
    assert refusal(attention_head_dim=7) == "here.json: channels 320 is not a multiple of heads 7"
    assert refusal(attention_head_dim=[5, 10, 20]) == "here.json: 3 heads for 4 levels of channels"


@pytest.mark.parametrize("linear", [False, True])
def test_projections_of_other_releases(linear):
    """1x1 convolutions that became linear layers, and the reverse, keep their numbers; nothing else is touched."""
    sizes = {"sample_size": 8, "channels": (8, 16), "attention_levels": (True, False), "norm_groups": 4}
    config = UNetConfig(**sizes, context_dim=6, heads=(2, 4), linear_projection=linear)
    other = UNet(replace(config, linear_projection=not linear)).state_dict()
    state, wanted = modern_unet_state(other, config), UNet(config).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {key: x.shape for key, x in wanted.items()}
    assert all(bool((state[key].flatten() == tensor.flatten()).all()) for key, tensor in other.items())
    again = modern_unet_state(state, config)
    assert all(again[key] is tensor or again[key].shape == tensor.shape for key, tensor in state.items())
    assert (
        sum(other[key].shape != state[key].shape for key in other) == 2 * 6
    )  # of 5 blocks at a level, 1 in the middle
    damaged = dict.fromkeys(other, torch.zeros(3))
    assert all(modern_unet_state(damaged, config)[key] is damaged[key] for key in damaged)
