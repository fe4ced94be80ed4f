"""The real images that drawn ones are compared with, and how far from them other real images are."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.decoding import Resize
from fromnoise.data.images import Images, NoLabels, load_images
from fromnoise.data.table import source_name
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE
from fromnoise.evaluate.distances import NEIGHBOURS
from fromnoise.models import Model, shipped_models
from fromnoise.models.conditioning import Wish
from fromnoise.train.config import load_config

MNIST = "ylecun/mnist"
SPLIT_NAMES = {"test": "test images", "train": "training images"}


@dataclass(frozen=True)
class Reference:
    """One split of a dataset, and how it is read: as in training; see `load_images`."""

    source: str  # a hub id, or a folder with a local copy
    split: str = "test"  # or train
    image_column: str | None = None
    label_column: str | None = None
    configuration: str | None = None
    resize: Resize = "crop"
    background: str = "white"

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder, whose content may differ from the dataset of that name."""
        return source_name(self.source)

    @property
    def other_split(self) -> "Reference":
        """``train`` for ``test``, and the reverse."""
        return replace(self, split="train" if self.split == "test" else "test")

    def load(self, shape: tuple[int, int, int], *, labelled: bool = False) -> Images:
        """Its images, made to fit ``shape`` (C, H, W)."""
        channels, size, _ = shape
        return load_images(channels=channels, size=size, labelled=labelled, **vars(self))


def reference_of(model: Model, name: str, data: str | None = None, split: str = "test") -> Reference | None:
    """What a model's images are compared with.

    Args:
        name: of the model, as `open_model` takes it.
        data: the real images, a hub id or a folder; none: those that the ``training.toml`` beside the model names, or
            MNIST if there is none and the images have its size.
        split: ``test`` or ``train``.

    Returns none if it cannot be known, and raises a `UserError` if the ``training.toml`` cannot be read.
    """
    shipped = {model.name: model.path for model in shipped_models()}
    path = shipped.get(name, Path(name)) / "training.toml"
    if path.is_file():
        config = load_config(str(path)).data
        how = (config.image_column, config.label_column, config.configuration if data is None else None)
        return Reference(config.source if data is None else data, split, *how, config.resize, config.background)
    source = MNIST if data is None and model.space.image_shape == SHAPE else data
    return None if source is None else Reference(source, split)


@dataclass(frozen=True)
class RealImages:
    """The real images of an evaluation: both splits of a dataset, each read once, when it is first needed.

    All it does raises a `UserError` where the data cannot be read.
    """

    reference: Reference
    shape: tuple[int, int, int]  # (C, H, W) of every image
    labelled: bool  # whether to read labels, where there are any
    class_names: tuple[str, ...] = ()  # of the model, whose numbers the labels become; none: the data's

    @cached_property
    def images(self) -> Images:
        """The images of the reference, in their stored order."""
        return self._load(self.reference)

    @cached_property
    def others(self) -> Images:
        """The images of the other split, shuffled."""
        others = self._load(self.reference.other_split)
        order = _shuffled(len(others))
        return Images(others.pixels[order], None if others.labels is None else others.labels[order])

    def _load(self, reference: Reference) -> Images:
        try:
            images = reference.load(self.shape, labelled=self.labelled)
        except NoLabels:
            return reference.load(self.shape)
        return images.with_classes(self.class_names) if self.class_names else images

    def check_comparable(self) -> None:
        """Refuses next to no images with a `UserError`."""
        if min(len(self.images), len(self.others)) <= NEIGHBOURS:
            count = len(self.images) + len(self.others)
            raise UserError(f"{self.reference.source} has {count} images, too few to compare with")

    def class_mix(self, n: int) -> list[Wish]:
        """The classes of the first n of `others`, a sample of the mix; a `UserError` where there are not n labels."""
        if self.others.labels is None or len(self.others) < n:
            there = f"{n} labelled {SPLIT_NAMES[self.reference.other_split.split]}"
            raise UserError(f"{self.reference.source} has no {there}: give a lower --n, or leave --data-mix out")
        return list(self.others.labels[:n].tolist())

    def comparison(self, n: int, labels: Tensor | None) -> dict[str, Tensor]:
        """What n drawn images with these labels ``(n,)``, or none, are compared with, each ``(M, C, H, W)`` uint8.

        ``reference``: its images, shuffled. ``baseline``: n images of the other split, or all, if there are fewer,
        whose distance is what to expect of real images. ``baseline of classes``: images of the other split, the same
        number of each class as are drawn; only with labels, and if there are enough.
        """
        pixels = self.images.pixels[_shuffled(len(self.images))]
        found = {"reference": pixels, "baseline": self.others.pixels[:n]}
        if labels is not None and self.others.labels is not None:
            chosen = _of_classes(self.others.labels, labels)
            found |= {} if chosen is None else {"baseline of classes": self.others.pixels[chosen]}
        return found

    def description(self) -> dict[str, Any]:
        """What the images of the reference are, as plain values; ``checksum`` is the CRC-32 of their pixels."""
        return {
            "name": self.reference.name,
            "split": self.reference.split,
            "size": len(self.images),
            "shape": list(self.shape),
            "checksum": zlib.crc32(self.images.pixels.contiguous().numpy().tobytes()),
        }


def _of_classes(available: Tensor, wanted: Tensor) -> Tensor | None:
    """The first places in ``available`` that have as many of each label as ``wanted``; None if there are too few."""
    places = []
    for label, count in zip(*wanted.unique(return_counts=True), strict=True):
        found = (available == label).nonzero()[:count, 0]
        if len(found) < count:
            return None
        places.append(found)
    return torch.cat(places)


def _shuffled(count: int) -> Tensor:
    """A random order of so many images, always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
