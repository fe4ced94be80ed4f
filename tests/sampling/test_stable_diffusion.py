"""A prompt becomes the picture that diffusers draws, whole: text, latents, guidance, sampler and decoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from small_sd import PNDM, save_pipeline

from fromnoise.errors import UserError
from fromnoise.models import open_model
from fromnoise.sampling.generate import draw, generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request
from fromnoise.sampling.words import draw_with_maps
from measure import peak_memory

SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp-2m": DPMSolverMultistepScheduler}
VELOCITY = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
TURBO = PNDM | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
WORDS = {"prompts": ("a riding cat",), "negative_prompt": "hello dog"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pipelines whose U-Net has 4 channels and, for inpainting, 9; a picture, and a mask with every grey."""
    folder = tmp_path_factory.mktemp("sd")
    save_pipeline(folder / "4"), save_pipeline(folder / "9", in_channels=9)
    save_pipeline(folder / "velocity", scheduler=VELOCITY), save_pipeline(folder / "turbo", scheduler=TURBO)
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(levels[..., :3]).save(folder / "picture.png")
    Image.fromarray(levels[..., 3]).resize((8, 8)).resize((32, 32), Image.Resampling.NEAREST).save(folder / "mask.png")
    return folder


@pytest.fixture
def ours(folder, monkeypatch):
    """Draws, and returns the latents and the pixels ``(H, W, C)`` of the first image."""

    def draw_one(name, **asked):
        seen = []
        model = open_model(folder / name)
        decode = model.space.decode
        monkeypatch.setattr(type(model.space), "decode", lambda space, x: seen.append(x) or decode(x))
        images = generate(model, Request(**WORDS, **asked))
        return seen[0], images[0].permute(1, 2, 0).numpy()

    return draw_one


def theirs(folder, kind, scheduler, **asked):
    """The same from diffusers."""
    pipeline = kind.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    seen = []
    asked |= {"generator": torch.Generator().manual_seed(0), "output_type": "np"}
    asked["callback_on_step_end"] = lambda pipe, step, t, values: seen.append(values["latents"]) or values
    images = pipeline(WORDS["prompts"][0], negative_prompt=WORDS["negative_prompt"], **asked).images
    return seen[-1], (images[0] * 255).round().astype(np.uint8)


def assert_equal(here, there, where=None):
    """Latents to 1e-3 of their size, pixels to one level; only ``where`` is true, if that is given."""
    assert (here[0] - there[0]).abs().max() < 1e-3 * there[0].abs().max()
    apart = np.abs(here[1].astype(int) - there[1].astype(int))
    assert (apart if where is None else apart[where]).max() <= 1
    assert np.std(there[1]) > 5  # a picture that is grey all over would be equal to anything


@pytest.mark.parametrize("name", ["4", "velocity"])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_text_to_image(sampler, name, ours, folder):
    there = theirs(folder / name, StableDiffusionPipeline, SCHEDULERS[sampler], num_inference_steps=5)
    assert_equal(ours(name, sampler=sampler, steps=5), there)


def test_one_step_of_turbo(ours, folder):
    asked = {"num_inference_steps": 1, "guidance_scale": 0.0}
    there = theirs(folder / "turbo", StableDiffusionPipeline, EulerDiscreteScheduler, **asked)
    prompts = {key: value for key, value in WORDS.items() if key == "prompts"}
    image = generate(open_model(folder / "turbo"), Request(**prompts, sampler="euler", steps=1, guidance=1.0))[0]
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - there[1].astype(int)).max() <= 1


