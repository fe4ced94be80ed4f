"""Pictures with captions: scenes that are drawn without end, or the pictures of a folder or a dataset of the hub."""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fromnoise.data.decoding import Decoded, check_colour, decode, place_of
from fromnoise.data.images import (
    MOST_HELD_OUT,
    choose_rows,
    decoded,
    from_pixels,
    image_column_of,
    open_splits,
    read_pixels,
    room,
)
from fromnoise.data.table import CAPTION_COLUMNS, SPLITS, Column, File, Splits, Table
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
    shards: tuple[int, ...]  # how many are in each part that is read as a whole; empty: they are in no such parts
    size: int  # height and width, in pixels

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """What the pictures at ``indices`` ``(B,)`` are made from, on the CPU, and a caption of each.

        It depends on nothing but the arguments. Where there is no end, ``indices`` says no more than how many.
        """

    def captions_of(self, indices: Tensor, generator: torch.Generator) -> list[str]:
        """The captions alone that `draw` has, for which no picture is read."""

    def texts(self) -> Iterable[str]:
        """What has all the words that a sample of the captions may lack."""

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], on the device of ``drawn``."""


@dataclass(frozen=True)
class StoredPixels:
    """Pictures that stay where they are stored: each is read and decoded whenever it is asked for, and none is kept."""

    table: Table
    column: str
    rows: Sequence[int]  # of the table, in its order: those that there are pictures of here
    place: str  # what errors call a row, before its number
    fit: Callable[[Any, str], Decoded]
    shape: tuple[int, ...]  # (N, 3, S, S)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The pixels at ``indices`` ``(B,)``, uint8 ``(B, 3, S, S)``."""
        try:
            return decoded(self.cells(indices.tolist()), (len(indices), *self.shape[1:]), self.fit)
        except UserError as error:  # in the middle of a run, which goes on with the same number of pictures alone
            raise UserError(f"{error} (if you remove it, the data has changed, and the run must start anew)") from error

    def cells(self, indices: Sequence[int]) -> Iterator[tuple[str, Any]]:
        """What errors call the pictures at ``indices``, and these as they are stored."""
        for row in (self.rows[index] for index in indices):
            yield f"{self.place} {row}", self.table.value(self.column, row)

    def shards(self) -> tuple[int, ...]:
        """How many there are in each shard of the table that has any."""
        ends = [bisect_left(self.rows, end) for end in accumulate(self.table.shards, initial=0)]
        return tuple(end - start for start, end in pairwise(ends) if end > start)


