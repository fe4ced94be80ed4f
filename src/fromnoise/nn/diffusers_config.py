"""The config file of diffusers' ``UNet2DModel``, translated in both directions, and the rules for reading such files.

A known key at a value that changes nothing is accepted. A key that would change the computation, an unknown key and
a value of the wrong type are refused by name: a network that opens here computes what diffusers computes.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fromnoise.errors import UserError
from fromnoise.nn.unet import UNetConfig

DIFFUSERS_VERSION = "0.42.1"
"""the diffusers release whose files these are"""


@dataclass(frozen=True)
class Rule:
    """Which values of a key are accepted, in words and as a test."""

    expected: str
    accepts: Callable[[Any], bool]


ANYTHING = Rule("anything", lambda value: True)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
COUNT = Rule("a whole number from 1", lambda value: type(value) is int and value >= 1)
NUMBER = Rule("a number", lambda value: type(value) in (int, float) and math.isfinite(value))


def one_of(*values: Any) -> Rule:
    """Only these values; true is not 1 and 1.0 is not 1."""
    accepted = [(type(value), value) for value in values]
    return Rule(" or ".join(json.dumps(value) for value in values), lambda value: (type(value), value) in accepted)


def optional(rule: Rule) -> Rule:
    """The same, or null."""
    return Rule(f"{rule.expected} or null", lambda value: value is None or rule.accepts(value))


def list_of(rule: Rule) -> Rule:
    """A list, not empty, of such values."""
    return Rule(
        f"a list of {rule.expected}",
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(rule.accepts, value)),
    )


def check_keys(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The public keys of a config file; those that begin with an underscore are private.

    Raises:
        UserError: a key without a rule, or a value that its rule does not accept.
    """
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, value in public.items():
        if key not in rules:
            raise UserError(f"unknown key {key}")
        if not rules[key].accepts(value):
            raise refused(key, value, rules[key].expected)
    return public


def refused(key: str, value: Any, expected: str) -> UserError:
    """The one line that names the key, what was found and what would do."""
    return UserError(f"{key}: {json.dumps(value)} is not supported, only {expected}")


_DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D")  # without and with attention
_UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D")

_DEFAULTS = {  # diffusers' own, for the keys that a file leaves out
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [224, 448, 672, 896],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "add_attention": True,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "num_class_embeds": None,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
}

_RULES = {
    # what a UNetConfig is made of
    "sample_size": Rule(
        "a whole number of pixels, height and width alike",
        lambda size: COUNT.accepts(size) or list_of(COUNT).accepts(size) and len(size) == 2 and size[0] == size[1],
    ),
    "in_channels": COUNT,
    "out_channels": COUNT,
    "block_out_channels": list_of(COUNT),
    "down_block_types": list_of(one_of(*_DOWN_BLOCKS)),
    "up_block_types": list_of(one_of(*_UP_BLOCKS)),
    "add_attention": FLAG,
    "layers_per_block": COUNT,
    "attention_head_dim": optional(COUNT),
    "num_class_embeds": optional(COUNT),
    "norm_num_groups": COUNT,
    "attn_norm_num_groups": optional(COUNT),
    "norm_eps": NUMBER,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "time_embedding_dim": optional(COUNT),
    "flip_sin_to_cos": FLAG,
    "freq_shift": NUMBER,
    "downsample_padding": one_of(0, 1),
    # what must be as it is here
    "act_fn": one_of("silu", "swish"),
    "center_input_sample": one_of(False),
    "class_embed_type": one_of(None),
    "downsample_type": one_of("conv"),
    "mid_block_scale_factor": one_of(1, 1.0),
    "mid_block_type": one_of("UNetMidBlock2D"),
    "time_embedding_type": one_of("positional"),
    "upsample_type": one_of("conv"),
    # what changes no prediction
    "dropout": NUMBER,
    "num_train_timesteps": optional(COUNT),
}


def unet_config_from_diffusers(config: Mapping[str, Any]) -> UNetConfig:
    """The `UNetConfig` of a ``config.json`` whose ``_class_name`` is ``UNet2DModel``.

    Raises:
        UserError: the network is another one, or would compute something else; the message names the key.
    """
    if config.get("_class_name") == "UNet2DConditionModel":
        raise UserError("UNet2DConditionModel: text-conditional U-Nets are not supported by this version")
    if config.get("_class_name") != "UNet2DModel":
        raise refused("_class_name", config.get("_class_name"), '"UNet2DModel"')
    values = check_keys(_DEFAULTS | dict(config), _RULES)

    channels, groups = values["block_out_channels"], values["norm_num_groups"]
    if values["time_embedding_dim"] not in (None, 4 * channels[0]):
        raise refused("time_embedding_dim", values["time_embedding_dim"], f"{4 * channels[0]} or null")

    attention_levels = tuple(block == "AttnDownBlock2D" for block in values["down_block_types"])
    mirrored = [_UP_BLOCKS[attend] for attend in reversed(attention_levels)]
    if list(values["up_block_types"]) != mirrored:
        raise refused("up_block_types", values["up_block_types"], f"the mirror of down_block_types, {mirrored}")

    # With scale_shift, null means that the middle attention has no normalisation at all.
    scale_shift = values["resnet_time_scale_shift"] == "scale_shift"
    middle_groups = values["attn_norm_num_groups"]
    if values["add_attention"] and middle_groups != groups and (middle_groups is not None or scale_shift):
        raise refused("attn_norm_num_groups", middle_groups, f"norm_num_groups, {groups}")

    size = values["sample_size"]
    try:
        return UNetConfig(
            in_channels=values["in_channels"],
            out_channels=values["out_channels"],
            sample_size=size if isinstance(size, int) else size[0],
            channels=tuple(channels),
            attention_levels=attention_levels,
            middle_attention=values["add_attention"],
            layers_per_block=values["layers_per_block"],
            head_dim=values["attention_head_dim"],
            num_class_embeds=values["num_class_embeds"],
            norm_groups=groups,
            norm_eps=values["norm_eps"],
            scale_shift=scale_shift,
            flip_sin_to_cos=values["flip_sin_to_cos"],
            freq_shift=values["freq_shift"],
            downsample_padding=values["downsample_padding"],
        )
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(str(problem)) from None


def unet_config_to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The ``config.json`` with which diffusers builds the same network."""
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": [_DOWN_BLOCKS[attend] for attend in config.attention_levels],
        "up_block_types": [_UP_BLOCKS[attend] for attend in reversed(config.attention_levels)],
        "add_attention": config.middle_attention,
        "layers_per_block": config.layers_per_block,
        "attention_head_dim": config.head_dim,
        "num_class_embeds": config.num_class_embeds,
        "norm_num_groups": config.norm_groups,
        "attn_norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": config.freq_shift,
        "downsample_padding": config.downsample_padding,
    }
