"""A ``CLIPModel`` config is translated exactly, or refused by the name of the key."""

import json
from dataclasses import asdict

import pytest
from transformers import CLIPConfig, CLIPVisionConfig

from fromnoise.errors import UserError
from fromnoise.interop.clip import (
    CLIPFile,
    CLIPVisionFile,
    clip_config_from_transformers,
    clip_config_to_transformers,
)
from fromnoise.nn.clip import ClipConfig
from fromnoise.nn.image_encoder import ImageEncoderConfig
from fromnoise.nn.text_encoder import TextEncoderConfig

SMALL = ClipConfig(
    TextEncoderConfig(50, 32, 80, 3, 4, 9, "gelu", 1e-3),
    ImageEncoderConfig(1, 16, 4, 24, 60, 2, 3, "gelu", 1e-2),
    20,
    49,
)


@pytest.mark.parametrize("config", [ClipConfig(), SMALL], ids=["vit_b_32", "small"])
def test_round_trip(config):
    content = json.loads(json.dumps(clip_config_to_transformers(config)))
    assert clip_config_from_transformers(content) == config
    there = CLIPConfig.from_dict(content)
    assert clip_config_from_transformers(there.to_diff_dict()) == config
    assert (there.vision_config.image_size, there.vision_config.patch_size) == (
        config.image.size,
        config.image.patch_size,
    )
    assert (there.text_config.eos_token_id, there.projection_dim) == (config.eos, config.embedding)


def test_what_is_left_out_is_as_in_transformers():
    assert clip_config_from_transformers(CLIPConfig().to_diff_dict()) == ClipConfig()
    assert clip_config_from_transformers({"model_type": "clip"}) == ClipConfig()
    for ours, there in [(CLIPFile(), CLIPConfig().to_dict()), (CLIPVisionFile(), CLIPVisionConfig().to_dict())]:
        mine = {key: value for key, value in asdict(ours).items() if key not in ("dropout", "torch_dtype")}
        nested = ("text_config", "vision_config", "transformers_version")
        assert {key: value for key, value in mine.items() if key not in nested} == {
            key: there[key] for key in mine if key not in nested
        }


def test_saved_by_transformers(tmp_path):
    CLIPConfig(vision_config={"patch_size": 16}).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert clip_config_from_transformers(content) == ClipConfig(image=ImageEncoderConfig(patch_size=16))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "siglip"}, 'here.json: model_type: "siglip" is not supported'),
        ({"projection_dim": 0}, "here.json: projection_dim: 0 is not supported"),
        ({"pooling": "mean"}, "here.json: unknown key pooling"),
        ({"vision_config": {"hidden_act": "relu"}}, 'here.json: vision_config: hidden_act: "relu" is not supported'),
        ({"vision_config": {"patch_size": 300}}, "here.json: vision_config: patch_size 300 is larger than the images"),
        ({"text_config": {"vocab_size": "x"}}, 'here.json: text_config: vocab_size: "x" is not supported'),
        ({"text_config": {"eos_token_id": [3, 4]}}, "here.json: text_config: eos_token_id: it should be the id of one"),
    ],
)
def test_refusals(change, expected):
    with pytest.raises(UserError) as caught:
        clip_config_from_transformers({"model_type": "clip"} | change, "here.json")
    assert str(caught.value).startswith(expected)
