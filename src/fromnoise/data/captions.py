"""Pictures with captions: scenes that are drawn without end, or the pictures of a folder or a dataset of the hub."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fromnoise.data.decoding import check_colour, decode, place_of
from fromnoise.data.images import choose_rows, from_pixels, image_column_of, open_splits, read_pixels
from fromnoise.data.table import CAPTION_COLUMNS, Column, File, Splits
from fromnoise.errors import UserError
from fromnoise.terminal import warn

if TYPE_CHECKING:
    from fromnoise.train.config import DataConfig

Drawn = dict[str, Tensor]  # what pictures are made from, by name, each tensor with the batch first, on any device

WAYS = (
    "put a metadata.jsonl with file_name and text beside the images, or a .txt beside each, or name the column of a "
    "dataset by --data.caption-column"
)
MISSING, EMPTY = "have no caption", "have an empty one"
TWICE, SHARED = "have one twice", "share one with others"


class Captioned(Protocol):
    """Pictures with captions, of which training asks for one batch after the other."""

    rows: int | None  # how many there are; none: they are drawn without end
    size: int  # height and width, in pixels

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """What the pictures at ``indices`` ``(B,)`` are made from, on the CPU, and a caption of each.

        It depends on nothing but the arguments. Where there is no end, ``indices`` says no more than how many.
        """

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], on the device of ``drawn``."""


class CaptionedImages:
    """Pictures in memory, each with one caption or several.

    Args:
        pixels: uint8 ``(N, 3, S, S)``.
        captions: those of each picture, at least one.
        flip: mirror half of the pictures that are drawn, at random.
        changes: what was done to the pictures to make them fit, in words.
    """

    def __init__(self, pixels: Tensor, captions: Sequence[Sequence[str]], *, flip: bool = False, changes: str = ""):
        self.pixels, self.captions, self.flip, self.changes = pixels, captions, flip, changes
        self.rows: int | None = len(pixels)
        self.size: int = pixels.shape[-1]

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """The pixels ``(B, 3, S, S)`` at ``indices`` ``(B,)``, and one of the captions of each, at random."""
        choice, mirror = torch.rand(2, len(indices), generator=generator)  # (B,) each
        pixels = self.pixels[indices]  # (B, 3, S, S)
        if self.flip:
            pixels = torch.where((mirror < 0.5)[:, None, None, None], pixels.flip(-1), pixels)
        several = [self.captions[index] for index in indices.tolist()]
        captions = [of_one[int(u * len(of_one))] for of_one, u in zip(several, choice.tolist(), strict=True)]
        return {"pixels": pixels}, captions

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, S, S)``, float32 in [-1, 1]."""
        return from_pixels(drawn["pixels"])

    def among(self, rows: Tensor) -> "CaptionedImages":
        """Those of some rows ``(n,)``."""
        captions = [self.captions[row] for row in rows.tolist()]
        return CaptionedImages(self.pixels[rows], captions, flip=self.flip, changes=self.changes)


def load_captioned(config: "DataConfig", source: str) -> tuple[Captioned, Captioned]:
    """The captioned pictures of ``source`` for training, and those that are held out.

    Of a folder or a dataset, held out are those of the split ``test``, or 5% of all, as `load_images` chooses them. A
    picture that is among them and among the others is left out of the others.

    Raises:
        UserError: there are none, or no captions, or they cannot be read.
    """
    if source == "scenes":
        from fromnoise.data.scenes import load_scenes  # which is made of what stands above

        return load_scenes(config)
    splits = open_splits(source, config.configuration)
    held_out = _load(config, source, "test", splits)
    train = _load(config, source, "train", splits, flip=config.flip)
    seen = {row.numpy().tobytes() for row in held_out.pixels}
    kept = [row for row, picture in enumerate(train.pixels) if picture.numpy().tobytes() not in seen]
    if not kept:
        raise UserError(f"{source}: each picture is held out, too, and none is left to train on: give others")
    if twice := len(train.pixels) - len(kept):
        warn(f"{source}, train: {twice} of {len(train.pixels)} pictures are held out, too, and left out here")
        train = train.among(torch.tensor(kept))
    return train, held_out


def _load(config: "DataConfig", source: str, split: str, splits: Splits, *, flip: bool = False) -> CaptionedImages:
    """One split in memory; what its captions lack is told on stderr."""
    check_colour(config.background)
    stored, chosen = choose_rows(source, split, splits)
    table, place, wanted = splits[stored], f"{source}, {stored} row", set(chosen)
    pictures = image_column_of(source, table.columns, config.image_column)
    column = _caption_column(source, table.columns, config.caption_column)
    found = {row: list(_texts(cell)) for row, cell in enumerate(table.values(column)) if row in wanted}

    def name(row: int) -> str:
        cell = next(islice(table.values(pictures), row, None))
        return str(cell.below) if isinstance(cell, File) else place_of(cell, f"row {row}")

    captions = _checked(f"{source}, {split}", found, name)
    if not captions:
        raise UserError(f"{source}, {split}: no picture has a caption in {column}: {WAYS}")
    fit = partial(decode, channels=3, size=config.size, resize=config.resize, background=config.background)
    cells = ((f"{place} {row}", cell) for row, cell in enumerate(table.values(pictures)) if row in captions)
    pixels, changes = read_pixels(source, cells, (len(captions), 3, config.size, config.size), fit)
    if changes:
        warn(f"{source}, {split}: {changes}")
    return CaptionedImages(pixels, list(captions.values()), flip=flip, changes=changes)


def _caption_column(source: str, columns: dict[str, Column], asked: str | None) -> str:
    """The column of captions: the one that is asked for, or the first of a usual name."""
    for column in [asked] if asked else CAPTION_COLUMNS:
        if column in columns and columns[column].kind != "images":
            return column
    named = f" {asked!r}" if asked else ""
    raise UserError(f"{source} has no column of captions{named}: its columns are {', '.join(columns)}: {WAYS}")


def _texts(cell: Any) -> Iterator[str]:
    """The captions of a cell, which holds a text, a number or a list of such; all else is none."""
    for text in cell if isinstance(cell, (list, tuple)) else [cell]:
        if isinstance(text, (str, int)):
            yield " ".join(str(text).split())


def _checked(place: str, found: dict[int, list[str]], name: Callable[[int], str]) -> dict[int, list[str]]:
    """The captions of each row that has any, empty and repeated ones left out; what is odd is told in one line.

    Args:
        found: the captions by row.
        name: says what a row is called.
    """
    kept = {row: list(dict.fromkeys(filter(None, texts))) for row, texts in found.items()}
    owners = Counter(text for texts in kept.values() for text in texts)
    odd = {
        MISSING: [row for row, texts in found.items() if not texts],
        EMPTY: [row for row, texts in found.items() if "" in texts],
        TWICE: [row for row, texts in found.items() if len(kept[row]) < sum(map(bool, texts))],
        SHARED: [row for row, texts in kept.items() if any(owners[text] > 1 for text in texts)],
    }
    out = sum(not texts for texts in kept.values())
    if any(odd.values()) and out < len(kept):
        told = ", ".join(f"{len(rows)} {what} (first {name(rows[0])})" for what, rows in odd.items() if rows)
        warn(f"{place}: of {len(kept)} pictures {told}{f'; {out} are left out' if out else ''}")
    return {row: texts for row, texts in kept.items() if texts}
