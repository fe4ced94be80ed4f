"""A whole pipeline that is saved here opens in plain diffusers, and draws the same picture there."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from small_sd import random_pipeline

from fromnoise.models import Model, open_model, save_model
from fromnoise.models.conditioning import Unconditional
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request

PARTS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
WORDS = "the cat riding"


def drawn_by_diffusers(folder, steps: int) -> np.ndarray:
    """A picture of `WORDS`, ``(H, W, 3)`` from 0 to 255, by the scheduler in the folder."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "np"}
    return pipeline(WORDS, generator=torch.Generator().manual_seed(0), **options).images[0] * 255


def assert_same_picture(folder, steps: int = 5) -> None:
    image = generate(open_model(folder), Request(prompts=(WORDS,), guidance=3.0, steps=steps))[0]
    there = drawn_by_diffusers(folder, steps)
    assert np.abs(image.permute(1, 2, 0).numpy() - there).max() <= 1
    assert there.std() > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_draws_in_diffusers_what_it_draws_here(dtype, tmp_path, caplog):
    save_model(random_pipeline(), tmp_path, dtype=dtype)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {name for name, value in index.items() if isinstance(value, list) and value[0]} == PARTS
    assert_same_picture(tmp_path)
    assert not caplog.records, "diffusers has nothing to warn of"


def test_what_is_saved_again_has_the_same_bytes(tmp_path):
    save_model(random_pipeline(), tmp_path / "once", dtype=torch.bfloat16)
    save_model(open_model(tmp_path / "once"), tmp_path / "twice", dtype=torch.bfloat16)
    once, twice = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*.*")} for d in sorted(tmp_path.iterdir()))
    assert len(once) == 11
    assert once == twice


def test_the_parts_of_a_pipeline_belong_together(tmp_path):
    whole = random_pipeline()
    with pytest.raises(ValueError, match="together, or not at all"):
        save_model(Model(whole.unet, whole.noise, whole.space, Unconditional()), tmp_path)
    assert not list(tmp_path.iterdir())
