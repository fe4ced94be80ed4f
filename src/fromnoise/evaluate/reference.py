"""The real images that drawn ones are compared with, and how far from them other real images are."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.images import Images, NoLabels, load_images
from fromnoise.data.table import source_name
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE
from fromnoise.evaluate.distances import NEIGHBOURS
from fromnoise.models import Model, shipped_models
from fromnoise.models.conditioning import Wish
from fromnoise.train.config import load_config

MNIST = "ylecun/mnist"
SCENES = "scenes"
"""where the data of a model of captioned scenes come from; there is no split of them to compare with"""
SPLIT_NAMES = {"test": "test images", "train": "training images"}


@dataclass(frozen=True)
class RealImages:
    """Both splits of a dataset, each read once, when it is first needed: one is the reference, the other its baseline.

    All it does raises a `UserError` where the data cannot be read.
    """

    source: str  # a hub id, or a folder with a local copy
    split: str  # the reference: test or train
    shape: tuple[int, int, int]  # (C, H, W) of every image
    class_names: tuple[str, ...] = ()  # of the model, whose numbers the labels become; none: no labels are read
    how: Mapping[str, Any] = field(default_factory=lambda: {"resize": "crop"})
    """options of `load_images`, as in training"""

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder, whose content may differ from the dataset of that name."""
        return source_name(self.source)

    @property
    def other_split(self) -> str:
        """``train`` for ``test``, and the reverse."""
        return "train" if self.split == "test" else "test"

    @cached_property
    def images(self) -> Images:
        """The images of the reference, in their stored order."""
        return self._load(self.split)

    @cached_property
    def others(self) -> Images:
        """The images of the other split, shuffled."""
        others = self._load(self.other_split)
        order = _shuffled(len(others))
        return Images(others.pixels[order], None if others.labels is None else others.labels[order])

    def _load(self, split: str) -> Images:
        options = {"channels": self.shape[0], "size": self.shape[1], **self.how}
        try:
            if self.class_names:
                return load_images(self.source, split, labelled=True, **options).with_classes(self.class_names)
        except NoLabels:
            pass
        return load_images(self.source, split, **options)

    def check_comparable(self) -> None:
        """Refuses next to no images with a `UserError`."""
        if min(len(self.images), len(self.others)) <= NEIGHBOURS:
            count = len(self.images) + len(self.others)
            raise UserError(f"{self.source} has {count} images, too few to compare with")

    def class_mix(self, n: int) -> list[Wish]:
        """The classes of the first n of `others`, a sample of the mix; a `UserError` where there are not n labels."""
        if self.others.labels is None or len(self.others) < n:
            there = f"{n} labelled {SPLIT_NAMES[self.other_split]}"
            raise UserError(f"{self.source} has no {there}: give a lower --n, or leave --data-mix out")
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
            wanted = zip(*labels.unique(return_counts=True), strict=True)
            chosen = torch.cat([(self.others.labels == label).nonzero()[:count, 0] for label, count in wanted])
            if len(chosen) == len(labels):
                found["baseline of classes"] = self.others.pixels[chosen]
        return found

    def description(self) -> dict[str, Any]:
        """What the images of the reference are, as plain values; ``checksum`` is the CRC-32 of their pixels."""
        return {
            "name": self.name,
            "split": self.split,
            "size": len(self.images),
            "shape": list(self.shape),
            "checksum": zlib.crc32(self.images.pixels.contiguous().numpy().tobytes()),
        }


def reference_of(model: Model, name: str, data: str | None = None, split: str = "test") -> RealImages | None:
    """What a model's images are compared with.

    Args:
        name: of the model, as `open_model` takes it.
        data: the real images, a hub id or a folder; none: those that the ``training.toml`` beside the model names, or
            MNIST if there is none and the images have its size.
        split: ``test`` or ``train``.

    Returns none if it cannot be known or the model was trained on scenes, and raises a `UserError` if the
    ``training.toml`` cannot be read.
    """
    shipped = {model.name: model.path for model in shipped_models()}
    path = shipped.get(name, Path(name)) / "training.toml"
    source, how = MNIST if model.space.image_shape == SHAPE else None, dict[str, Any](resize="crop")
    if path.is_file():
        config = load_config(str(path)).data
        names = ("image_column", "label_column", "configuration", "resize", "background")
        source, how = config.source, {name: getattr(config, name) for name in names}
    if data is not None:
        source = data
        how.pop("configuration", None)
    return (
        None
        if source in (None, SCENES)
        else RealImages(source, split, model.space.image_shape, model.conditioner.names, how)
    )


def _shuffled(count: int) -> Tensor:
    """A random order of so many images, always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
