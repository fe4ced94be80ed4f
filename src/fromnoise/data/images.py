"""Datasets as uint8 images in memory, and as batches in [-1, 1].

One function, :func:`load_images`, reads the digits that come with scikit-learn, a local folder, or a dataset of the
Hugging Face hub. Every image is decoded once; a batch is then an index and a division.
"""

import gzip
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fromnoise.data.arrow import read_hub
from fromnoise.data.decoding import MODES, Decoded, Resize, check_colour, decode, own_limits, place_of
from fromnoise.data.folders import MAY_HOLD, read_folder
from fromnoise.data.table import SPLITS, Column, Splits, in_memory, local
from fromnoise.errors import UserError
from fromnoise.terminal import warn

MEMORY_SHARE = 1 / 3
"""of the machine's memory, what decoded images may take: a step of training takes another third of a small machine's
(3.6 GiB, with the largest preset), and the third third is everything else's"""
SMALL_MACHINE = 12 * 2**30  # bytes of memory, where a machine does not say how much it has
CONTAINER_LIMITS = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")]
"""where Linux says how many bytes of it the container may have, by the second and the first version of its groups"""
MOST_HELD_OUT = 5000  # of images that come in one split
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "target", "digit")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class NoLabels(UserError):
    """The images are there, but not the class of each."""