class CaptionedImages:
    """Pictures, each with one caption or several.

    Args:
        pixels: uint8 ``(N, 3, S, S)``, or what gives them for indices as such a tensor does.
        captions: those of each picture, at least one. One of 57 letters each takes 0.35 GiB for a million pictures.
        shards: how many pictures there are in each part of the data that is read as a whole, if there are several.
        flip: mirror half of the pictures that are drawn, at random.
        changes: what was done to the pictures to make them fit, in words.
        never: checksums of pictures that are never drawn.
        place: what errors call the pictures.
    """

    def __init__(
        self,
        pixels: Tensor | StoredPixels,
        captions: Sequence[Sequence[str]],
        *,
        shards: Sequence[int] = (),
        flip: bool = False,
        changes: str = "",
        never: Set[bytes] = frozenset(),
        place: str = "",
    ):
        self.pixels, self.captions, self.flip, self.changes = pixels, captions, flip, changes
        self.never, self.place = never, place
        self.rows: int | None = len(pixels)
        self.size: int = pixels.shape[-1]
        self.shards = tuple(shards) if len(shards) > 1 else ()

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """The pixels ``(B, 3, S, S)`` at ``indices`` ``(B,)``, and one of the captions of each, at random.

        In the place of one that must never be drawn there is another of its shard, at random.
        """
        choice, mirror = torch.rand(2, len(indices), generator=generator)  # (B,) each
        pixels, rows = self.pixels[indices], indices.tolist()  # (B, 3, S, S)
        for place, checksum in enumerate(_checksums(pixels) if self.never else ()):
            if checksum in self.never:
                rows[place], pixels[place] = self._instead(rows[place], generator)
        if self.flip:
            pixels = torch.where((mirror < 0.5)[:, None, None, None], pixels.flip(-1), pixels)
        return {"pixels": pixels}, self._chosen(rows, choice)

    def captions_of(self, indices: Tensor, generator: torch.Generator) -> list[str]:
        """One of the captions of each picture at ``indices`` ``(B,)``, at random, whether or not it may be drawn."""
        return self._chosen(indices.tolist(), torch.rand(2, len(indices), generator=generator)[0])

    def texts(self) -> Iterable[str]:
        """All captions."""
        return chain.from_iterable(self.captions)

    def _chosen(self, rows: Sequence[int], choice: Tensor) -> list[str]:
        several = [self.captions[row] for row in rows]
        return [of_one[int(u * len(of_one))] for of_one, u in zip(several, choice.tolist(), strict=True)]

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, S, S)``, float32 in [-1, 1]."""
        return from_pixels(drawn["pixels"])

    def _instead(self, row: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """Another row of the same shard, at random, and its pixels ``(3, S, S)``, which may be drawn."""
        warn(f"{self.place}: some pictures are held out, too: others are drawn in their place")
        ends = [*accumulate(self.shards or (len(self.pixels),), initial=0)]
        number = bisect_right(ends, row)
        start, end = ends[number - 1 : number + 1]
        for other in start + torch.randperm(end - start, generator=generator):
            pixels = self.pixels[other[None]]  # (1, 3, S, S)
            if _checksums(pixels)[0] not in self.never:
                return int(other), pixels[0]
        where = f" of its shard {number}" if self.shards else ""
        raise UserError(
            f"{self.place}: each picture{where} is held out, too, and none is left to train on: give others"
        )


def _checksums(pixels: Tensor) -> list[bytes]:
    """A checksum of each picture ``(N, 3, S, S)``."""
    return [hashlib.blake2b(picture.numpy().tobytes(), digest_size=16).digest() for picture in pixels]


def load_captioned(config: "DataConfig", source: str) -> tuple[Captioned, Captioned]:
    """The captioned pictures of ``source`` for training, and those that are held out.

    Of a folder or a dataset, held out are those of the split ``test``, or 5% of all, as `load_images` chooses them; of
    a larger split, 5000, evenly spread. These are in memory. So are the others while there is `room`; else each is read
    and decoded whenever it is drawn. What is drawn is the same either way, and never a picture that is held out, too.

    Raises:
        UserError: there are none, or no captions, or they cannot be read.
    """
    if source == "scenes":
        from fromnoise.data.scenes import load_scenes  # which is made of what stands above

        return load_scenes(config)
    splits = _with_captions(source, open_splits(source, config.configuration), config.caption_column)
    held_out = _load(config, source, "test", splits)
    never = _checksums(held_out.pixels[torch.arange(len(held_out.pixels))])
    return _load(config, source, "train", splits, frozenset(never)), held_out


def _load(
    config: "DataConfig", source: str, split: str, splits: Splits, never: Set[bytes] | None = None
) -> CaptionedImages:
    """One split; what its captions lack is told on stderr.

    Args:
        never: of pictures to train on, the checksums of those that are held out; none: these themselves are read.
    """
    check_colour(config.background)
    stored, chosen = choose_rows(source, split, splits)
    if never is None and len(chosen) > MOST_HELD_OUT:
        chosen = [chosen[place * len(chosen) // MOST_HELD_OUT] for place in range(MOST_HELD_OUT)]
    table, place, wanted = splits[stored], f"{source}, {stored} row", set(chosen)
    pictures = image_column_of(source, table.columns, config.image_column)
    column = _caption_column(source, table.columns, config.caption_column)
    found = {row: list(_texts(cell)) for row, cell in enumerate(table.values(column)) if row in wanted}

    def name(row: int) -> str:
        cell = table.value(pictures, row)
        return str(cell.below) if isinstance(cell, File) else place_of(cell, f"row {row}")

    captions = _checked(f"{source}, {split}", found, name)
    if not captions:
        first = f" (the first is {name(next(iter(found)))})" if found else ""
        raise UserError(f"{source}, {split}: of {len(found)} pictures none has a caption in {column}{first}: {WAYS}")
    fit = partial(decode, channels=3, size=config.size, resize=config.resize, background=config.background)
    shape, where = (len(captions), 3, config.size, config.size), f"{source}, {split}"
    stay = StoredPixels(table, pictures, list(captions), place, fit, shape)
    pixels: Tensor | StoredPixels = stay
    changes, held_out = "", never is None
    if held_out or math.prod(shape) <= room():
        pixels, changes = read_pixels(source, stay.cells(range(len(stay))), shape, fit)
    else:
        warn(f"{where}: {math.prod(shape) / 2**30:.1f} GiB of images, each of which is read when it is drawn")
    if changes:
        warn(f"{where}: {changes}")
    flip, never, texts = config.flip and not held_out, never or frozenset(), [*captions.values()]
    return CaptionedImages(pixels, texts, shards=stay.shards(), flip=flip, changes=changes, never=never, place=where)


def _with_captions(source: str, splits: Splits, asked: str | None) -> Splits:
    """The splits without a test split that has no captions, where there are others: some datasets keep these secret."""

    def has_captions(table: Table) -> bool:
        column = _found_column(table.columns, asked)
        return column is not None and any(text for cell in table.values(column) for text in _texts(cell))

    secret = [name for name, table in splits.items() if SPLITS.get(name.lower()) == "test" and not has_captions(table)]
    if not secret or len(secret) == len(splits):
        return splits
    warn(f"{source}: split {', '.join(secret)} has no captions: other pictures are held out")
    return {name: table for name, table in splits.items() if name not in secret}


def _caption_column(source: str, columns: dict[str, Column], asked: str | None) -> str:
    """The column of captions, which must be there."""
    if (column := _found_column(columns, asked)) is not None:
        return column
    named = f" {asked!r}" if asked else ""
    raise UserError(f"{source} has no column of captions{named}: its columns are {', '.join(columns)}: {WAYS}")


def _found_column(columns: dict[str, Column], asked: str | None) -> str | None:
    """The column of captions: the one that is asked for, or the first of a usual name; none: it is not there."""
    names = [asked] if asked else CAPTION_COLUMNS
    return next((name for name in names if name in columns and columns[name].kind != "images"), None)


def _texts(cell: Any) -> Iterator[str]:
    """The captions of a cell, which holds a text, a number or a list of such; all else is none."""
    for text in cell if isinstance(cell, (list, tuple)) else [cell]:
        if isinstance(text, (str, int)):
            whole = str(text).encode(errors="replace").decode()  # half a pair of surrogates becomes a question mark
            yield " ".join(whole.split())


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
