"""What a model of captioned scenes is measured with: true scenes, what reads them, and CLIP."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fromnoise.data.cutouts import Cutouts
from fromnoise.data.digits import Digits
from fromnoise.data.images import from_pixels, to_pixels
from fromnoise.data.scene_captions import Scene
from fromnoise.data.scenes import Scenes, load_held_out
from fromnoise.data.table import source_name
from fromnoise.data.things import Kind
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import open_classifier
from fromnoise.evaluate.cutout_reader import open_cutout_reader
from fromnoise.evaluate.metrics import SCENE_METRICS, Measurement, check_names
from fromnoise.evaluate.prompts import (
    BATCH,
    Asked,
    Embedder,
    Reader,
    measure_clip,
    measure_prompts,
    measure_reconstruction,
    measure_sharpness,
)
from fromnoise.evaluate.reference import SCENES
from fromnoise.evaluate.scene_reader import DigitReader, ThingReader, matches, read_scenes
from fromnoise.interop.tokenizer import read_tokenizer
from fromnoise.models import Model, shipped_models
from fromnoise.models.clip import open_clip
from fromnoise.models.conditioning import Prompts
from fromnoise.sampling.plan import Plan, plan
from fromnoise.sampling.request import MOST_IMAGES, Request
from fromnoise.train.config import DataConfig, load_config

CLIP = "clip"  # the folder of the small CLIP, in that of a model
EACH = 2000
"""how many prompts there are of each kind, and how many scenes are reconstructed, unless told otherwise"""
LEAST = 2  # for a standard error


@dataclass(frozen=True)
class TrueScenes:
    """True scenes and what looks at them; each part is opened once, when it is first needed.

    All it does raises a `UserError` where something is missing.
    """

    config: DataConfig  # of the model's training, with the digits, the font or the things from where they lie
    folder: Path  # the model's

    @cached_property
    def held_out(self) -> Scenes:
        """The scenes, of digits those of the test split."""
        try:
            return load_held_out(self.config)
        except UserError as error:  # which says what training takes
            raise UserError(re.sub(r"--data\.(digits|font)", "--data", str(error))) from error

    @cached_property
    def read(self) -> Reader:
        """What reads pictures."""
        reader = self._reader()

        def read(pixels: Tensor, scenes: Sequence[Scene]) -> list[dict[str, bool]]:
            parts = tqdm(pixels.split(BATCH), "reading pictures", unit="batch", leave=False, delay=1, disable=None)
            found = [scene for part in parts for scene in read_scenes(part, reader)]
            return [matches(scene, shown) for scene, shown in zip(scenes, found, strict=True)]

        return read

    def _reader(self) -> ThingReader:
        """What says which things there are: digits, by the classifier that ships; others, by one that was trained."""
        if isinstance(self.held_out.things, Digits):
            return DigitReader(open_classifier()[0])
        assert isinstance(self.held_out.things, Cutouts)
        return open_cutout_reader(self.held_out.things, self.folder)

    @property
    def has_clip(self) -> bool:
        """Whether there is a small CLIP beside the model."""
        return (self.folder / CLIP).is_dir()

    @cached_property
    def embed(self) -> Embedder:
        """What the small CLIP beside the model makes of pictures and captions."""
        if not self.has_clip:
            raise UserError(f"clip takes the model's own CLIP, and {self.folder / CLIP} is not there: leave clip out")
        clip, tokenizer = open_clip(self.folder / CLIP), read_tokenizer(self.folder / CLIP)
        text, size = clip.config.text, clip.config.image.size
        if size != self.config.size or tokenizer.size > text.vocabulary or tokenizer.length > text.max_length:
            raise UserError(f"{self.folder / CLIP} takes other pictures or tokens: put the CLIP of the model there")

        def embed(pixels: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
            tokens = torch.tensor([tokenizer(caption).ids for caption in captions])  # (N, tokens)
            images = [clip.embed_images(from_pixels(part)) for part in pixels.split(BATCH)]
            return torch.cat(images), torch.cat([clip.embed_texts(part) for part in tokens.split(BATCH)])

        return embed

    def painted(self, scenes: Sequence[Scene], seed: int) -> Tensor:
        """True pictures of scenes, uint8 ``(N, 3, size, size)``, of things that the seed chooses."""
        generator = torch.Generator().manual_seed(seed)
        parts = [scenes[i : i + BATCH] for i in range(0, len(scenes), BATCH)]
        return torch.cat([to_pixels(self.held_out.images(self.held_out.paint(part, generator))) for part in parts])

    def random(self, n: int, seed: int) -> tuple[Tensor, list[Scene]]:
        """n true pictures of one thing or two, uint8 ``(n, 3, size, size)``, and what they show."""
        drawn, scenes = self.held_out.draw_scenes(n, torch.Generator().manual_seed(seed))
        return to_pixels(self.held_out.images(drawn)), scenes

    @property
    def name(self) -> str:
        """What the scenes are made of: a hub id of digits, emoji, or the name of a folder."""
        config = self.config
        return source_name(config.digits if config.things == "digits" else config.things)

    @property
    def split(self) -> str:
        """Whose things they are; only of digits there are others than those that were trained on."""
        return "test" if self.config.things == "digits" else "train"

    def description(self) -> dict[str, Any]:
        """What the scenes are made of, as plain values; ``checksum`` is the CRC-32 of the things' pixels."""
        pixels = self.held_out.things.pixels
        return {
            "name": self.name,
            "split": self.split,
            "size": len(pixels),
            "shape": list(pixels.shape[1:]),
            "checksum": zlib.crc32(pixels.contiguous().numpy().tobytes()),
        }


