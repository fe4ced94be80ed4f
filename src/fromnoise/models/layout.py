"""Where the parts of a model are: in a pipeline's folder, beside one another, or around a U-Net's folder."""

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromnoise.configs import load, refused
from fromnoise.errors import UserError
from fromnoise.interop.rules import read_public

INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
STEM, TEXT_STEM = "diffusion_pytorch_model", "model"  # of the weights of diffusers' networks and transformers'
WEIGHTS = f"{STEM}.safetensors"
VARIANTS = ("", ".fp16", ".bf16")  # of the weights, the one first that is taken if there are several
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
OTHER_LATENTS = ("vqvae", "movq")
"""folders of autoencoders that are not here, whose presence says that the U-Net beside them does not see images"""


@dataclass(frozen=True)
class Layout:
    """The places of a model's parts."""

    unet: Path  # the folder of the network's config and weights
    scheduler: Path  # the scheduler's config
    index: Path | None  # model_index.json, if there is one
    autoencoder: Path | None  # its folder, if the network sees latents
    text_encoder: Path | None  # its folder, if the network is told a text
    tokenizer: Path | None  # as text_encoder


def find_layout(directory: Path) -> Layout:
    """The parts of a model directory.

    The U-Net is in ``unet/``, else in ``unet_ema/``, else in the directory itself. If nothing but the U-Net is there,
    the other parts are beside the directory, as they are for the ``unet`` of a pipeline; those of diffusers' training
    checkpoints, ``checkpoint-N``, are beside these. Nothing is assumed.

    Raises:
        UserError: there is no network, or no scheduler says which noise it was trained on; or a run is not finished.
    """
    unet = next((directory / name for name in ("unet", "unet_ema") if os.path.isdir(directory / name)), directory)
    _check_finished(directory, unet)
    within = [directory / INDEX, directory / SCHEDULER_CONFIG, directory / "scheduler"]
    alone = unet == directory and not any(map(os.path.lexists, within))
    homes = [_parent(directory) if alone else directory]
    if re.fullmatch(r"checkpoint-\d+", Path(os.path.abspath(homes[0])).name):
        homes.append(_parent(homes[0]))
    schedulers = [home / "scheduler" / SCHEDULER_CONFIG for home in homes]
    schedulers += [directory / SCHEDULER_CONFIG] if unet == directory else []
    scheduler = next(filter(os.path.lexists, schedulers), None)
    index = next(filter(os.path.lexists, [home / INDEX for home in homes]), None)
    if scheduler is None and index is None:
        load(unet / CONFIG)  # says so if there is no network, either
        raise UserError(f"{unet} is a U-Net alone: put the {SCHEDULER_CONFIG} of its training beside its {CONFIG}")

    def part(name: str) -> Path | None:
        return next((home / name for home in homes if os.path.isdir(home / name)), None)

    for name in filter(part, OTHER_LATENTS):
        raise UserError(f"{part(name)} is there: the U-Net sees latents of an autoencoder that is not supported")
    return Layout(unet, scheduler or schedulers[-1], index, part("vae"), part("text_encoder"), part("tokenizer"))


def _parent(folder: Path) -> Path:
    return Path(os.path.abspath(folder)).parent


def _check_finished(directory: Path, unet: Path) -> None:
    """Refuses a run of ours that has not written its model yet, by the command that goes on with it."""
    if unet != directory or os.path.lexists(directory / CONFIG):
        return
    if os.path.isfile(stages := directory / "stages" / "stages.toml") and not os.path.lexists(directory / "README.md"):
        command = shlex.join(["fromnoise", "train", str(stages), "--out", str(directory), "--resume"])
        raise UserError(f"{directory} is of stages that are not finished: {command} goes on with them")
    for run in (directory, _parent(directory), _parent(_parent(directory))):  # or its checkpoints, or one of them
        if os.path.isfile(run / "training.toml") and not os.path.lexists(run / "README.md"):
            command = shlex.join(["fromnoise", "train", str(run / "training.toml"), "--out", str(run), "--resume"])
            raise UserError(f"{directory} is of a run that is not finished: {command} goes on with it")


@dataclass(frozen=True)
class ShardsFile:
    """The keys of a ``diffusion_pytorch_model.safetensors.index.json``."""

    weight_map: dict[str, str]  # the file that each tensor is in
    metadata: dict[str, Any] = field(default_factory=dict)


def weight_files(folder: Path, stem: str = STEM) -> list[Path]:
    """The safetensors files that the weights of a network are in: one, or its shards.

    Args:
        stem: how the names of the files begin.

    Raises:
        UserError: there are none, or the index of the shards names something else.
    """
    for variant in VARIANTS:
        single, index = folder / f"{stem}{variant}.safetensors", folder / f"{stem}.safetensors.index{variant}.json"
        if os.path.lexists(single):
            return [single]
        if os.path.lexists(index):
            shards = read_public(ShardsFile, load(index), str(index)).weight_map
            for key, name in shards.items():
                if not re.fullmatch(r"[\w.-]+\.safetensors", name):
                    raise refused(str(index), f"weight_map.{key}", name, "it should be a safetensors file beside it")
            return [folder / name for name in sorted(set(shards.values()))]
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    pickle = next((name for name in found if name.endswith(PICKLES)), None)
    hint = f", and the pickle {pickle} is never opened: convert it to safetensors" if pickle else ""
    raise UserError(f"{folder / stem}.safetensors is missing{hint}")