def from_pixels(pixels: Tensor) -> Tensor:
    """uint8 pixels in 0..255 as float32 in [-1, 1], any shape: ``x / 127.5 - 1``."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] as the nearest uint8 pixels, any shape; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Images:
    """Images in memory, with their labels where these were asked for."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor | None = None  # (N,) int64, places in class_names
    class_names: tuple[str, ...] | None = None  # of the whole dataset, not of this split alone
    changes: str = ""  # what was done to the images to make them fit, in words

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images ``(B, C, H, W)``, float32 in [-1, 1], and labels ``(B,)`` at ``indices`` ``(B,)``."""
        return from_pixels(self.pixels[indices]), None if self.labels is None else self.labels[indices]

    def with_classes(self, names: Sequence[str]) -> "Images":
        """The same images, with labels that are places in ``names``.

        Raises:
            UserError: an image is of a class that is not among them.
        """
        if self.labels is None or self.class_names is None or self.class_names == tuple(names):
            return self
        here = [self.class_names[label] for label in self.labels.unique().tolist()]
        if missing := [name for name in here if name not in names]:
            known = ", ".join(names[:10]) + (", ..." if names[10:] else "")
            raise UserError(f"there is no class {missing[0]} among {known}: give data with these classes")
        places = torch.tensor([names.index(name) if name in names else -1 for name in self.class_names])
        return replace(self, labels=places[self.labels], class_names=tuple(names))


def load_images(
    source: str,
    split: str = "train",
    *,
    channels: int,
    size: int,
    labelled: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    configuration: str | None = None,
    resize: Resize = "none",
    background: str = "white",
) -> Images:
    """Reads one split of a dataset into memory. What of it is changed or not read is told on stderr.

    Args:
        source: ``digits`` (8x8, from scikit-learn), a hub id such as ``ylecun/mnist``, or a folder of what `MAY_HOLD`
            lists.
        split: ``train``, ``test``, or another that the dataset has. ``test`` may be called ``validation`` there. If
            there is neither, 5% of the images (1 to 5000 of them, always the same) are kept for ``test`` and left out
            of ``train``.
        channels, size, resize, background: what images become, see `decode`.
        labelled: whether to read the labels too. Classes of text, or of numbers without names, are sorted.
        image_column: the column to read; by default the first that holds images.
        label_column: the column to read; by default the first of classes, else an integer one called ``label`` or so.
        configuration: which dataset to read, where the source has several.

    Raises:
        UserError: the source, split, column or label does not exist, the hub cannot be reached, or an image is
            unreadable, of another size, or one too many for the memory; `NoLabels`, if all it lacks is labels.
    """
    if channels not in MODES:
        raise UserError(f"images have 1 channel (grey) or 3 (colour), not {channels}")
    check_colour(background)
    splits = open_splits(source, configuration)
    stored, rows = choose_rows(source, split, splits)
    table, chosen, place = splits[stored], set(rows), f"{source}, {stored} row"
    column = image_column_of(source, table.columns, image_column)
    labels, class_names = None, None
    if labelled:
        label_column = _label_column(source, table.columns, label_column)
        classes = _classes(splits, label_column)
        numbers = {name: number for number, name in enumerate(classes)}
        found = [*table.values(label_column)]
        if (wrong := next((row for row in rows if found[row] not in numbers), None)) is not None:
            what = f"{place_of(table.value(column, wrong), f'{place} {wrong}')}: label {found[wrong]} is no class"
            raise NoLabels(f"{what}: choose a split or column with labels")
        labels, class_names = torch.tensor([numbers[found[row]] for row in rows]), tuple(map(str, classes))
    cells = ((f"{place} {row}", cell) for row, cell in enumerate(table.values(column)) if row in chosen)
    fit = partial(decode, channels=channels, size=size, resize=resize, background=background)
    pixels, changes = read_pixels(source, cells, (len(rows), channels, size, size), fit)
    if changes:
        warn(f"{source}, {split}: {changes}")
    return Images(pixels, labels, class_names, changes)


def open_splits(source: str, configuration: str | None) -> Splits:
    """Every split of the dataset that is asked for."""
    if source == "digits":
        found = {"": _digits()}
    elif folder := local(source):
        if not folder.is_dir():
            raise UserError(f"{source} is no folder: give the folder that it is in")
        found = read_folder(folder)
    elif HUB_ID.fullmatch(source):
        return read_hub(source, configuration)
    elif "/" in source or "\\" in source or source.startswith(("~", ".")):
        raise UserError(f"there is no folder {source}")
    else:
        raise UserError(f"unknown data {source!r}: give digits, a hub id like ylecun/mnist, or a folder of {MAY_HOLD}")
    if configuration is None and len(found) == 1:
        return next(iter(found.values()))
    if configuration not in found:
        names = ", ".join(sorted(found)) or "no name"
        raise UserError(f"{source} holds several datasets: give the folder of one, or --data.configuration: {names}")
    return found[configuration]


def _digits() -> Splits:
    """scikit-learn's 1797 digits, whose 0..16 become 0..255; the last 297 are the test split.

    What `load_digits` returns, from the file that it reads: importing scikit-learn takes seconds.
    """
    stored = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(stored), "rt") as file:
        table, classes = np.loadtxt(file, delimiter=","), tuple("0123456789")
    images = (table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    labels = table[:, -1].astype(int).tolist()
    train, test = {"image": images[:1500], "label": labels[:1500]}, {"image": images[1500:], "label": labels[1500:]}
    return {"train": in_memory(train, classes), "test": in_memory(test, classes)}


def _stored(split: str, names: Collection[str]) -> str | None:
    """Which of the stored splits is read for one that is asked for; to train, if a test split is cut out of that."""
    kinds = {SPLITS.get(name.lower(), name): name for name in reversed([*names])}
    kind = SPLITS.get(split.lower(), split)
    others = ("test", "validation", "train") if kind in ("test", "validation") else ()
    return split if split in names else next((kinds[other] for other in (kind, *others) if other in kinds), None)


def choose_rows(source: str, split: str, splits: Splits) -> tuple[str, Sequence[int]]:
    """The stored split to read for one that is asked for, and its rows. Others that nobody reads are told of."""
    sizes = {name: table.rows for name, table in splits.items()}
    if (stored := _stored(split, sizes)) is None:
        raise UserError(f"{source} has no split '{split}': it has {', '.join(sorted(sizes, reverse=True))}")
    rows: Sequence[int] = range(sizes[stored])
    if stored == _stored("train", sizes) == _stored("test", sizes):
        order = torch.randperm(sizes[stored], generator=torch.Generator().manual_seed(0)).tolist()
        held_out = min(max(1, len(order) // 20), MOST_HELD_OUT)
        rows = sorted(order[held_out:] if SPLITS.get(split.lower()) == "train" else order[:held_out])
    if not rows:
        raise UserError(f"{source} has no image for its split '{split}': it holds {sum(sizes.values())} in all")
    if others := sorted(set(splits) - {_stored(name, splits) for name in (split, "train", "test")}):
        warn(f"{source}: not read: split {', '.join(others)}")
    return stored, rows


def image_column_of(source: str, columns: dict[str, Column], asked: str | None) -> str:
    for column in [asked] if asked else columns:
        if column in columns and columns[column].kind == "images":
            return column
    named = f" {asked!r}" if asked else ""
    raise UserError(f"{source} has no image column{named}: its columns are {', '.join(columns)}")


def _label_column(source: str, columns: dict[str, Column], asked: str | None) -> str:
    if asked:
        if asked in columns and columns[asked].kind in ("numbers", "text"):
            return asked
        raise UserError(f"{source} has no column of classes {asked!r}: its columns are {', '.join(columns)}")
    # train/ and test/ that hold their images directly look like two classes
    classes = [name for name, column in columns.items() if column.names and not {*SPLITS}.issuperset(column.names)]
    classes += [name for name in LABEL_COLUMNS if name in columns and columns[name].kind == "numbers"]
    if not classes:
        ways = "name one, make a folder for each class, or leave the classes out"
        raise NoLabels(f"{source} has no column of classes: its columns are {', '.join(columns)}: {ways}")
    return classes[0]


def _classes(splits: Splits, column: str) -> list[Any]:
    """All classes, which the splits share: those that are promised, or else the values that are there, sorted."""
    tables = [table for table in splits.values() if column in table.columns]
    if promised := dict.fromkeys(name for table in tables for name in table.columns[column].names):
        return list(promised)
    there = {value for table in tables for value in table.values(column) if value not in (None, "")}
    classes = (value for value in there if isinstance(value, str) or value >= 0)
    return sorted(classes, key=lambda value: (isinstance(value, str), value))


def room() -> int:
    """How many bytes of decoded images this process may hold, where one of several on a machine has its share."""
    told = hasattr(os, "sysconf")  # on Windows it is not
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if told else SMALL_MACHINE
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            memory = min(memory, int(file.read_text()))
    return int(MEMORY_SHARE * memory) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def read_pixels(
    source: str, cells: Iterable[tuple[str, Any]], shape: tuple[int, ...], fit: Callable[[Any, str], Decoded]
) -> tuple[Tensor, str]:
    """All images, decoded one at a time, uint8 of ``shape`` ``(N, C, H, W)``, and what was done to them, in words."""
    if (need := math.prod(shape)) > room():
        what = f"{need / 2**30:.1f} GiB of memory, more than the {room() / 2**30:.1f} that there are for images"
        raise UserError(f"{source} would take {what}: use fewer or smaller images")
    done = Counter[str]()
    bar = tqdm(cells, f"reading {source}", shape[0], unit="image", leave=False, delay=1, disable=None)
    pixels = decoded(bar, shape, fit, done)
    total = f"of {len(pixels)} images"
    return pixels, "; ".join(f"{number} {total} {what}" for what, number in done.items())


def decoded(
    cells: Iterable[tuple[str, Any]],
    shape: tuple[int, ...],
    fit: Callable[[Any, str], Decoded],
    done: Counter[str] | None = None,
) -> Tensor:
    """Images, decoded one at a time, uint8 of ``shape`` ``(N, C, H, W)``; ``done`` counts what was done to them."""
    pixels, done = np.empty(shape, np.uint8), Counter() if done is None else done
    with own_limits():
        for index, (row, cell) in enumerate(cells):
            pixels[index], changes = fit(cell, row)
            done.update(changes)
    return torch.from_numpy(pixels)
