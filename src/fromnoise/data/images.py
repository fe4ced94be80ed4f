"""Datasets as uint8 images in memory, and as batches in [-1, 1].

One function, :func:`load_images`, reads the digits that come with scikit-learn, a local folder, or a dataset of the
Hugging Face hub. Every image is decoded once; a batch is then an index and a division.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from fromnoise.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features

MAX_GIB = 8  # more decoded images than this are refused
HELD_OUT_SPLITS = ("test", "validation", "valid", "val")  # the names under which datasets keep what is not trained on
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "target", "digit")
SPLIT_FOLDERS = {"train", "training", "test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MODES = {1: "L", 3: "RGB"}  # Pillow's names for grey and colour


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
    labels: Tensor | None = None  # (N,) int64
    class_names: tuple[str, ...] | None = None  # the name of each label, where the dataset gives one

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images ``(B, C, H, W)``, float32 in [-1, 1], and labels ``(B,)`` at ``indices`` ``(B,)``."""
        return from_pixels(self.pixels[indices]), None if self.labels is None else self.labels[indices]


def load_images(
    source: str,
    split: str = "train",
    *,
    channels: int,
    size: int,
    labelled: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Images:
    """Reads one split of a dataset into memory.

    Args:
        source: ``digits`` (8x8, from scikit-learn), a folder (images, with or without a subfolder for each class;
            parquet files in the hub's layout; what ``save_to_disk`` wrote), or a hub id such as ``ylecun/mnist``.
        split: ``train``, ``test``, or another that the dataset has. ``test`` may be called ``validation`` there. If
            there is neither, 5% of the images (1 to 5000 of them, always the same) are kept for ``test`` and left out
            of ``train``.
        channels: 1 for grey, 3 for colour; images are converted, and transparency is dropped.
        size: the height and width that every image must have, in pixels.
        labelled: whether to read the labels too.
        image_column: the column to read; by default the first that holds images.
        label_column: the column to read; by default the first of classes, else an integer one called ``label`` or so.

    Raises:
        UserError: the source, split, column or label does not exist, the hub cannot be reached, or an image is
            unreadable, of another size, or one too many for the memory.
    """
    if channels not in MODES:
        raise UserError(f"images have 1 channel (grey) or 3 (colour), not {channels}")
    if source == "digits":
        return _digits(split, channels, size, labelled)
    with _quiet():
        splits = _open(source)
        features = next(iter(splits.values())).features
        column = _image_column(source, features, image_column)
        stored_split, rows = _choose_rows(source, split, {name: len(part) for name, part in splits.items()})
        dataset = splits[stored_split].with_format(None).select(rows)
        places = [f"{source}, {stored_split} row {row}" for row in rows]
        labels, class_names = None, None
        if labelled:
            labels, class_names = _labels(dataset, _label_column(source, features, label_column), places)
        return Images(_pixels(source, dataset, column, places, channels, size), labels, class_names)


def _digits(split: str, channels: int, size: int, labelled: bool) -> Images:
    """scikit-learn's 1797 digits, whose 0..16 become 0..255; the last 297 are the test split."""
    from sklearn.datasets import load_digits

    if size != 8:
        raise UserError(f"the images of digits are 8x8, not {size}x{size}: set the size to 8")
    stored_split, rows = _choose_rows("digits", split, {"train": 1500, "test": 297})
    part = slice(0, 1500) if stored_split == "train" else slice(1500, 1500 + len(rows))
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[part, None] * (255 / 16)).round().to(torch.uint8)
    return Images(
        pixels.expand(-1, channels, -1, -1),
        torch.from_numpy(digits.target[part]).long() if labelled else None,
        tuple("0123456789") if labelled else None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the messages and progress bars of ``datasets`` to itself, and restores them afterwards."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from datasets.utils import logging as datasets_logging
    from huggingface_hub.utils import logging as hub_logging

    loggers = {module: module.get_verbosity() for module in (datasets_logging, hub_logging)}
    had_bars = not are_progress_bars_disabled()
    for module in loggers:
        module.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        for module, verbosity in loggers.items():
            module.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Asks the hub once, and has ``datasets`` read only its cache if there is no answer; it would ask for a minute."""
    from datasets import config
    from huggingface_hub import constants, get_session

    before = config.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # the transport's own errors are of many classes
        config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _open(source: str) -> "dict[str, Dataset]":
    """Every split of a folder or of a hub dataset, by its name."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return _open_folder(folder)
    if not HUB_ID.fullmatch(source):
        if "/" in source or "\\" in source or source.startswith(("~", ".")):
            raise UserError(f"there is no folder {source}")
        raise UserError(
            f"unknown data {source!r}: give digits, a folder of images or parquet files, or a hub id like ylecun/mnist"
        )
    try:
        with _offline_if_unreachable():
            return dict(load_dataset(source))
    except ConnectionError as error:
        raise UserError(f"cannot reach the hub for {source}: connect, or pass --data DIR with a local copy") from error
    except DatasetNotFoundError as error:
        raise UserError(f"there is no folder {source}, and no dataset of that name on the hub open to you") from error
    except Exception as error:
        raise UserError(f"cannot load {source} from the hub: {_reason(error)}") from error


def _open_folder(folder: Path) -> "dict[str, Dataset]":
    from datasets import DatasetDict, Image, load_dataset, load_from_disk
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            saved = load_from_disk(str(folder))
            return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
        found = load_dataset(str(folder))
        if not any(isinstance(feature, Image) for part in found.values() for feature in part.features.values()):
            with suppress(Exception):  # images among as many captions or other files are taken for text
                found = load_dataset("imagefolder", data_dir=str(folder))
        return dict(found)
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise UserError(f"{folder} holds no image and no parquet file") from error
    except Exception as error:
        raise UserError(f"cannot read {folder} as a dataset: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of what went wrong; ``datasets`` keeps it in the cause."""
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _choose_rows(source: str, split: str, sizes: dict[str, int]) -> tuple[str, Sequence[int]]:
    """The stored split to read and its rows, given how many rows each stored split has."""
    wanted = (split, *HELD_OUT_SPLITS) if split in HELD_OUT_SPLITS else (split,)
    stored_split = next((name for name in wanted if name in sizes), "train")
    rows: Sequence[int]
    if stored_split not in sizes or split not in (stored_split, "train", *HELD_OUT_SPLITS):
        raise UserError(f"{source} has no split '{split}': it has {', '.join(sizes)}")
    if stored_split != "train" or any(name in sizes for name in HELD_OUT_SPLITS):
        rows = range(sizes[stored_split])
    else:
        order = torch.randperm(sizes["train"], generator=torch.Generator().manual_seed(0)).tolist()
        held_out = min(max(1, len(order) // 20), 5000)
        rows = sorted(order[held_out:] if split == "train" else order[:held_out])
    if not rows:
        raise UserError(f"{source} has no image for its split '{split}': it holds {sum(sizes.values())} in all")
    return stored_split, rows


def _image_column(source: str, features: "Features", asked: str | None) -> str:
    from datasets import Image

    columns: list[str] = [asked] if asked else list(features)
    for column in columns:
        if isinstance(features.get(column), Image):
            return column
    named = f" {asked!r}" if asked else ""
    raise UserError(f"{source} has no image column{named}: its columns are {', '.join(features)}")


def _label_column(source: str, features: "Features", asked: str | None) -> str:
    from datasets import ClassLabel, Value

    classes: list[str] = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    integers = [name for name, feature in features.items() if isinstance(feature, Value) and "int" in feature.dtype]
    if asked and asked in classes + integers:
        return asked
    # train/ and test/ that hold their images directly look like two classes
    classes = [name for name in classes if not SPLIT_FOLDERS.issuperset(features[name].names)]
    candidates = classes + [name for name in LABEL_COLUMNS if name in integers]
    if asked or not candidates:
        named = f" {asked!r}" if asked else ""
        raise UserError(f"{source} has no column of class numbers{named}: its columns are {', '.join(features)}")
    return candidates[0]


def _labels(dataset: "Dataset", column: str, places: Sequence[str]) -> tuple[Tensor, tuple[str, ...] | None]:
    """The labels ``(N,)``, checked, and the names of the classes."""
    names = getattr(dataset.features[column], "names", None)
    labels = torch.tensor([-1 if label is None else label for label in dataset[column][:]])
    wrong = labels < 0 if names is None else (labels < 0) | (labels >= len(names))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        place, label = places[index], int(labels[index])
        raise UserError(f"{place}: label {label} is no class: choose a split or column with labels")
    return labels, None if names is None else tuple(names)


def _pixels(source: str, dataset: "Dataset", column: str, places: Sequence[str], channels: int, size: int) -> Tensor:
    """All images, decoded: ``(N, C, H, W)`` uint8."""
    from datasets import Image as ImageFeature

    shape = (len(dataset), channels, size, size)
    gib = np.prod(shape, dtype=float) / 2**30
    if gib > MAX_GIB:
        raise UserError(
            f"{source} would take {gib:.1f} GiB of memory, more than {MAX_GIB}: use fewer or smaller images"
        )
    pixels = np.empty(shape, np.uint8)
    cells = dataset.cast_column(column, ImageFeature(decode=False))[column]
    progress = tqdm(cells, f"reading {source}", len(dataset), unit="image", leave=False, delay=1, disable=None)
    for index, cell in enumerate(progress):
        pixels[index] = _decode(cell, places[index], channels, size)
    return torch.from_numpy(pixels)


def _decode(cell: dict[str, Any] | None, place: str, channels: int, size: int) -> np.ndarray:
    """One image, upright, ``(C, H, W)`` uint8, from its encoded ``bytes`` or the file at its ``path``."""
    if cell is None:
        raise UserError(f"{place} has no image: remove it")
    data, path = cell["bytes"], cell["path"]
    place = path if data is None else f"{place} ({path})" if path else place
    try:
        with Image.open(path if data is None else BytesIO(data)) as encoded:
            image = ImageOps.exif_transpose(encoded)
            pixels = np.asarray(image.convert(MODES[channels]))
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UserError(f"{place} cannot be read as an image: replace or remove it") from error
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{place} has more than 8 bits for each channel: save it with 8")
    if image.size != (size, size):
        width, height = image.size
        raise UserError(f"{place} is {width}x{height}, not {size}x{size}: resize the images, or set the size to theirs")
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)