@pytest.fixture
def means(monkeypatch):
    """diffusers' encoder gives the mean too."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_image_to_image(sampler, strength, ours, folder, means):
    asked = {"num_inference_steps": 6, "strength": strength, "image": Image.open(folder / "picture.png")}
    there = theirs(folder / "4", StableDiffusionImg2ImgPipeline, SCHEDULERS[sampler], **asked)
    here = ours("4", sampler=sampler, steps=6, strength=strength, init_image=folder / "picture.png")
    assert_equal(here, there)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("name", ["4", "9"])
def test_inpainting(name, sampler, strength, ours, folder, means):
    """Apart from where the picture stays, which is its own pixels here and what the decoder made of them there."""
    picture, mask = Image.open(folder / "picture.png"), Image.open(folder / "mask.png")
    asked = {"num_inference_steps": 6, "strength": strength, "image": picture, "mask_image": mask}
    there = theirs(folder / name, StableDiffusionInpaintPipeline, SCHEDULERS[sampler], height=32, width=32, **asked)
    files = {"init_image": folder / "picture.png", "mask": folder / "mask.png"}
    here = ours(name, sampler=sampler, steps=6, strength=strength, **files)
    white = np.asarray(mask) >= 128
    assert 0.2 < white.mean() < 0.8
    assert_equal(here, there, white)
    assert np.array_equal(here[1][~white], np.asarray(picture)[~white])


def test_strength_0_returns_the_picture(folder):
    request = Request(**WORDS, init_image=folder / "picture.png", strength=0.0, n=2)
    planned = plan(open_model(folder / "4"), request)
    assert planned.evaluations == 0
    for image in draw(planned):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(folder / "picture.png")))


def test_several_prompts_and_a_size_draw_each_image_as_alone(folder):
    """Any size that the architecture allows; an image does not depend on what else is asked for."""
    model = open_model(folder / "4")
    request = Request(prompts=("a cat", "hello", "a cat"), steps=3, height=40, width=24)
    images = generate(model, request)
    assert images.shape == (3, 3, 40, 24)
    assert not torch.equal(images[0], images[2])  # of another seed
    alone = generate(model, replace(request, prompts=("hello",), seed=1))
    assert torch.equal(images[1], alone[0])


def test_what_is_usual_for_a_prompt(folder):
    planned = plan(open_model(folder / "4"), Request(prompts=("a cat",)))
    assert (planned.n, planned.request.guidance, planned.evaluations, planned.request.sampler) == (
        1,
        7.5,
        50,
        "dpmpp-2m",
    )


def test_maps_of_words_change_no_bit(folder):
    planned = plan(open_model(folder / "4"), Request(prompts=("a riding cat", "hello dog"), steps=2))
    images, maps = draw_with_maps(planned)
    assert torch.equal(images, draw(planned))
    assert [one.words for one in maps] == [("a", "riding", "cat"), ("hello", "dog")]
    for one in maps:
        assert all(layer.shape[:2] == (2, len(one.words)) for layer in one.layers.values())
        assert one.mean().shape == (len(one.words), 8, 8)
        assert one.mean().std() > 1e-6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strength": 0.1, "init_image": "picture.png"}, "at this strength the picture stays as it is"),
        ({"guidance": 0.0}, "guidance 0 does not look at the prompt"),
        ({"prompts": ("a cat", "")}, "the prompt '' has no words"),
        ({"prompts": ("!?",)}, "the prompt '!\\?' has no words"),
    ],
)
def test_maps_of_nothing_are_refused_before_anything_is_drawn(asked, message, folder):
    paths = {key: folder / asked[key] for key in ("init_image",) if key in asked}
    planned = plan(open_model(folder / "4"), Request(**{"prompts": ("a cat",), "steps": 2} | asked | paths))
    with pytest.raises(UserError, match=message):
        draw_with_maps(planned, progress=lambda _: pytest.fail("something was drawn"))


@pytest.mark.parametrize("side", [98, 49, 103, 214])
def test_a_picture_is_made_as_large_as_the_model_was_trained_at(side, folder):
    Image.new("L", (side, side)).save(folder / "square.png")
    planned = plan(open_model(folder / "4"), Request(prompts=("a",), init_image=folder / "square.png"))
    assert planned.shape == (4, 8, 8)


def test_a_mask_painted_on_a_transparent_layer(folder):
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[:, 16:] = 255
    Image.fromarray(layer).save(folder / "layer.png")
    files = {"init_image": folder / "picture.png", "mask": folder / "layer.png"}
    mask = plan(open_model(folder / "4"), Request(prompts=("a",), **files)).edit.mask
    assert mask[..., :16].max() == 0 and mask[..., 16:].min() == 1


def test_a_picture_whose_camera_wrote_nonsense(folder):
    Image.new("RGB", (32, 32), "red").save(folder / "photo.jpg", exif=b"Exif\0\0nonsense", dpi=(72, 72))
    assert plan(open_model(folder / "4"), Request(prompts=("a",), init_image=folder / "photo.jpg")).edit is not None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give --prompt TEXT"),
        ({"prompts": ("a",), "clip": True}, "clip keeps pixels in range, and this model works on latents"),
        ({"prompts": ("a",), "init_image": "deep.png"}, "deep.png has more than 8 bits"),
        ({"prompts": ("a",), "init_image": "picture.png", "mask": "deep.png"}, "deep.png has more than 8 bits"),
        ({"prompts": ("a",), "init_image": "banner.png"}, "would be drawn at 9600x32, and a side has 8192 pixels at"),
        ({"classes": (1,)}, "give --prompt TEXT"),
        ({"prompts": ("a",), "classes": (1,)}, "leave one of them out"),
        ({"prompts": ("a",), "mask": "mask.png"}, "give --init-image, too"),
        ({"prompts": ("a",), "strength": 0.5}, "give --init-image, too"),
        ({"prompts": ("a",), "init_image": "picture.png", "strength": 1.5}, "between 0"),
        ({"prompts": ("a",), "init_image": "4/unet/config.json"}, "cannot be read as a picture"),
        ({"prompts": ("a",), "height": 33}, "height must be a multiple of 4"),
        ({"prompts": ("a",), "width": 0}, "width must be a multiple of 4"),
        ({"prompts": ("a",), "guidance": 1.0, "negative_prompt": "b"}, "negative-prompt changes the guidance"),
        ({"prompts": ("\ud800",)}, "not valid text"),
    ],
)
def test_what_cannot_be_asked(asked, message, folder):
    paths = {key: folder / asked[key] for key in ("init_image", "mask") if key in asked}
    Image.fromarray(np.full((32, 32), 1000, np.uint16)).save(folder / "deep.png")
    Image.new("L", (9600, 32)).save(folder / "banner.png")
    with pytest.raises(UserError, match=message):
        plan(open_model(folder / "4"), Request(**asked | paths))


def test_an_inpainting_model_needs_a_mask(folder):
    with pytest.raises(UserError, match="give --init-image and --mask"):
        plan(open_model(folder / "9"), Request(**WORDS))


def test_what_does_not_fit_is_made_to_fit_and_said(folder, capsys):
    Image.new("L", (70, 50)).save(folder / "wide.gif")
    Image.new("RGBA", (9, 9)).save(folder / "small.webp")
    files = {"init_image": folder / "wide.gif", "mask": folder / "small.webp"}
    words = "cat " * 80
    planned = plan(open_model(folder / "4"), Request(prompts=(words,), **files))
    assert planned.shape == (4, 8, 11)
    said = capsys.readouterr().err
    assert "wide.gif is 70x50: it is resized to 44x32" in said
    assert "small.webp is 9x9" in said
    assert "75 tokens" in said and repr("cat " * 5) in said


@pytest.mark.slow
@pytest.mark.parametrize("size", [512, 768])
def test_full_size(size, tmp_path):
    """Stable Diffusion 1.x as large as it is: a guided step and its picture equal diffusers', and it fits in memory."""
    full = save_pipeline(tmp_path / "full", full_size=True)
    asked = {"num_inference_steps": 1, "height": size, "width": size}
    image = generate(open_model(full), Request(**WORDS, sampler="ddim", steps=1, height=size, width=size))[0]
    assert peak_memory() < 24 * 2**30
    if size == 512:
        there = theirs(full, StableDiffusionPipeline, DDIMScheduler, **asked)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - there[1].astype(int)).max() <= 1
