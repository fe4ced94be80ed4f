"""The text encoder computes what transformers' ``CLIPTextModel`` computes, with its weights under its names."""

import pytest
import torch
from parity import randomise, relative_error
from transformers import CLIPTextConfig, CLIPTextModel

from fromnoise.interop.text_encoder import modern_text_encoder_state, text_encoder_config_from_transformers
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 48,
    "eos_token_id": 49,
}

VARIANTS = {
    "quick_gelu": {"hidden_act": "quick_gelu"},
    "gelu": {"hidden_act": "gelu"},
    "single_head": {"num_attention_heads": 1},
    "large_epsilon": {"layer_norm_eps": 1e-2},
    "short": {"max_position_embeddings": 9},
}


def both(**changes):
    """The same network with the same random weights, theirs and ours."""
    there = randomise(CLIPTextModel(CLIPTextConfig(**SMALL | changes)))
    here = TextEncoder(text_encoder_config_from_transformers(there.config.to_diff_dict()))
    here.load_state_dict(modern_text_encoder_state(there.state_dict()), strict=True)
    return there, here.eval()


def tokens(length=77):
    """Two texts, of which the second ends early and is padded with the id 0, as for Stable Diffusion 2."""
    drawn = torch.randint(1, 48, (2, length), generator=torch.Generator().manual_seed(1))
    drawn[:, 0], drawn[0, -1], drawn[1, 5] = 48, 49, 49
    drawn[1, 6:] = 0
    return drawn


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_equals_transformers(variant):
    there, here = both(**VARIANTS[variant])
    ids = tokens(here.config.max_length)
    found = here(ids)
    assert found.shape == (2, here.config.max_length, 32)
    assert relative_error(found, there(ids).last_hidden_state) < 1e-5


@torch.no_grad()
def test_shorter_texts():
    there, here = both()
    assert relative_error(here(tokens(10)), there(tokens(10)).last_hidden_state) < 1e-5


@pytest.mark.parametrize(
    "change", [{"activation": "gelu"}, {"heads": 2}, {"norm_eps": 1e-3}], ids=lambda change: next(iter(change))
)
@torch.no_grad()
def test_parity_would_notice_another_number(change):
    """Those fields that change no shape: the error of a wrong one is far above the tolerance."""
    sizes = {"vocabulary": 50, "width": 32, "mlp_width": 80, "layers": 3, "heads": 4}
    right, wrong = (randomise(TextEncoder(TextEncoderConfig(**sizes | other))) for other in ({}, change))
    assert relative_error(wrong(tokens()), right(tokens())) > 1e-4


def test_names_of_older_releases():
    """Each began with ``text_model.``."""
    _, here = both()
    old = {f"text_model.{key}": tensor for key, tensor in here.state_dict().items()}
    for state in (old, here.state_dict()):
        modern = modern_text_encoder_state(state)
        assert modern.keys() == here.state_dict().keys()
        assert all(torch.equal(modern[key], tensor) for key, tensor in here.state_dict().items())


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (TextEncoderConfig(), 123_060_480),  # Stable Diffusion 1
        (TextEncoderConfig(width=1024, mlp_width=4096, heads=16, layers=23, activation="gelu"), 340_387_840),  # and 2
    ],
)
def test_stable_diffusion_has_these_sizes(config, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in TextEncoder(config).parameters()) == parameters
