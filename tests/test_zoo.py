"""The models that ship: they open, they are what their cards say, and what they draw is clean."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from drawing import assert_same_picture

from fromnoise.models import open_model, shipped_models
from fromnoise.models.shipped import ZOO
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request
from fromnoise.sampling.words import draw_with_maps
from fromnoise.train.config import load_config
from fromnoise.train.run import command
from fromnoise.train.stages import load_stages

NAMES = [model.name for model in shipped_models()]


def test_the_promised_models_ship():
    assert {"cifar10-small", "emoji-sd", "mini-sd", "mnist", "mnist-conditional", "mnist-guide"} <= set(NAMES)
    assert sum(path.stat().st_size for path in ZOO.rglob("*")) < 80e6


@pytest.mark.parametrize("name", NAMES)
def test_card_and_preset_belong_to_the_model(name):
    model = open_model(name)
    card = (ZOO / name / "README.md").read_text()
    config = load_config(str(ZOO / name / "training.toml"))
    assert config.name == name
    assert f"`{command(config)}`" in card
    assert config.data.licence in card
    assert (ZOO / name / "samples.png").exists()
    millions = sum(parameter.numel() for parameter in model.unet.parameters()) / 1e6
    assert f"{millions:.2f} million" in card
    if name.startswith("mnist"):
        assert millions <= 4
    assert (model.conditioner.null() is not None) == (config.data.conditional or config.data.source == "scenes")


@pytest.mark.parametrize("name", NAMES)
def test_the_preset_expects_the_losses_that_the_card_reports(name):
    """The shipped run is the one whose losses the preset tells its readers to expect."""
    card = (ZOO / name / "README.md").read_text()
    tables = re.split(r"^\| step \| loss \|$", card, flags=re.MULTILINE)[1:]
    stages = load_stages(name)
    for preset, table in zip(stages.stages if stages else [name], tables, strict=True):
        reported = dict(re.findall(r"^\| (\d+) \| ([\d.]+) \|$", table, re.MULTILINE))
        expected = load_config(preset).expect
        assert expected
        for step, loss in expected.items():
            assert loss == pytest.approx(float(reported[step]), abs=0.00051)


@pytest.mark.parametrize("name", ["mnist", "mnist-conditional"])
def test_digits_are_clean(name):
    """Strokes are bright and together: hardly any bright pixel stands alone, and the ground is black."""
    images = generate(open_model(name), Request(n=10, steps=25))
    bright = (images > 127).float()
    neighbours = F.conv2d(bright, torch.ones(1, 1, 3, 3), padding=1) - bright
    alone = (bright * (neighbours == 0)).sum() / bright.sum()
    assert alone < 0.002
    ink = bright.mean((1, 2, 3))
    assert ((ink > 0.03) & (ink < 0.35)).all()
    assert (images < 8).float().mean() > 0.7


def test_the_guide_guides():
    """`mnist-guide` fits `mnist`, and leads to other, still clean images."""
    plain = generate(open_model("mnist"), Request(n=4, steps=6))
    guided = generate(open_model("mnist"), Request(n=4, steps=6, guidance=2.0, guide="mnist-guide"))
    assert (guided.float() - plain.float()).abs().mean() > 1
    assert ((guided > 127).float().mean((1, 2, 3)) > 0.03).all()


def test_the_label_decides_the_digit():
    """From the same noise, different labels draw different images and the same label the same one."""
    model = open_model("mnist-conditional")
    one, seven, again = (generate(model, Request(n=2, classes=(label,), steps=10)) for label in (1, 7, 1))
    assert torch.equal(one, again)
    assert (one.float() - seven.float()).abs().mean() > 5


def test_photographs_look_like_some():
    """Neighbouring pixels are alike, as in no noise; there is sky around airplanes, and none around deer."""
    images = generate(open_model("cifar10-small"), Request(n=10, classes=(0, 4), steps=12, guidance=3.0)).float()
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.9
    assert images.std() > 40
    blueness = (images[:, 2] - images[:, 0]).mean((1, 2))
    assert blueness[::2].mean() > 20
    assert blueness[1::2].mean() < 0


@pytest.mark.parametrize("name", ["mini-sd", "emoji-sd"])
def test_the_small_stable_diffusions_draw_in_diffusers_what_they_draw_here(name):
    assert_same_picture(ZOO / name)
    assert sum(path.stat().st_size for path in (ZOO / name).rglob("*")) < 25e6


def test_colours_and_places_are_as_the_prompt_says():
    """A thing stands where it should, and nothing where it should not."""
    prompts = (
        "a large red seven in the top left corner on a black background",
        "a small white 1, bottom right, on blue",
    )
    first, second = generate(open_model("mini-sd"), Request(prompts=prompts, steps=10, guidance=3.0)).float()
    assert (first[:, 40:, 40:] < 60).float().mean() > 0.95
    assert (first[0, :32, :32] - first[1:, :32, :32].amax(0) > 100).float().mean() > 0.05
    assert (second[2] - second[0] > 80)[:32].float().mean() > 0.95
    assert (second[:, 32:, 32:].amin(0) > 180).float().mean() > 0.01


def test_things_stand_where_the_prompt_says():
    """A sloth is brown, and its background yellow; without the sloth there is nothing else."""
    (image,) = generate(
        open_model("emoji-sd"), Request(prompts=("a large sloth, top left, on yellow",), steps=10, guidance=3.0)
    ).float()
    yellow = (image - torch.tensor([245.0, 230.0, 60.0])[:, None, None]).abs().amax(0) < 40  # (64, 64)
    assert yellow[44:].float().mean() > 0.97
    assert yellow[:, 44:].float().mean() > 0.97
    assert yellow[8:32, 8:32].float().mean() < 0.4


def test_what_is_not_wanted_goes():
    """Guidance away from blue draws on another background where it was blue."""
    request = Request(prompts=("a large balloon in the middle",), seed=5, steps=8, guidance=3.0)
    plain, without = (
        generate(open_model("emoji-sd"), replace(request, negative_prompt=avoided))[0].float()
        for avoided in ("", "on blue")
    )
    blue = [(image[2] - image[:2].amax(0) > 60).float().mean() for image in (plain, without)]
    assert blue[0] > 0.8
    assert blue[1] < 0.01


def test_the_words_of_things_are_looked_at_where_they_are():
    """The taco of "a taco left of a turtle" is on the left, and the turtle on the right."""
    request = Request(prompts=("a taco left of a turtle on blue",), steps=10, guidance=3.0)
    _, (maps,) = draw_with_maps(plan(open_model("emoji-sd"), request))
    shares = dict(zip(maps.words, maps.mean(), strict=True))
    left = {word: (share[:, :8].sum() / share.sum()).item() for word, share in shares.items()}
    assert left["taco"] > 0.5 > left["turtle"]


def test_its_words_are_those_of_its_things():
    tokenizer = open_model("emoji-sd").conditioner.tokenizer
    assert tokenizer.unknown_words("a jack-o-lantern, halloween, a terrapin and a lepard") == ["lepard"]
