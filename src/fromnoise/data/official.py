"""The files in which MNIST (idx) and CIFAR-10 (binary version) were published, and others in these formats.

Sources: http://yann.lecun.com/exdb/mnist and https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import re
from collections.abc import Sequence
from io import BytesIO
from math import prod

import numpy as np

from fromnoise.data.decoding import MAX_BYTES
from fromnoise.data.listing import Configurations
from fromnoise.data.table import SPLITS, Column, File, Table
from fromnoise.errors import UserError

IDX = re.compile(r"(?P<set>.*?)-?(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")
CIFAR = re.compile(r"(data_batch_\d+|test_batch)\.bin")
CIFAR_LABELS = {
    3073: {"label": "batches.meta.txt"},  # CIFAR-10
    3074: {"coarse_label": "coarse_label_names.txt", "fine_label": "fine_label_names.txt"},  # CIFAR-100
}
"""the columns of labels before the 3 x 32 x 32 pixels of a record, and where the names of their classes stand"""


def read_idx(files: Sequence[File]) -> tuple[Configurations, list[File]]:
    """The datasets of idx files, each under the name of its folder; labels are optional."""
    used: list[File] = []
    parts: dict[str, dict[str, dict[str, File]]] = {}  # by dataset, split, and images or labels
    for file in files:
        if found := IDX.fullmatch(file.name):
            used.append(file)
            name = "/".join(filter(None, (*file.parts[:-1], found["set"])))
            split = parts.setdefault(name, {}).setdefault(SPLITS.get(found["split"], "test"), {})
            split.setdefault(found["what"], file)  # what lies there unpacked comes before its .gz
    return {name: {split: _idx_table(**of) for split, of in splits.items()} for name, splits in parts.items()}, used


def _idx_table(images: File | None = None, labels: File | None = None) -> Table:
    if images is None:
        raise UserError(f"{labels and labels.path} has no file of images beside it: add that, or remove it")
    arrays = {"image": _idx_array(images, 3)} | ({} if labels is None else {"label": _idx_array(labels, 1)})
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f"{images.path} has {len(arrays['image'])} images, and {len(arrays['label'])} labels beside it")
    return table_of_arrays(arrays, {})


def _idx_array(file: File, dimensions: int) -> np.ndarray:
    """The bytes of an idx file, which begins with its shape."""
    content = file.read()
    if file.name.endswith(".gz"):
        try:
            content = gzip.GzipFile(fileobj=BytesIO(content)).read(MAX_BYTES + 1)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{file.path} cannot be unpacked: {error}") from None
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + prod(shape) or 0 in shape[1:]:
        raise UserError(f"{file.path} is not a complete idx file of bytes: get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(files: Sequence[File]) -> tuple[Configurations, list[File]]:
    """The datasets of CIFAR's binary files, each under the name of its folder."""
    of_100 = {file.parts[:-1] for file in files if file.name == CIFAR_LABELS[3074]["fine_label"]}
    batches = [
        file
        for file in files
        if CIFAR.fullmatch(file.name) or (file.name in ("train.bin", "test.bin") and file.parts[:-1] in of_100)
    ]
    found, used = Configurations(), list(batches)
    for folder in dict.fromkeys(file.parts[:-1] for file in batches):
        beside = {file.name: file for file in files if file.parts[:-1] == folder}
        splits: dict[str, list[File]] = {}
        for name, file in beside.items():
            if file in batches:
                splits.setdefault("test" if name.startswith("test") else "train", []).append(file)
        found["/".join(folder)] = {split: _cifar_table(parts, beside, used) for split, parts in splits.items()}
    return found, used


def _cifar_table(parts: Sequence[File], beside: dict[str, File], used: list[File]) -> Table:
    contents = [file.read() for file in parts]
    length = next((length for length in CIFAR_LABELS if not any(len(content) % length for content in contents)), None)
    if length is None:
        raise UserError(f"{parts[0].path.parent} holds an incomplete file of CIFAR's binary version: get it again")
    records, labels = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, length), CIFAR_LABELS[length]
    arrays = {"image": records[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)}
    arrays |= {column: records[:, i] for i, column in enumerate(labels)}
    names = {column: beside[name] for column, name in labels.items() if name in beside}
    used += names.values()
    return table_of_arrays(
        arrays, {column: tuple(file.read().decode(errors="replace").split()) for column, file in names.items()}
    )


def table_of_arrays(arrays: dict[str, np.ndarray], names: dict[str, tuple[str, ...]]) -> Table:
    """A table of images ``image``, uint8 ``(N, H, W)`` or ``(N, H, W, 3)``, and columns of numbers ``(N,)``."""
    columns = {name: Column("images" if name == "image" else "numbers", names.get(name)) for name in arrays}
    return Table(columns, len(arrays["image"]), lambda name: arrays[name] if name == "image" else arrays[name].tolist())
