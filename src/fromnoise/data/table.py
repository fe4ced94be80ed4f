"""A dataset as it is stored: columns that are read value by value, so that memory holds only what is kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
SPLITS |= {"evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLITS |= {"dev": "validation"}
"""the names under which datasets keep their splits, in lower case, and what each is called here"""


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    kind: Literal["images", "numbers", "text", "other"]
    names: tuple[str, ...] | None = None  # of the classes, where the numbers stand for classes with names


@dataclass(frozen=True)
class File:
    """One file."""

    parts: tuple[str, ...]  # its folders below the one that is read, and its name
    path: Path  # of it, or of its zip, with its name there as if that were a folder
    read: Callable[[], bytes]  # its content; a `UserError` if it cannot be read

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    @property
    def hidden(self) -> bool:
        return any(part.startswith(".") or part == "__MACOSX" for part in self.parts)


@dataclass(frozen=True)
class Table:
    """One split.

    An image is uint8 pixels ``(H, W)`` or ``(H, W, 3)``, a `File`, or a dict of its encoded ``bytes`` and its ``path``.
    """

    columns: dict[str, Column]
    rows: int
    values: Callable[[str], Iterable[Any]]  # of a column, in the order of the rows; it can be called again


Splits = dict[str, Table]


def source_name(source: str) -> str:
    """What data is called: its hub id, or the name of its folder, whose content may differ from that of the hub id."""
    path = Path(source).expanduser()
    local = source not in ("", "digits") and (path.is_absolute() or path.exists())
    return path.resolve().name if local else source
