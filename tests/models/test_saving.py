"""A whole pipeline that is saved here opens in plain diffusers, and draws the same picture there."""

import json

import pytest
import torch
from drawing import assert_same_picture
from small_sd import random_pipeline

from fromnoise.models import Model, open_model, save_model
from fromnoise.models.conditioning import Unconditional

PARTS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}


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
