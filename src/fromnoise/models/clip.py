"""The files of a CLIP: those of the whole, and those of its text encoder, which a pipeline has."""

from pathlib import Path
from typing import Any

import torch

from fromnoise.configs import load
from fromnoise.interop.clip import clip_config_from_transformers, clip_config_to_transformers
from fromnoise.interop.vocabulary import Vocabulary
from fromnoise.models.layout import CONFIG, TEXT_STEM
from fromnoise.models.saving import save_network, write_json
from fromnoise.models.store import open_network
from fromnoise.nn.clip import Clip


def open_clip(directory: Path) -> Clip:
    """Opens a ``CLIPModel`` of transformers', its weights in float32 on the CPU.

    Raises:
        UserError: it cannot be opened.
    """
    config = clip_config_from_transformers(load(directory / CONFIG), str(directory / CONFIG))
    return open_network(Clip, config, directory, dict, stem=TEXT_STEM)


def save_clip(clip: Clip, vocabulary: Vocabulary, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes ``clip/``, the whole, and ``text_encoder/`` and ``tokenizer/``, which are parts of Stable Diffusion.

    Plain transformers opens each. ``clip/`` has its tokeniser, too, and says how pictures are prepared.

    Raises:
        UserError: a file cannot be written.
    """
    config = clip_config_to_transformers(clip.config)
    weights = f"{TEXT_STEM}.safetensors"
    save_network(clip, config, directory / "clip", weights, dtype)
    write_json(directory / "clip" / "preprocessor_config.json", _preprocessor(clip.config.image.size))
    save_network(clip.text_model, config["text_config"], directory / "text_encoder", weights, dtype)
    for folder in ("clip", "tokenizer"):
        vocabulary.tokenizer().save(directory / folder)


def _preprocessor(size: int) -> dict[str, Any]:
    """The file by which transformers' ``CLIPImageProcessor`` makes pictures of a size, in [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": half,
        "image_std": half,
    }
