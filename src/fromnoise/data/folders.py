"""A folder as a dataset: what is on disk, what of it is read, and a word about the rest."""

import csv
import io
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fromnoise.data.arrow import read_parquet, read_saved
from fromnoise.data.listing import list_files
from fromnoise.data.official import read_cifar, read_idx
from fromnoise.data.table import CAPTION_COLUMNS, SPLITS, Datasets, File, Table, assembled, in_memory
from fromnoise.errors import UserError, told
from fromnoise.terminal import warn

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
DATA = {*SUFFIXES, ".parquet"}  # told of where it is not read, even if hidden
HIDDEN = re.compile(r"(^|/)(\.[^/]|__MACOSX(/|$))")
PAPERS = re.compile(r"readme.*|licen[cs]e.*|thumbs\.db|desktop\.ini", re.IGNORECASE)  # nobody expects these to be read
MAY_HOLD = (
    "images (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM), with or without a folder for each class; zips of them; "
    "parquet files; what save_to_disk wrote; the official files of MNIST (idx) or CIFAR-10 (binary; pickles never)"
)


def read_folder(folder: Path) -> Datasets:
    """The datasets in a folder: one, or several by their names. What is not read is named on stderr.

    Raises:
        UserError: it holds none, or one that is not whole.
    """
    if saved := read_saved(folder):
        return {"": saved}
    files, again = list_files(folder)
    visible = [file for file in files if not HIDDEN.search(str(file.below))]
    for reader in (read_idx, read_cifar, read_parquet, read_images):
        found, used = reader(visible)
        if found:
            break
    expected = {*visible, *(file for file in files if file.below.suffix.lower() in DATA)} - {*used}
    left = [file.path for file in files if file in expected and not PAPERS.fullmatch(file.below.name)]
    names = [str(path.relative_to(folder)) for path in left + again]
    if not found:
        raise UserError(f"{folder} holds no image{f', but {names[0]}' if names else ''}: it may hold {MAY_HOLD}")
    if names:
        warn(f"{folder}: not read: {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}")
    return found


def read_images(files: Sequence[File]) -> tuple[Datasets, Iterable[File]]:
    """The dataset of image files: a column of images, one of classes where there are, and those of the metadata.

    Folders around everything are passed over. Below them ``train``, ``test`` and the like are splits, if no other
    folder is there, or if train has another one beside it; all other folders are classes, by their first level.
    """
    images = [file for file in files if file.below.suffix.lower() in SUFFIXES]
    metadata, used = _read_metadata(files, {file.path for file in images})
    if not any(key in row for row in metadata.values() for key in CAPTION_COLUMNS):
        used += _read_texts(files, images, metadata)
    keys = dict.fromkeys(key for row in metadata.values() for key in row)
    placed = _placed(images)
    level = len(os.path.commonprefix([folders for _, folders in placed.values()]))
    named = (
        {} if "label" in keys else {file: folders[level] for file, (_, folders) in placed.items() if folders[level:]}
    )
    classes = {file: os.fsencode(name).decode(errors="replace") for file, name in named.items()}

    def table(files: Sequence[File]) -> Table:
        values: dict[str, Sequence[Any]] = {"image": files}
        if classes:
            values["label"] = [classes.get(file) for file in files]
        values |= {key: _numbers([metadata.get(file.path, {}).get(key) for file in files]) for key in keys}
        return in_memory(values, tuple(sorted({*classes.values()})))

    return assembled(placed, lambda file: ("", placed[file][0]), table), [*placed, *used]


