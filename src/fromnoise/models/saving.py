"""Saves a model as a directory that opens in diffusers with ``from_pretrained(DIR)``, and here with `open_model`."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from fromnoise.files import atomic_write
from fromnoise.interop.autoencoder import autoencoder_config_to_diffusers
from fromnoise.interop.rules import headed
from fromnoise.interop.scheduler import noise_to_diffusers
from fromnoise.interop.text_encoder import text_encoder_config_to_transformers
from fromnoise.interop.unet import unet_config_to_diffusers
from fromnoise.models.conditioning import Classes, Prompts
from fromnoise.models.layout import CONFIG, INDEX, SCHEDULER_CONFIG, TEXT_STEM, WEIGHTS
from fromnoise.models.model import Model
from fromnoise.models.space import Latents
from fromnoise.nn.autoencoder import Autoencoder

PIXELS_SCHEDULER, PIPELINE_SCHEDULER = "DDPMScheduler", "DPMSolverMultistepScheduler"
ABSENT = ("safety_checker", "feature_extractor", "image_encoder")
"""parts of diffusers' pipeline that a model has not"""


def save_model(model: Model, directory: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Saves a model; each file appears complete or not at all.

    What sees images is saved as diffusers' ``DDPMPipeline``. What sees latents and is told a text is saved as its
    ``StableDiffusionPipeline``, whose scheduler draws as ``dpmpp-2m`` does here.

    Args:
        dtype: of the weights, and of those of the autoencoder and the text encoder, too.

    Raises:
        UserError: a file cannot be written.
        ValueError: the model sees latents and is told no text, or is told one and sees images.
    """
    space, told = model.space, model.conditioner
    parts: dict[str, Any] = {}
    if isinstance(space, Latents) and isinstance(told, Prompts):
        pipeline, scheduler = "StableDiffusionPipeline", PIPELINE_SCHEDULER
        parts |= {name: [None, None] for name in ABSENT} | {"requires_safety_checker": False}
        parts |= {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]}
        parts["tokenizer"] = ["transformers", "CLIPTokenizer"]
        save_autoencoder(space.autoencoder, directory / "vae", dtype)
        save_prompts(told, directory, dtype)
    elif isinstance(space, Latents) or isinstance(told, Prompts):
        raise ValueError("a model of latents and one that is told a text are saved together, or not at all")
    else:
        pipeline, scheduler = "DDPMPipeline", PIXELS_SCHEDULER
    if isinstance(told, Classes):
        parts["id2label"] = {str(i): name for i, name in enumerate(told.names)}
    config = unet_config_to_diffusers(model.unet.config)
    parts |= {"unet": ["diffusers", config["_class_name"]], "scheduler": ["diffusers", scheduler]}
    save_network(model.unet, config, directory / "unet", WEIGHTS, dtype)
    write_json(directory / "scheduler" / SCHEDULER_CONFIG, noise_to_diffusers(model.noise, scheduler))
    write_json(directory / INDEX, headed(pipeline, parts))


def save_autoencoder(autoencoder: Autoencoder, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Saves an autoencoder as diffusers' ``AutoencoderKL``."""
    save_network(autoencoder, autoencoder_config_to_diffusers(autoencoder.config), folder, WEIGHTS, dtype)


def save_prompts(prompts: Prompts, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Saves ``text_encoder/`` and ``tokenizer/`` as transformers' ``CLIPTextModel`` and ``CLIPTokenizer``.

    The config says float32 whatever the weights are in: diffusers has the vectors of the text in the precision that it
    names, and refuses them beside other parts in another.
    """
    tokenizer, text_encoder = prompts.tokenizer, prompts.text_encoder
    config = text_encoder_config_to_transformers(text_encoder.config)
    config |= {f"{name}_token_id": getattr(tokenizer, name) for name in ("bos", "eos", "pad")}
    save_network(text_encoder, config, directory / "text_encoder", f"{TEXT_STEM}.safetensors", dtype)
    tokenizer.save(directory / "tokenizer")


def save_network(network: nn.Module, config: dict[str, Any], folder: Path, weights: str, dtype: torch.dtype) -> None:
    """Writes a network's ``config.json``, and its weights in a precision to the file of the name ``weights``."""
    tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in network.state_dict().items()}
    write_json(folder / CONFIG, config)
    _write(folder / weights, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a config file of the ecosystem."""
    _write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(content)
