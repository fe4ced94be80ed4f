"""Opens a model directory.

The layout is that of diffusers: ``model_index.json``, ``unet/`` and ``scheduler/``, weights as safetensors. What
`saving` saved opens here, and so does what diffusers saved for a ``UNet2DModel`` or for Stable Diffusion 1 and 2, in
each of the forms that `layout` knows. A pickle in a directory is never opened.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from annotated_types import MaxLen, MinLen
from torch import Tensor, nn

from fromnoise.configs import load, refused
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.interop.autoencoder import autoencoder_config_from_diffusers, modern_autoencoder_state
from fromnoise.interop.kinds import what_is
from fromnoise.interop.rules import read_public
from fromnoise.interop.scheduler import noise_from_diffusers
from fromnoise.interop.single_file import read_single_file
from fromnoise.interop.text_encoder import POSITIONS, modern_text_encoder_state, text_encoder_config_from_transformers
from fromnoise.interop.tokenizer import read_tokenizer
from fromnoise.interop.unet import modern_unet_state, unet_config_from_diffusers
from fromnoise.models.conditioning import Prompts
from fromnoise.models.layout import (
    CONFIG,
    INDEX,
    STEM,
    TEXT_STEM,
    Layout,
    find_layout,
    weight_files,
)
from fromnoise.models.model import Model
from fromnoise.models.space import Latents
from fromnoise.nn.autoencoder import Autoencoder
from fromnoise.nn.text_encoder import TextEncoder
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.tensors import read_tensors

C = TypeVar("C")
Network = TypeVar("Network", bound=nn.Module)

OTHER = "they are parts of different models"
Part = tuple[str | None, str | None]  # a library and a class, or nulls where the pipeline has none


@dataclass(frozen=True)
class IndexFile:
    """The keys of a ``model_index.json``; what the parts are is read from their own configs."""

    # what a Model is made of
    unet: Part | None = None
    scheduler: Part | None = None
    vae: Part | None = None
    text_encoder: Part | None = None
    tokenizer: Part | None = None
    id2label: dict[str, Annotated[str, MinLen(1), MaxLen(1000)]] | None = (
        None  # the class names, {"0": name, "1": name, ...}
    )
    # what no image is made with here
    safety_checker: Part | None = None
    feature_extractor: Part | None = None
    image_encoder: Part | None = None
    requires_safety_checker: bool = False


def open_directory(directory: Path) -> Model:
    """Opens a model directory, its weights in float32 on the CPU.

    Raises:
        UserError: it cannot be opened.
    """
    if kind := what_is(directory):
        raise UserError(f"{directory} is {kind}, which this version does not draw with")
    layout = find_layout(directory)
    file = load(layout.unet / CONFIG)
    config = unet_config_from_diffusers(file, str(layout.unet / CONFIG))
    index_path = layout.index or directory / INDEX
    index = IndexFile() if layout.index is None else read_public(IndexFile, load(index_path), str(index_path))
    names = index.id2label
    if names is not None and set(names) != {str(i) for i in range(len(names))}:
        raise refused(str(index_path), "id2label", names, 'it should be an object {"0": name, "1": name, ...}')
    noise = noise_from_diffusers(load(layout.scheduler), str(layout.scheduler))
    if layout.autoencoder is not None and config.context_dim is not None:
        config, noise = _as_pipelines_do(config, noise, str(file.get("_diffusers_version", "")))
    unet = open_network(UNet, config, layout.unet, partial(modern_unet_state, config=config))
    class_names = None if names is None else tuple(names[str(i)] for i in range(len(names)))
    try:
        model = Model.of_pixels(unet, noise, class_names)
    except ValueError as problem:
        raise UserError(f"{index_path}: id2label: {problem}") from None
    if layout.autoencoder is not None:
        model.space = _open_latents(layout.autoencoder, config)
    if config.context_dim is not None:
        model.conditioner = _open_prompts(layout, config.context_dim)
        if layout.autoencoder is None:
            raise UserError(f"{layout.unet} is told a text, and vae/ is not there: put the pipeline's beside it")
    return model


def open_single_file(path: Path, vocabulary: Callable[[Path], Path]) -> Model:
    """Opens a file in which CompVis released Stable Diffusion, its weights in float32 on the CPU.

    Args:
        vocabulary: finds the folder of CLIP's tokeniser, which the file has not; asked once the file has been read.

    Raises:
        UserError: it cannot be opened.
    """
    file = read_single_file(path)
    unet = _loaded(UNet, file.unet_config, file.unet, path)
    autoencoder = _loaded(Autoencoder, file.autoencoder_config, file.autoencoder, path)
    text_encoder = _loaded(TextEncoder, file.text_encoder_config, file.text_encoder, path)
    size = file.unet_config.sample_size
    latents = Latents(autoencoder, (file.autoencoder_config.latent_channels, size, size))
    return Model(unet, file.noise, latents, Prompts(read_tokenizer(vocabulary(path)), text_encoder))


def is_supported(directory: Path) -> bool:
    """Whether `open_directory` can open it, judged by its configs and by which files are there."""
    try:
        layout = find_layout(directory)
        unet_config_from_diffusers(load(layout.unet / CONFIG))
        parts = (layout.unet, STEM), (layout.autoencoder, STEM), (layout.text_encoder, TEXT_STEM)
        return all(path.exists() for folder, stem in parts if folder for path in weight_files(folder, stem))
    except UserError:
        return False


def open_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder in a folder such as ``vae``.

    Raises:
        UserError: it cannot be opened.
    """
    config = autoencoder_config_from_diffusers(load(folder / CONFIG), str(folder / CONFIG))
    return open_network(Autoencoder, config, folder, modern_autoencoder_state)


