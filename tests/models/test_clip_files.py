"""What a run of a small CLIP leaves behind opens in plain transformers, and here, with the same results."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from fromnoise.interop.tokenizer import read_tokenizer
from fromnoise.interop.vocabulary import learn_vocabulary
from fromnoise.models.clip import open_clip, save_clip
from fromnoise.nn.clip import Clip, ClipConfig
from fromnoise.nn.image_encoder import ImageEncoderConfig
from fromnoise.nn.text_encoder import TextEncoderConfig

CAPTIONS = ["a red seven", "a blue nine on green"] * 2


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def saved(request, tmp_path_factory):
    """A random CLIP as it was before, and the folder that it was saved in."""
    vocabulary = learn_vocabulary(CAPTIONS, 600, 12)
    torch.manual_seed(0)
    text = TextEncoderConfig(len(vocabulary.tokens), 16, 32, 2, 2, 12)
    clip = Clip(ClipConfig(text, ImageEncoderConfig(3, 16, 8, 24, 48, 1, 3), 20, len(vocabulary.tokens) - 1)).eval()
    folder = tmp_path_factory.mktemp("clip")
    save_clip(clip, vocabulary, folder, request.param)
    return clip, folder, request.param


@torch.no_grad()
def test_opens_in_transformers(saved):
    clip, folder, dtype = saved
    there, here = CLIPModel.from_pretrained(folder / "clip"), open_clip(folder / "clip")
    assert {parameter.dtype for parameter in there.parameters()} == {torch.float32}
    words = CLIPTokenizer.from_pretrained(folder / "clip")(CAPTIONS[:2], padding="max_length", return_tensors="pt")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = there(**words, pixel_values=images).logits_per_image
    torch.testing.assert_close(here.similarity(*here(images, words.input_ids)), expected, rtol=1e-5, atol=1e-5)
    before = clip.similarity(*clip(images, words.input_ids))
    assert (before - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.5)
    assert type(AutoModel.from_pretrained(folder / "clip")) is CLIPModel


@torch.no_grad()
def test_the_text_encoder_alone(saved):
    """As diffusers opens it: in float32 unless told otherwise, however it is stored."""
    clip, folder, dtype = saved
    there = CLIPTextModel.from_pretrained(folder / "text_encoder")
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert there.dtype == torch.float32
    tokens = torch.tensor([read_tokenizer(folder / "tokenizer")(caption).ids for caption in CAPTIONS[:2]])
    assert there.config.eos_token_id == tokens[0, -1]
    expected = open_clip(folder / "clip").text_model(tokens)
    torch.testing.assert_close(there(tokens).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    whole = (folder / "text_encoder" / "model.safetensors").stat().st_size
    assert whole < dtype.itemsize * sum(p.numel() for p in clip.text_model.parameters()) + 10_000


def test_pictures_are_prepared_as_they_were_trained(saved):
    """0 becomes -1 and 255 becomes 1; larger ones are resized and cropped."""
    processor = CLIPImageProcessor.from_pretrained(saved[1] / "clip")
    picture = Image.new("RGB", (40, 32), (0, 255, 0))
    found = processor(picture, return_tensors="pt").pixel_values
    assert found.shape == (1, 3, 16, 16)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.tensor([-1.0, 1, -1]))
