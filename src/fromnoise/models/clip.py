"""The files of a CLIP: those of the whole, and those of its text encoder, which a pipeline has."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fromnoise.configs import load
from fromnoise.files import atomic_write
from fromnoise.interop.clip import clip_config_from_transformers, clip_config_to_transformers
from fromnoise.interop.vocabulary import Vocabulary, save_vocabulary
from fromnoise.models.layout import CONFIG, TEXT_STEM
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
    _save(directory / "clip", config, clip.state_dict(), dtype)
    _write_json(directory / "clip" / "preprocessor_config.json", _preprocessor(clip.config.image.size))
    _save(directory / "text_encoder", config["text_config"], clip.text_model.state_dict(), dtype)
    for folder in ("clip", "tokenizer"):
        save_vocabulary(vocabulary, directory / folder)


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


def _save(folder: Path, config: dict[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    tensors = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in state.items()}
    _write_json(folder / CONFIG, config)
    with atomic_write(folder / f"{TEXT_STEM}.safetensors") as partial:
        partial.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
