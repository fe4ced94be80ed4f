"""A ``CLIPTextModel`` config is translated exactly, or refused by the name of the key."""

import json
from dataclasses import asdict

import pytest
from transformers import CLIPTextConfig

from fromnoise.errors import UserError
from fromnoise.interop.text_encoder import (
    CLIPTextFile,
    text_encoder_config_from_transformers,
    text_encoder_config_to_transformers,
)
from fromnoise.nn.text_encoder import TextEncoderConfig

STABLE_DIFFUSION_1 = {  # text_encoder/config.json
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
STABLE_DIFFUSION_2 = STABLE_DIFFUSION_1 | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}


def refusal(**changes):
    """The message with which the config is refused after these changes."""
    with pytest.raises(UserError) as caught:
        text_encoder_config_from_transformers(STABLE_DIFFUSION_1 | changes, "here.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_stable_diffusion():
    assert text_encoder_config_from_transformers(STABLE_DIFFUSION_1) == TextEncoderConfig()
    assert text_encoder_config_from_transformers(STABLE_DIFFUSION_2) == TextEncoderConfig(
        width=1024, mlp_width=4096, layers=23, heads=16, activation="gelu"
    )


def test_defaults_are_those_of_transformers():
    there = CLIPTextConfig().to_dict()
    ours = asdict(CLIPTextFile())
    assert set(ours) - set(there) <= {"dropout", "torch_dtype"}  # of older releases
    assert {key: ours[key] for key in ours if key in there} == {
        **{key: there[key] for key in ours if key in there},
        "transformers_version": None,
    }


@pytest.mark.parametrize(
    "config",
    [TextEncoderConfig(), TextEncoderConfig(50, 32, 80, 3, 4, 9, "gelu", 1e-3)],
    ids=["stable_diffusion", "small"],
)
def test_round_trip(config):
    content = json.loads(json.dumps(text_encoder_config_to_transformers(config)))
    assert text_encoder_config_from_transformers(content) == config
    there = CLIPTextConfig.from_dict(content)
    assert (there.hidden_act, there.hidden_size, there.num_hidden_layers) == (
        config.activation,
        config.width,
        config.layers,
    )


def test_saved_by_transformers(tmp_path):
    CLIPTextConfig(hidden_size=16, num_attention_heads=2, eos_token_id=[49407, 5]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert text_encoder_config_from_transformers(content) == TextEncoderConfig(width=16, mlp_width=2048, heads=2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "clip"),
        ("hidden_act", "relu"),
        ("hidden_size", "768"),
        ("num_hidden_layers", 0),
        ("layer_norm_eps", None),
        ("vocab_size", True),
    ],
)
def test_what_is_not_supported_is_refused_by_name(key, value):
    assert refusal(**{key: value}).startswith(f"here.json: {key}: {json.dumps(value)} is not supported: it should be ")


def test_other_refusals():
    assert refusal(num_attention_heads=11) == "here.json: width 768 is not a multiple of heads 11"
    assert refusal(use_attention_mask=True) == "here.json: unknown key use_attention_mask"
