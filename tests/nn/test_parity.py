"""The U-Net computes what diffusers' ``UNet2DModel`` computes, saved there and opened here, and the other way round."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from parity import randomise, relative_error

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.models import Model, open_model, save_model
from fromnoise.nn.unet import UNet, UNetConfig

SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}

VARIANTS = {
    "unconditional": {},
    "class_conditional": {"num_class_embeds": 11},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "single_head": {"attention_head_dim": None},
    "small_heads": {"attention_head_dim": 4},
    "pad_after": {"downsample_padding": 0},
    "frequency_shift": {"freq_shift": 1},
    "sine_first": {"flip_sin_to_cos": False},
    "three_layers": {"layers_per_block": 3},
    "no_middle_attention": {"add_attention": False},
    "large_epsilon": {"norm_eps": 1e-2},
    "no_attention": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    },
    "attention_above": {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    },
    "three_levels_in_colour": {
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 32, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "one_level": {
        "block_out_channels": (16,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
    },
}

CIFAR10 = {  # of google/ddpm-cifar10-32
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "downsample_padding": 0,
}

MEMORY_FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


def inputs(config, size=None):
    """Three images at three timesteps, with labels where the network takes them."""
    generator = torch.Generator().manual_seed(1)
    size = size or config.sample_size
    x = torch.randn((3, config.in_channels, size, size), generator=generator)
    labels = None if config.num_class_embeds is None else torch.tensor([0, 1, config.num_class_embeds - 1])
    return x, torch.tensor([0, 17, 999]), labels


@torch.no_grad()
def ours(unet, x, timestep, labels, memory_format=torch.contiguous_format):
    return unet.to(memory_format=memory_format)(x.to(memory_format=memory_format), timestep, labels)


@torch.no_grad()
def theirs(unet, x, timestep, labels):
    return unet(x, timestep, class_labels=labels).sample


@MEMORY_FORMATS
@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_by_diffusers_opens_here(variant, memory_format, tmp_path):
    there = randomise(UNet2DModel(**SMALL | VARIANTS[variant]))
    there.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    here = open_model(tmp_path).unet
    batch = inputs(here.config)
    assert relative_error(ours(here, *batch, memory_format), theirs(there, *batch)) < 1e-5


@MEMORY_FORMATS
@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_here_opens_in_diffusers(variant, memory_format, tmp_path):
    UNet2DModel(**SMALL | VARIANTS[variant]).save_pretrained(tmp_path / "there")
    DDPMScheduler().save_pretrained(tmp_path / "there")
    config = open_model(tmp_path / "there").unet.config
    here = randomise(UNet(config)).to(memory_format=memory_format)
    save_model(Model.of_pixels(here, NoiseConfig()), tmp_path / "here")
    there = UNet2DModel.from_pretrained(tmp_path / "here", subfolder="unet")
    batch = inputs(config)
    assert relative_error(theirs(there, *batch), ours(here, *batch, memory_format)) < 1e-5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head_dim", 4),
        ("norm_groups", 4),
        ("norm_eps", 1e-3),
        ("flip_sin_to_cos", False),
        ("freq_shift", 1),
        ("downsample_padding", 0),
    ],
)
def test_parity_would_notice_another_number(field, value):
    """Those fields that change no shape: the error of a wrong one is far above the tolerance."""
    right = UNetConfig(
        sample_size=8, channels=(16, 32), attention_levels=(False, True), layers_per_block=1, norm_groups=8, head_dim=8
    )
    batch = inputs(right)
    wrong = randomise(UNet(replace(right, **{field: value})))
    assert relative_error(ours(wrong, *batch), ours(randomise(UNet(right)), *batch)) > 1e-3


def test_sizes_other_than_the_training_size(tmp_path):
    there = randomise(UNet2DModel(**SMALL))
    there.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    here = open_model(tmp_path).unet
    batch = inputs(here.config, size=12)
    assert relative_error(ours(here, *batch), theirs(there, *batch)) < 1e-5


def test_class_conditional_directory_opens_as_a_pipeline(tmp_path):
    config = UNetConfig(sample_size=8, channels=(32,), attention_levels=(False,), num_class_embeds=3)
    scheduler = NoiseConfig(200, "squaredcos_cap_v2", prediction_type="v_prediction", set_alpha_to_one=False)
    here = Model.of_pixels(randomise(UNet(config)), scheduler, ("cat", "dog"))
    save_model(here, tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    batch = inputs(config)
    assert relative_error(theirs(pipeline.unet, *batch), ours(here.unet, *batch)) < 1e-5
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler").config.set_alpha_to_one is False


def test_pipeline_directory_of_diffusers_opens_here(tmp_path):
    there = randomise(UNet2DModel(**SMALL))
    scheduler = DDPMScheduler(num_train_timesteps=50, variance_type="fixed_large", clip_sample=False)
    DDPMPipeline(there, scheduler).save_pretrained(tmp_path)
    here = open_model(tmp_path)
    batch = inputs(here.unet.config)
    assert relative_error(ours(here.unet, *batch), theirs(there, *batch)) < 1e-5
    assert here.noise == NoiseConfig(50, variance_type="fixed_large", clip_sample=False, set_alpha_to_one=None)


@pytest.mark.slow
def test_ddpm_cifar10(tmp_path):
    there = randomise(UNet2DModel(**CIFAR10))
    there.save_pretrained(tmp_path / "there")
    DDPMScheduler().save_pretrained(tmp_path / "there")
    here = open_model(tmp_path / "there")
    assert sum(parameter.numel() for parameter in here.unet.parameters()) == 35_746_307
    batch = inputs(here.unet.config)
    expected = theirs(there, *batch)
    assert relative_error(ours(here.unet, *batch), expected) < 1e-5
    assert relative_error(ours(here.unet, *batch, torch.channels_last), expected) < 1e-5

    save_model(here, tmp_path / "here")
    back = UNet2DModel.from_pretrained(tmp_path / "here", subfolder="unet")
    assert relative_error(theirs(back, *batch), expected) < 1e-5
