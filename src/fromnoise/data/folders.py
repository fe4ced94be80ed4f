"""A folder as a dataset: what is on disk, what of it is read, and a word about the rest."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromnoise.data.arrow import read_parquet, read_saved
from fromnoise.data.listing import Configurations, list_files
from fromnoise.data.official import read_cifar, read_idx
from fromnoise.data.table import SPLITS, Column, File, Splits, Table
from fromnoise.errors import UserError
from fromnoise.terminal import warn

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
METADATA = ("metadata.csv", "metadata.jsonl")
PAPERS = re.compile(r"readme.*|licen[cs]e.*|thumbs\.db|desktop\.ini", re.IGNORECASE)  # nobody expects these to be read
MAY_HOLD = (
    "images (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM), with or without a folder for each class; zips of them; "
    "parquet files; what save_to_disk wrote; the official files of MNIST (idx) or CIFAR-10 (binary; pickles never)"
)


def read_folder(folder: Path) -> Configurations:
    """The datasets in a folder: one, or several by their names. What is not read is named on stderr.

    Raises:
        UserError: it holds none, or one that is not whole.
    """
    if saved := read_saved(folder):
        return {"": saved}
    files, again = list_files(folder)
    visible = [file for file in files if not file.hidden]
    for reader in (read_idx, read_cifar, read_parquet, read_images):
        found, used = reader(visible)
        if found:
            break
    read = {file.path for file in used}
    rest = [file.path for file in visible if file.path not in read and not PAPERS.fullmatch(file.name)]
    rest += [file.path for file in files if file.hidden and file.suffix in {*SUFFIXES, ".parquet"}] + again
    names = [str(path.relative_to(folder)) for path in rest]
    if not found:
        raise UserError(f"{folder} holds no image{f', but {names[0]}' if names else ''}: it may hold {MAY_HOLD}")
    if names:
        warn(f"{folder}: not read: {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}")
    return found


def read_images(files: Sequence[File]) -> tuple[Configurations, list[File]]:
    """The dataset of image files: a column of images, one of classes where there are, and those of the metadata.

    Folders around everything are passed over. Below them ``train``, ``test`` and the like are splits, if no other
    folder is there, or if train has another one beside it; all other folders are classes, by their first level.
    """
    images = [file for file in files if file.suffix in SUFFIXES]
    metadata, used = _read_metadata(files, {file.path for file in images})
    splits: dict[str, list[tuple[tuple[str, ...], File]]] = {}
    for split, parts, file in _assigned(images):
        splits.setdefault(split, []).append((parts, file))
    everywhere = _shared([parts for rows in splits.values() for parts, _ in rows])
    classes = sorted({parts[everywhere] for rows in splits.values() for parts, _ in rows if parts[everywhere + 1 :]})
    numbers = {name: number for number, name in enumerate(classes)}
    names = tuple(name.encode("utf-8", "surrogateescape").decode(errors="replace") for name in classes)
    extra = dict.fromkeys(key for row in metadata.values() for key in row)
    found: Splits = {}
    for split, rows in splits.items():
        values: dict[str, list[Any]] = {"image": [file for _, file in rows]}
        if classes:
            values["label"] = [numbers[p[everywhere]] if p[everywhere + 1 :] else None for p, _ in rows]
        values |= {key: [metadata.get(file.path, {}).get(key) for _, file in rows] for key in extra}
        columns = {key: _column(column) for key, column in values.items()} | {"image": Column("images")}
        if classes and "label" not in extra:
            columns["label"] = Column("numbers", names)
        found[split] = Table(columns, len(rows), values.__getitem__)
    return {"": found} if found else {}, used + [file for rows in splits.values() for _, file in rows]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all the paths have in common."""
    return len(os.path.commonprefix([path[:-1] for path in paths])) if paths else 0


def _assigned(images: Sequence[File]) -> list[tuple[str, tuple[str, ...], File]]:
    """The split of each image that has one, with its path below that split's folder."""
    around = images[0].parts[: _shared([file.parts for file in images])] if images else ()
    depth = next((i for i, name in enumerate(around) if name.lower() in SPLITS), len(around))
    folders = dict.fromkeys(file.parts[depth] for file in images if file.parts[depth + 1 :])
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    others = [name for name in folders if name not in splits]
    if splits and others and not {"train"} < set(splits.values()):
        place = images[0].path.parents[len(images[0].parts) - 1 - depth]
        warn(f"{place}: {', '.join(splits)} is taken for a class, not for a split, as {others[0]} lies beside it")
        splits, others = {}, []
    if not splits:
        return [("train", file.parts[depth:], file) for file in images]
    splits |= {name: name for name in others}
    if "train" not in splits.values():  # beside a folder that is called test
        return [(splits.get(file.parts[depth], "train"), file.parts[depth + 1 :] or ("",), file) for file in images]
    return [(splits[f.parts[depth]], f.parts[depth + 1 :], f) for f in images if f.parts[depth + 1 :]]


def _read_metadata(files: Sequence[File], images: set[Path]) -> tuple[dict[Path, dict[str, Any]], list[File]]:
    """What the metadata files say of each image that they name."""
    found: dict[Path, dict[str, Any]] = {}
    used = []
    for file in (file for file in files if file.name.lower() in METADATA):
        try:
            text = file.read().decode("utf-8-sig")
            lines = filter(str.strip, text.split("\n"))
            rows = [*csv.DictReader(io.StringIO(text, ""))] if file.suffix == ".csv" else [json.loads(x) for x in lines]
            named = [(row["file_name"], row) for row in rows if "file_name" in row]
        except (ValueError, TypeError, csv.Error, RecursionError) as error:
            raise UserError(f"{file.path} cannot be read: {error}") from None
        used += [file] if named else []
        for name, row in named:
            path = Path(os.path.normpath(file.path.parent / str(name)))
            if path not in images:
                raise UserError(f"{file.path} names {name}, and no such image is there: add it, or remove its row")
            found[path] = {k: v for k, v in row.items() if k not in ("file_name", "image", None) and v != ""}
    return found, used


def _column(values: list[Any]) -> Column:
    """What a column of the metadata holds; whole numbers that are written as text, as in a csv, become numbers."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value) for value in there):
        values[:] = [None if value is None else int(value) for value in values]
        return Column("numbers")
    kinds = {type(value) for value in there}
    return Column("numbers" if kinds == {int} else "text" if kinds and kinds <= {str, bool} else "other")
