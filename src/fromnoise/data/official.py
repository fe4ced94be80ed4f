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
CIFAR = re.compile(r"(data|test)_batch(_\d+)?\.bin")
RECORD, CIFAR_NAMES = 1 + 3 * 32 * 32, "batches.meta.txt"  # bytes of a label and its image; where the classes stand


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
    return table_of_arrays(arrays)


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
    """The datasets of CIFAR-10's binary files, each under the name of its folder."""
    found: Configurations = {}
    batches = [file for file in files if CIFAR.fullmatch(file.name)]
    folders = dict.fromkeys(file.parts[:-1] for file in batches)
    names = {file.parts[:-1]: file for file in files if file.name == CIFAR_NAMES and file.parts[:-1] in folders}
    for folder in folders:
        classes = tuple(names[folder].read().decode(errors="replace").split()) if folder in names else None
        for split, start in (("train", "data"), ("test", "test")):
            parts = [file for file in batches if file.parts[:-1] == folder and file.name.startswith(start)]
            if parts:
                found.setdefault("/".join(folder), {})[split] = _cifar_table(parts, classes)
    return found, [*batches, *names.values()]


def _cifar_table(parts: Sequence[File], classes: tuple[str, ...] | None) -> Table:
    contents = {file.path: file.read() for file in parts}
    for path, content in contents.items():
        if len(content) % RECORD:
            raise UserError(f"{path} is no complete file of CIFAR-10's binary version: get it again")
    records = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(-1, RECORD)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return table_of_arrays({"image": pixels, "label": records[:, 0]}, classes)


def table_of_arrays(arrays: dict[str, np.ndarray], classes: tuple[str, ...] | None = None) -> Table:
    """A table of images ``image``, uint8 ``(N, H, W)`` or ``(N, H, W, 3)``, and perhaps of numbers ``label``."""
    columns = {"image": Column("images"), "label": Column("numbers", classes)}
    lists = {name: array if name == "image" else array.tolist() for name, array in arrays.items()}
    return Table({name: columns[name] for name in arrays}, len(arrays["image"]), lists.__getitem__)
