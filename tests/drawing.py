"""What plain diffusers draws with a folder, compared with what is drawn here."""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request

WORDS = "the cat riding"


def assert_same_picture(folder: Path, steps: int = 5) -> None:
    """A picture of `WORDS` by the scheduler in the folder is the same there and here, to one level."""
    image = generate(open_model(folder), Request(prompts=(WORDS,), guidance=3.0, steps=steps))[0]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "np"}
    there = pipeline(WORDS, generator=torch.Generator().manual_seed(0), **options).images[0] * 255
    assert np.abs(image.permute(1, 2, 0).numpy() - there).max() <= 1
    assert there.std() > 2  # a picture that is grey all over would be equal to anything
