"""A model directory: open it and save it.

The layout is that of diffusers: ``model_index.json``, ``unet/`` and ``scheduler/``, weights as safetensors. What is
saved here opens there with ``from_pretrained(DIR)``, and what diffusers saved for a ``UNet2DModel`` opens here, in
each of the forms that `layout` knows. Pickles are never opened.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from annotated_types import MaxLen, MinLen
from torch import Tensor

from fromnoise.configs import load, refused
from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.interop.rules import headed, modern_attention_name, read_public
from fromnoise.interop.scheduler import noise_from_diffusers, noise_to_diffusers
from fromnoise.interop.unet import unet_config_from_diffusers, unet_config_to_diffusers
from fromnoise.models.conditioning import Classes
from fromnoise.models.layout import CONFIG, INDEX, SCHEDULER_CONFIG, WEIGHTS, find_layout, weight_files
from fromnoise.models.model import Model
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.tensors import read_tensors


@dataclass(frozen=True)
class IndexFile:
    """The keys of a ``model_index.json``; what the parts are is read from their own configs."""

    unet: tuple[str, str] | None = None
    scheduler: tuple[str, str] | None = None
    id2label: dict[str, Annotated[str, MinLen(1), MaxLen(1000)]] | None = (
        None  # the class names, {"0": name, "1": name, ...}
    )


def open_directory(directory: Path) -> Model:
    """Opens a model directory, its weights in float32 on the CPU.

    Raises:
        UserError: it cannot be opened.
    """
    layout = find_layout(directory)
    config = unet_config_from_diffusers(load(layout.unet / CONFIG), str(layout.unet / CONFIG))
    index_path = layout.index or directory / INDEX
    index = IndexFile() if layout.index is None else read_public(IndexFile, load(index_path), str(index_path))
    names = index.id2label
    if names is not None and set(names) != {str(i) for i in range(len(names))}:
        raise refused(str(index_path), "id2label", names, 'it should be an object {"0": name, "1": name, ...}')
    noise = noise_from_diffusers(load(layout.scheduler), str(layout.scheduler))
    unet = _open_unet(config, weight_files(layout.unet))
    class_names = None if names is None else tuple(names[str(i)] for i in range(len(names)))
    try:
        return Model.of_pixels(unet, noise, class_names)
    except ValueError as problem:
        raise UserError(f"{index_path}: id2label: {problem}") from None


def save_model(model: Model, directory: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Saves a model as diffusers' ``DDPMPipeline`` would; each file appears complete or not at all.

    Raises:
        UserError: a file cannot be written.
    """
    parts: dict[str, Any] = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    if isinstance(model.conditioner, Classes):
        parts["id2label"] = {str(i): name for i, name in enumerate(model.conditioner.names)}
    tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in model.unet.state_dict().items()}
    _write(directory / "unet" / CONFIG, _to_json(unet_config_to_diffusers(model.unet.config)))
    _write(directory / "unet" / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    _write(directory / "scheduler" / SCHEDULER_CONFIG, _to_json(noise_to_diffusers(model.noise)))
    _write(directory / INDEX, _to_json(headed("DDPMPipeline", parts)))


def is_supported(directory: Path) -> bool:
    """Whether `open_directory` can open it, judged by its configs."""
    try:
        layout = find_layout(directory)
        unet_config_from_diffusers(load(layout.unet / CONFIG))
        return all(path.exists() for path in weight_files(layout.unet))
    except UserError:
        return False


def _open_unet(config: UNetConfig, paths: list[Path]) -> UNet:
    """The network with the weights of safetensors files, every key and shape accounted for."""
    state: dict[str, Tensor] = {}
    for path in paths:
        for key, tensor in read_tensors(path).items():
            name = modern_attention_name(key)
            if name in state:
                raise UserError(f"{path}: the weights have {name} twice, in two files or by its old and its new name")
            state[name] = tensor
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be read
        unet = UNet(config)
    _check_state(state, unet.state_dict(), paths[0])
    unet.to_empty(device="cpu")
    unet.load_state_dict(state, strict=True)
    return unet.eval()


def _check_state(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """What ``load_state_dict(strict=True)`` would find wrong, in one line."""
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    wrong = {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "of the wrong shape": reshaped,
    }
    problems = [f"{len(keys)} {what}, first {keys[0]}" for what, keys in wrong.items() if keys]
    if reshaped:
        found, wanted = list(state[reshaped[0]].shape), list(expected[reshaped[0]].shape)
        problems[-1] += f": found {found}, expected {wanted}"
    if problems:
        raise UserError(f"{path}: keys do not fit the config: {'; '.join(problems)}")


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(content)
