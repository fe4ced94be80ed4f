"""Datasets as uint8 images in memory, and as batches in [-1, 1].

One function, :func:`load_images`, reads the digits that come with scikit-learn, a local folder, or a dataset of the
Hugging Face hub. Every image is decoded once; a batch is then an index and a division.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fromnoise.data.arrow import read_hub
from fromnoise.data.decoding import MODES, Decoded, Resize, colour, decode, own_limits
from fromnoise.data.folders import MAY_HOLD, read_folder
from fromnoise.data.official import table_of_arrays
from fromnoise.data.table import SPLITS, Column, File, Splits, Table
from fromnoise.errors import UserError
from fromnoise.terminal import warn

MAX_GIB = 8  # more decoded images than this are refused
HELD_OUT_SPLITS = ("test", "validation", "valid", "val")  # the names under which datasets keep what is not trained on
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "target", "digit")
Names = tuple[str, ...]
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
        source: ``digits`` (8x8, from scikit-learn), a folder (images, with or without a subfolder for each class;
            parquet files in the hub's layout; what ``save_to_disk`` wrote; the official files of MNIST or CIFAR-10),
            or a hub id such as ``ylecun/mnist``.
        split: ``train``, ``test``, or another that the dataset has. ``test`` may be called ``validation`` there. If
            there is neither, 5% of the images (1 to 5000 of them, always the same) are kept for ``test`` and left out
            of ``train``.
        channels: 1 for grey, 3 for colour; images are converted.
        size: the height and width that every image has afterwards, in pixels.
        labelled: whether to read the labels too. Classes of text, or of numbers without names, are sorted.
        image_column: the column to read; by default the first that holds images.
        label_column: the column to read; by default the first of classes, else an integer one called ``label`` or so.
        configuration: which dataset to read, where the source has several.
        resize, background: what becomes of images of another size or with transparency: see `decode`.

    Raises:
        UserError: the source, split, column or label does not exist, the hub cannot be reached, or an image is
            unreadable, of another size, or one too many for the memory; `NoLabels`, if all it lacks is labels.
    """
    if channels not in MODES:
        raise UserError(f"images have 1 channel (grey) or 3 (colour), not {channels}")
    fit = partial(decode, channels=channels, size=size, resize=resize, background=colour(background))
    splits = _open(source, configuration)
    stored, rows = _choose_rows(source, split, {name: table.rows for name, table in splits.items()})
    others = set(splits) - {stored, "train", next((name for name in HELD_OUT_SPLITS if name in splits), stored)}
    if others:
        warn(f"{source}: not read: split {', '.join(sorted(others))}")
    table = splits[stored]
    column = _image_column(source, table.columns, image_column)
    labels, class_names = None, None
    if labelled:
        label_column = _label_column(source, table.columns, label_column)
        labels, class_names, wrong = _labels(splits, stored, label_column, rows)
        if wrong is not None:
            raise _no_label(f"{source}, {stored} row {wrong}", table, column, label_column, wrong)
    places = ((f"{source}, {stored} row {row}", cell) for row, cell in _at(rows, table.values(column)))
    pixels, done = _pixels(source, places, (len(rows), channels, size, size), fit)
    if changes := _changes(done, len(rows), size, background):
        warn(f"{source}, {split}: {changes}")
    return Images(pixels, labels, class_names, changes)