def _placed(images: Sequence[File]) -> dict[File, tuple[str, tuple[str, ...]]]:
    """The split of each image that has one, and the folders of the image below that of the split."""
    around = os.path.commonprefix([file.below.parent.parts for file in images])
    depth = next((i for i, name in enumerate(around) if name.lower() in SPLITS), len(around))
    inside = {file: file.below.parent.parts[depth:] for file in images}
    tops = dict.fromkeys(folders[0] for folders in inside.values() if folders)
    splits = {name: SPLITS[name.lower()] for name in tops if name.lower() in SPLITS}
    others = [name for name in tops if name not in splits]
    if splits and others and not {"train"} < set(splits.values()):
        place = images[0].path.parents[len(images[0].below.parent.parts) - depth]
        warn(f"{place}: {', '.join(splits)} is taken for a class, not for a split, as {others[0]} lies beside it")
        splits = {}
    if not splits:
        return {file: ("train", folders) for file, folders in inside.items()}
    loose = {} if "train" in splits.values() else {file: ("train", ()) for file in images if not inside[file]}
    return loose | {file: (splits.get(f[0], f[0]), f[1:]) for file, f in inside.items() if f}


def _read_metadata(files: Sequence[File], images: set[Path]) -> tuple[dict[Path, dict[str, Any]], list[File]]:
    """What the metadata files say of each image that they name."""
    below = {file.below: file for file in files}
    paths = {Path(os.path.normpath(file.path)): file for file in files}  # which whole names are, and those in a zip
    found: dict[Path, dict[str, Any]] = {}
    used = []
    for file in files:
        if file.below.name.lower() not in ("metadata.csv", "metadata.jsonl"):
            continue
        with told(f"{file.path} cannot be read"):
            text = file.read().decode("utf-8-sig")
            lines = map(json.loads, filter(str.strip, text.split("\n")))
            rows = _csv_rows(text, file.path) if file.below.suffix.lower() == ".csv" else lines
            named = [(str(row["file_name"]), row) for row in rows if "file_name" in row]
        used += [file] if named else []
        for name, row in named:
            place = PurePosixPath(posixpath.normpath(file.below.parent / name))
            image = below.get(place) or paths.get(Path(os.path.normpath(file.path.parent / name)))
            if image is None:
                raise UserError(f"{file.path} names {name}, and no such image is there: add it, or remove its row")
            if image.path not in images:
                raise UserError(f"{file.path} names {name}, which is no image that can be read: save it as PNG or JPEG")
            found[image.path] = _together(found.get(image.path, {}), row)
    left_out = ("file_name", "image")
    return {path: {k: v for k, v in row.items() if k not in left_out and v != ""} for path, row in found.items()}, used


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a csv, by the names in its first line."""
    reader = csv.DictReader(io.StringIO(text, ""), strict=True)
    for row in reader:
        if any(row.pop(None, ())):  # where cells without a name are
            line = f"{path}: line {reader.line_num} has more cells than the first"
            raise UserError(f'{line}: put "quotes" around a text that has commas, without a space before them')
        yield row


def _together(before: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Two rows of metadata for one image: the captions of both, and otherwise what the later one says."""
    said = {key: cell for key, cell in row.items() if cell not in (None, "") or key not in before}
    both = {key: [before[key], row[key]] for key in CAPTION_COLUMNS if key in before and key in row}
    listed = {key: [cell if isinstance(cell, list) else [cell] for cell in pair] for key, pair in both.items()}
    return before | said | {key: one + other for key, (one, other) in listed.items()}


def _read_texts(files: Sequence[File], images: Sequence[File], metadata: dict[Path, dict[str, Any]]) -> list[File]:
    """Adds the captions that lie beside images as texts of the same name, one a line; the files of these texts."""
    texts = {file.below.with_suffix(""): file for file in files if file.below.suffix.lower() == ".txt"}
    beside = {image: texts[stem] for image in images if (stem := image.below.with_suffix("")) in texts}
    for image, file in beside.items():
        with told(f"{file.path} cannot be read"):
            lines = file.read().decode("utf-8-sig").splitlines()
        metadata[image.path] = metadata.get(image.path, {}) | {"text": [*filter(str.strip, lines)] or [""]}
    return list(beside.values())


def _numbers(values: list[Any]) -> list[Any]:
    """The values of a column as whole numbers, if each is the text of one, as in a csv."""
    there = [value for value in values if value is not None]
    whole = there and all(isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value) for value in there)
    return [value if value is None else int(value) for value in values] if whole else values