def open_prompts(text_encoder: Path, tokenizer: Path) -> Prompts:
    """The text encoder and the tokeniser in two folders, which must fit each other.

    Raises:
        UserError: one of them cannot be opened, or they do not fit.
    """
    config = text_encoder_config_from_transformers(load(text_encoder / CONFIG), str(text_encoder / CONFIG))
    words = read_tokenizer(tokenizer)
    if words.size > config.vocabulary or words.length > config.max_length:
        raise UserError(
            f"{tokenizer} has {words.size} tokens and makes {words.length} of a text, "
            f"{text_encoder} takes {config.vocabulary} and {config.max_length}: {OTHER}"
        )
    return Prompts(words, open_network(TextEncoder, config, text_encoder, modern_text_encoder_state, stem=TEXT_STEM))


def _as_pipelines_do(config: UNetConfig, noise: NoiseConfig, version: str) -> tuple[UNetConfig, NoiseConfig]:
    """What the pipelines of diffusers correct in the files of Stable Diffusion's first months, as they do it.

    Leading times are moved by one. A U-Net that was saved before version 0.9 and says that it was trained at less than
    64 latents was trained at 64.
    """
    if re.match(r"0\.[0-8]\.", version) and config.sample_size < 64:
        config = replace(config, sample_size=64)
    return config, replace(noise, steps_offset=1)


def _open_latents(folder: Path, unet: UNetConfig) -> Latents:
    """The space of the autoencoder in a folder, which must be the one that the network sees."""
    channels = autoencoder_config_from_diffusers(load(folder / CONFIG), str(folder / CONFIG)).latent_channels
    if unet.out_channels != channels or unet.in_channels not in (channels, 2 * channels + 1):
        raise UserError(
            f"{folder} has latents of {channels} channels, and the U-Net takes {unet.in_channels} and predicts "
            f"{unet.out_channels}: {OTHER}"
        )
    return Latents(open_autoencoder(folder), (channels, unet.sample_size, unet.sample_size))


def _open_prompts(layout: Layout, context_dim: int) -> Prompts:
    """The text encoder and the tokeniser, which must fit each other and the network."""
    if layout.text_encoder is None or layout.tokenizer is None:
        missing = "tokenizer" if layout.text_encoder else "text_encoder"
        raise UserError(f"{layout.unet} is told a text, and {missing}/ is not there: put the pipeline's beside it")
    path = layout.text_encoder / CONFIG
    if (width := text_encoder_config_from_transformers(load(path), str(path)).width) != context_dim:
        raise UserError(
            f"{layout.text_encoder} makes vectors of {width} numbers, the U-Net takes {context_dim}: {OTHER}"
        )
    return open_prompts(layout.text_encoder, layout.tokenizer)


def open_network(
    kind: Callable[[C], Network],
    config: C,
    folder: Path,
    modern: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    stem: str = STEM,
) -> Network:
    """A network with the weights in a folder; ``modern`` gives these their names and shapes of today."""
    paths = weight_files(folder, stem)
    state: dict[str, Tensor] = {}
    for path in paths:
        tensors = read_tensors(path, lambda name: name not in POSITIONS)
        for name in tensors.keys() & state.keys():
            raise UserError(f"{path}: the weights have {name} twice, in two files")
        state |= tensors
    try:
        state = modern(state)
    except UserError as problem:
        raise UserError(f"{paths[0]}: {problem}") from None
    return _loaded(kind, config, state, paths[0])


def _loaded(kind: Callable[[C], Network], config: C, state: dict[str, Tensor], path: Path) -> Network:
    """A network with these weights, every key and shape accounted for; those in float32 are not copied."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are there already
        network = kind(config)
    _check_state(state, network.state_dict(), path)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return network.eval()


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
