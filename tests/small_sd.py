"""A small Stable Diffusion with random weights, as a directory that diffusers wrote; its tokeniser knows few words."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.interop.tokenizer import Tokenizer, TokenizerFile
from fromnoise.models import Model
from fromnoise.models.conditioning import Prompts
from fromnoise.models.space import Latents
from fromnoise.nn.autoencoder import Autoencoder, AutoencoderConfig
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig
from fromnoise.nn.unet import UNet, UNetConfig

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
KNOWN_WORDS = ("cat", "dog", "hello", "the", "photo", "of", "riding", "painting", "ing</w>", "!!", "Ã©")


def small_vocabulary():
    """Vocabulary and merges in CLIP's order: `!` first, each byte, each byte at a word's end, merges, two tokens more.

    Each known word is merged from left to right, once as the end of a word and once within one.
    """
    alphabet = sorted(ByteLevel.alphabet(), key=lambda sign: (sign != "!", sign))
    merges = {}  # as an ordered set
    for word in KNOWN_WORDS:
        signs = list(word.removesuffix("</w>"))
        for last in (signs[-1] + "</w>", signs[-1]):
            left = signs[0]
            for sign in [*signs[1:-1], last]:
                merges[left, sign] = None
                left += sign
    words = list(dict.fromkeys(left + right for left, right in merges))
    tokens = [*alphabet, *(sign + "</w>" for sign in alphabet), *words, BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


VOCABULARY, MERGES = small_vocabulary()

PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
"""the scheduler's file of Stable Diffusion 1"""

OF_SD15 = UNetConfig(
    in_channels=4,
    out_channels=4,
    sample_size=64,
    channels=(320, 640, 1280, 1280),
    attention_levels=(True, True, True, False),
    context_dim=768,
    heads=(8, 8, 8, 8),
)
"""its U-Net"""


def save_tokenizer(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "vocab.json").write_text(json.dumps(VOCABULARY))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in MERGES)]
    (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return directory


def save_pipeline(
    directory: Path, in_channels: int = 4, scheduler: dict[str, object] = PNDM, full_size: bool = False, **options
) -> Path:
    """Saves a pipeline for 32x32 pictures, whose latents are 8x8, with SD 1.x's scheduler file.

    Args:
        full_size: the networks are those of Stable Diffusion 1, all but the vocabulary.
        options: of ``save_pretrained``.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
    )
    text = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=VOCABULARY[BOS],
        eos_token_id=VOCABULARY[EOS],
    )
    if full_size:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        widths = (128, 256, 512, 512)
        autoencoder = AutoencoderKL(block_out_channels=widths, layers_per_block=2, sample_size=512, **blocks)
        text.update({"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12})
    tokenizer = save_tokenizer(directory.parent / f"{directory.name}-tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77),
        unet=unet,
        scheduler=PNDMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(directory, **options)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return directory


def random_parts(size: int = 16) -> tuple[Autoencoder, Prompts]:
    """An autoencoder of ours that quarters pictures of this size, and a text encoder with its tokeniser; random."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(
        AutoencoderConfig(
            sample_size=size,
            channels=(4, 8, 8),
            layers_per_block=1,
            middle_attention=False,
            norm_groups=4,
            scaling_factor=0.5,
        )
    )
    text = TextEncoderConfig(len(VOCABULARY), width=16, mlp_width=32, layers=2, heads=2, max_length=12)
    file = TokenizerFile(model_max_length=text.max_length)
    return autoencoder.eval(), Prompts(Tokenizer(VOCABULARY, MERGES, file), TextEncoder(text).eval())


def random_pipeline(size: int = 16) -> Model:
    """A whole model around these parts, with random weights throughout, also where training would start from zero."""
    autoencoder, prompts = random_parts(size)
    unet = UNet(
        UNetConfig(
            in_channels=4,
            out_channels=4,
            sample_size=size // 4,
            channels=(8, 16),
            attention_levels=(True, True),
            layers_per_block=1,
            context_dim=16,
            heads=(1, 2),
            norm_groups=4,
        )
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    noise = NoiseConfig(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=None,
        timestep_spacing="trailing",
        steps_offset=1,
        set_alpha_to_one=None,
    )
    return Model(unet.eval(), noise, Latents(autoencoder, (4, size // 4, size // 4)), prompts)