def _at(rows: Sequence[int], values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """These rows, which rise, with the value of each."""
    chosen = set(rows)
    return ((row, value) for row, value in enumerate(values) if row in chosen)


def _pixels(
    source: str, cells: Iterable[tuple[str, Any]], shape: tuple[int, ...], fit: Callable[[Any, str], Decoded]
) -> tuple[Tensor, Sequence[int]]:
    """All images, decoded one at a time: uint8 of ``shape`` ``(N, C, H, W)``; and how often `Decoded` says what."""
    gib = np.prod(shape, dtype=float) / 2**30
    if gib > MAX_GIB:
        need = f"{gib:.1f} GiB of memory, more than {MAX_GIB}"
        raise UserError(f"{source} would take {need}: use fewer or smaller images")
    pixels, done = np.empty(shape, np.uint8), np.zeros(3, int)
    bar = tqdm(cells, f"reading {source}", len(pixels), unit="image", leave=False, delay=1, disable=None)
    with own_limits():
        for index, (place, cell) in enumerate(bar):
            pixels[index], *did = fit(cell, place)
            done += did
    return torch.from_numpy(pixels), done.tolist()


def _changes(done: Sequence[int], count: int, size: int, background: str) -> str:
    """In words, of so many images: how many were resized, blended and cut down to one picture."""
    what = (
        f"of {count} images resized, the shorter side to {size} pixels, and cropped to the middle",
        f"transparent, laid over {background}",
        "animated, of which the first picture is read",
    )
    return "; ".join(f"{number} {words}" for number, words in zip(done, what, strict=True) if number)


def _open(source: str, configuration: str | None) -> Splits:
    """Every split of the dataset that is asked for."""
    folder = Path(source).expanduser()
    if source == "digits":
        found = {"": _digits()}
    elif source and folder.exists():
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
    """scikit-learn's 1797 digits, whose 0..16 become 0..255; the last 297 are the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = {"image": (digits.images * (255 / 16)).round().astype(np.uint8), "label": digits.target}
    parts = {"train": slice(0, 1500), "test": slice(1500, None)}
    tables = {split: {name: array[part] for name, array in arrays.items()} for split, part in parts.items()}
    return {split: table_of_arrays(table, tuple("0123456789")) for split, table in tables.items()}


def _choose_rows(source: str, split: str, sizes: dict[str, int]) -> tuple[str, Sequence[int]]:
    """The stored split to read and its rows, given how many rows each stored split has."""
    wanted = (split, *HELD_OUT_SPLITS) if split in HELD_OUT_SPLITS else (split,)
    stored_split = next((name for name in wanted if name in sizes), "train")
    rows: Sequence[int]
    if stored_split not in sizes or split not in (stored_split, "train", *HELD_OUT_SPLITS):
        raise UserError(f"{source} has no split '{split}': it has {', '.join(sorted(sizes, reverse=True))}")
    if stored_split != "train" or any(name in sizes for name in HELD_OUT_SPLITS):
        rows = range(sizes[stored_split])
    else:
        order = torch.randperm(sizes["train"], generator=torch.Generator().manual_seed(0)).tolist()
        held_out = min(max(1, len(order) // 20), 5000)
        rows = sorted(order[held_out:] if split == "train" else order[:held_out])
    if not rows:
        raise UserError(f"{source} has no image for its split '{split}': it holds {sum(sizes.values())} in all")
    return stored_split, rows


def _image_column(source: str, columns: dict[str, Column], asked: str | None) -> str:
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
    classes = [k for k, column in columns.items() if column.names and not {*SPLITS}.issuperset(column.names)]
    candidates = classes + [k for k in LABEL_COLUMNS if k in columns and columns[k].kind == "numbers"]
    if not candidates:
        ways = "name one, make a folder for each class, or leave the classes out"
        raise NoLabels(f"{source} has no column of classes: its columns are {', '.join(columns)}: {ways}")
    return candidates[0]


def _labels(splits: Splits, stored: str, column: str, rows: Sequence[int]) -> tuple[Tensor, Names, int | None]:
    """The labels ``(N,)`` of these rows, the names of the classes, which all splits share, and the first wrong row."""
    tables = {split: table for split, table in splits.items() if column in table.columns}
    found = {split: [*_classes(table.values(column), table.columns[column].names)] for split, table in tables.items()}
    names = list(dict.fromkeys(name for table in tables.values() for name in table.columns[column].names or ()))
    if not names:
        there = {name for split in found.values() for name in split if name is not None}
        names = sorted(there, key=lambda name: (isinstance(name, str), name))
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers.get(found[stored][row], -1) for row in rows]
    return torch.tensor(labels), tuple(map(str, names)), rows[labels.index(-1)] if -1 in labels else None


def _no_label(place: str, table: Table, image_column: str, label_column: str, row: int) -> NoLabels:
    image, label = (next(islice(table.values(name), row, None)) for name in (image_column, label_column))
    place = str(image.path) if isinstance(image, File) else place
    return NoLabels(f"{place}: label {label} is no class: choose a split or column with labels")


def _classes(values: Iterable[Any], names: Names | None) -> Iterator[Any]:
    """The class of each row: its name or, where there are no names, its number or text; None if it has none."""
    for value in values:
        if isinstance(value, (str, bool)):
            yield str(value) or None
        else:
            there = value is not None and 0 <= value < (len(names) if names else np.inf)
            yield (names[value] if names else value) if there else None
