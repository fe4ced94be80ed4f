"""CLIP computes what transformers' ``CLIPModel`` computes, with its weights under its names."""

import pytest
import torch
from parity import randomise, relative_error
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from fromnoise.interop.clip import clip_config_from_transformers
from fromnoise.nn.clip import Clip
from fromnoise.nn.image_encoder import ImageEncoder, ImageEncoderConfig

TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 9,
    "bos_token_id": 48,
    "eos_token_id": 49,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 16,
    "patch_size": 4,
}
VARIANTS = {
    "quick_gelu": ({}, {}),
    "gelu": ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}),
    "epsilon": ({"layer_norm_eps": 1e-2}, {"layer_norm_eps": 1e-3}),
    "patch_left_over": ({}, {"patch_size": 5}),
    "grey": ({}, {"num_channels": 1}),
    "largest_id_ends": ({"eos_token_id": 2}, {}),
}


def both(variant):
    """The same network with the same random weights, theirs and ours."""
    text, vision = VARIANTS[variant]
    there = CLIPModel(CLIPConfig(text_config=TEXT | text, vision_config=VISION | vision, projection_dim=20))
    randomise(there)
    here = Clip(clip_config_from_transformers(there.config.to_diff_dict()))
    here.load_state_dict(there.state_dict(), strict=True)
    return there, here.eval()


def inputs(here):
    """Three images, and texts that end at the last place, early, and twice."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, here.config.image.channels, 16, 16, generator=generator)
    tokens = torch.randint(1, 48, (3, 9), generator=generator)
    tokens[:, 0], tokens[0, -1], tokens[1, 4:], tokens[2, 2], tokens[2, 5] = 48, 49, 49, 49, 49
    return images, tokens


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_equals_transformers(variant):
    there, here = both(variant)
    images, tokens = inputs(here)
    expected = there(input_ids=tokens, pixel_values=images)
    found_images, found_texts = here(images, tokens)
    assert found_images.shape == found_texts.shape == (3, 20)
    assert relative_error(found_images, expected.image_embeds) < 1e-5
    assert relative_error(found_texts, expected.text_embeds) < 1e-5
    assert relative_error(here.similarity(found_images, found_texts), expected.logits_per_image) < 1e-5


@torch.no_grad()
def test_the_image_encoder_alone():
    there = randomise(CLIPVisionModel(CLIPVisionConfig(**VISION)))
    here = ImageEncoder(ImageEncoderConfig(3, 16, 4, 24, 60, 2, 3)).eval()
    here.load_state_dict(there.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert relative_error(here(images), there(images).pooler_output) < 1e-5


@torch.no_grad()
def test_images_see_all_of_themselves_and_texts_what_came_before():
    """The last patch changes what the first becomes; what stands after the end of a text changes nothing."""
    _, here = both("quick_gelu")
    images, tokens = inputs(here)
    before = here(images, tokens)
    images[:, :, -4:, -4:] += 1
    tokens[1, 6] = 3
    tokens[2, 6] = 3
    after = here(images, tokens)
    assert ((after[0] - before[0]).abs().amax(1) > 1e-3).all()
    assert torch.equal(after[1], before[1])


@torch.no_grad()
def test_parity_would_notice_the_other_kind_of_attention():
    _, here = both("quick_gelu")
    images, tokens = inputs(here)
    before = here(images, tokens)
    for tower in (here.text_model, here.vision_model):
        first = tower.encoder["layers"][0].self_attn
        first.attention = (
            (here.vision_model if tower is here.text_model else here.text_model)
            .encoder["layers"][1]
            .self_attn.attention
        )
        after = here(images, tokens)
        assert max(relative_error(a, b) for a, b in zip(after, before, strict=True)) > 1e-3
        before = after


def test_patches_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match="patch_size 32 is larger than the images"):
        ImageEncoderConfig(size=16)
    with pytest.raises(ValueError, match="width 768 is not a multiple of heads 7"):
        ImageEncoderConfig(heads=7)


def test_vit_b_32_has_this_size():
    with torch.device("meta"):
        clip = Clip(clip_config_from_transformers({"model_type": "clip"}))
    assert sum(parameter.numel() for parameter in clip.parameters()) == 151_277_313
