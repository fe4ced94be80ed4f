"""A dataset as it is stored: columns that are read value by value, so that memory holds only what is kept."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

MAX_BYTES = 2**30  # of one encoded image, or of another file that is read whole
SPLITS = {"train": "train", "training": "train"}
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""the names under which datasets keep their splits, in lower case, and what each is called here"""
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt")
"""the columns that captions are looked for in, unless one is named"""


@dataclass(frozen=True)
class File:
    """One file, on disk or in a zip."""

    below: PurePosixPath  # its path below the folder that is read
    path: Path  # of it, or of its zip, with its name there as if that were a folder
    read: Callable[[], bytes]  # its content; a `UserError` if it cannot be read


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    kind: Literal["images", "numbers", "text", "other"]
    names: tuple[str, ...] = ()  # of the classes, where they are promised; these names are the values then

    def named(self, value: Any) -> Any:
        """A value, or the name of the class whose number it is."""
        return self.names[value] if value in range(len(self.names)) else value


@dataclass(frozen=True)
class Table:
    """One split.

    An image is uint8 pixels ``(H, W)`` or ``(H, W, 3)``, a `File`, or a dict of its encoded ``bytes`` and its ``path``.
    """

    columns: dict[str, Column]
    rows: int
    values: Callable[[str], Iterable[Any]]  # of a column, in the order of the rows; it can be called again
    value: Callable[[str, int], Any]  # of a column, in one row
    shards: tuple[int, ...] = ()
    """how many rows each part has, one after the other, that `value` must read as a whole, and of which it keeps the
    last; empty: any row can be read by itself"""


Splits = dict[str, Table]
Datasets = dict[str, Splits]  # those that a source holds, by name


def assembled(
    files: Iterable[File], place: Callable[[File], tuple[str, str]], table: Callable[[list[File]], Table]
) -> Datasets:
    """The datasets of some files: ``place`` tells the dataset and the split of a file, ``table`` reads those of one."""
    parts: dict[tuple[str, str], list[File]] = {}
    for file in files:
        parts.setdefault(place(file), []).append(file)
    found: Datasets = {}
    for (dataset, split), of_split in parts.items():
        found.setdefault(dataset, {})[split] = table(of_split)
    return found


def in_memory(values: dict[str, Any], classes: tuple[str, ...] = ()) -> Table:
    """A table of images ``image``, perhaps of ``label``, whose classes may have names, and of other columns."""
    columns: dict[str, Column] = {}
    for name, column in values.items():
        kinds = {type(value) for value in column if value is not None}
        text = kinds and kinds <= {str, bool}
        columns[name] = Column("numbers" if kinds == {int} else "text" if text else "other")
    columns |= {"image": Column("images")} | ({"label": Column("text", classes)} if classes else {})

    def value(name: str, row: int) -> Any:
        return columns[name].named(values[name][row])

    return Table(columns, len(values["image"]), lambda name: map(columns[name].named, values[name]), value)


def local(source: str) -> Path | None:
    """What a source names on this machine; none for ``digits`` and ``scenes``, and for what is not there."""
    path = Path(os.path.expanduser(source))
    return path if source not in ("", "digits", "scenes") and os.path.exists(path) else None


def resolved(source: str) -> str:
    """A local source by its whole path, which is the same from anywhere; another as it is."""
    return source if (path := local(source)) is None else str(path.resolve())


def source_name(source: str) -> str:
    """What data is called: its hub id, or the name of its folder, whose content may differ from that of the hub id."""
    path = Path(os.path.expanduser(source))
    return path.resolve().name if path.is_absolute() or local(source) else source