def scenes_of(name: str, data: str | None = None) -> TrueScenes | None:
    """The scenes that a model is measured by; none for a model that was trained on something else.

    Args:
        name: of the model, as `open_model` takes it.
        data: where the digits lie, a hub id or a folder; of other things, the font or the folder of cut-outs; none: as
            the ``training.toml`` beside the model says.

    Raises:
        UserError: the ``training.toml`` cannot be read.
    """
    folder = {model.name: model.path for model in shipped_models()}.get(name, Path(name))
    if not (folder / "training.toml").is_file():
        return None
    config = load_config(str(folder / "training.toml")).data
    if config.source != SCENES:
        return None
    given = {"digits": "digits", "emoji": "font", "emoji-200": "font"}.get(config.things, "things")
    elsewhere: dict[str, Any] = {} if data is None else {given: data}
    return TrueScenes(replace(config, **elsewhere), folder)


def fitting_scene_metrics(model: Model, source: TrueScenes) -> tuple[str, ...]:
    """What is measured of a model of scenes unless told otherwise."""
    fits = {"prompts": True, "sharpness": True, "reconstruction": _sees_latents(model), "clip": source.has_clip}
    return tuple(name for name in SCENE_METRICS if fits[name])


@dataclass(frozen=True)
class SceneTest:
    """Which metrics are measured by how many scenes; all that they take is opened."""

    metrics: tuple[str, ...]  # of `SCENE_METRICS`
    source: TrueScenes
    n: int  # prompts of each kind, and scenes that are reconstructed
    sets: dict[Kind, list[Scene]]  # what is drawn, n scenes of each kind; empty where nothing is

    def measure(self, plan: Plan, drawn: Tensor | None) -> dict[str, Measurement]:
        """The figures, given what was drawn of `sets`, one after the other, uint8 ``(N, 3, S, S)``."""
        source, seed, sets = self.source, plan.request.seed, dict[Kind, Asked]()
        if drawn is not None:
            parts = zip(self.sets.items(), drawn.split(self.n), strict=True)
            sets = {kind: Asked(told, source.painted(told, seed), part) for (kind, told), part in parts}
        found = measure_prompts(source.read, sets) if "prompts" in self.metrics else {}
        if "sharpness" in self.metrics:
            found |= measure_sharpness(sets)
        if "reconstruction" in self.metrics:
            pixels, told = source.random(self.n, seed)
            found |= measure_reconstruction(source.read, plan.model.space, plan.device, pixels, told)
        if "clip" in self.metrics:
            found |= measure_clip(source.embed, sets)
        return found


def prepare_scenes(
    model: Model, request: Request, metrics: Sequence[str], source: TrueScenes | None
) -> tuple[Plan, SceneTest]:
    """Checks what is to be measured by scenes, and opens and reads all that it takes.

    Args:
        request: without prompts; ``n`` is how many there are of each kind, `EACH` unless told otherwise.
        metrics: at least one of `SCENE_METRICS`.

    Returns the plan that draws all sets one after the other, and what is done with the images. In the plan's request
    ``n`` is as here, and there are no prompts: they follow from ``n`` and the seed. It shows the network many images at
    a time: they are those that ``fromnoise sample`` draws, up to rounding.

    Raises:
        UserError: they do not fit the model or the request, go with other metrics, or something is missing.
    """
    named = next(name for name in metrics if name in SCENE_METRICS)
    if source is None or not isinstance(model.conditioner, Prompts):
        raise UserError(f"{named} is for a model of prompts that was trained on scenes: leave it out of --metrics")
    _check_metrics(named, metrics, model, source)
    n = EACH if request.n is None else request.n
    draws = set(metrics) != {"reconstruction"}
    kinds = source.held_out.things.kinds
    most = MOST_IMAGES // len(kinds)
    if not LEAST <= n <= most:
        raise UserError(f"n is the number of prompts of each kind here: it must be from {LEAST} to {most}, not {n}")
    if request.prompts or request.classes:
        raise UserError(f"{named} draws prompts of its own: leave --prompt out")
    planned = plan(model, replace(request, n=len(kinds) * n if draws else n, prompts=("",)))
    if planned.edit is not None or planned.shape != model.space.shape:
        raise UserError(f"{named} draws scenes as in training: leave --init-image, --height and --width out")
    asked = kinds if draws else ()
    sets = {kind: source.held_out.prompts(kind, n, request.seed) for kind in asked}
    captions = [scene.caption for told in sets.values() for scene in told]
    wishes = model.conditioner.wishes(captions, len(captions)) if draws else planned.wishes
    test = SceneTest(tuple(metrics), source, n, sets)
    _ = source.read
    if "clip" in metrics:
        _ = source.embed
    return replace(planned, wishes=wishes, request=replace(planned.request, n=n, prompts=()), many=True), test


def _check_metrics(named: str, metrics: Sequence[str], model: Model, source: TrueScenes) -> None:
    """Refuses metrics that do not go together, or not with the model."""
    check_names(metrics)
    if others := [name for name in metrics if name not in SCENE_METRICS]:
        raise UserError(f"{named} goes by scenes, and {others[0]} by other images: measure one after the other")
    if model.space.image_shape != (3, source.config.size, source.config.size):
        shape = "x".join(map(str, model.space.image_shape))
        raise UserError(f"the model draws {shape}, and its training.toml says scenes of {source.config.size} pixels")
    if "reconstruction" in metrics and not _sees_latents(model):
        raise UserError("reconstruction measures an autoencoder, and this model has none: leave it out of --metrics")


def _sees_latents(model: Model) -> bool:
    return model.space.shape != model.space.image_shape
