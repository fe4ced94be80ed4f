"""The files in which MNIST (idx) and CIFAR-10 (binary version) were published, and others in these formats.

Sources: http://yann.lecun.com/exdb/mnist and https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import re
from collections.abc import Sequence
from io import BytesIO
from math import prod

import numpy as np

from fromnoise.data.table import MAX_BYTES, SPLITS, Datasets, File, Table, assembled, in_memory
from fromnoise.errors import UserError, told
from fromnoise.files import limited

IDX = re.compile(r"(?P<set>.*?)-?(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")
CIFAR = re.compile(r"(data|test)_batch(_\d+)?\.bin")
RECORD, CIFAR_NAMES = 1 + 3 * 32 * 32, "batches.meta.txt"  # bytes of a label and its image; where the classes stand


def read_idx(files: Sequence[File]) -> tuple[Datasets, list[File]]:
    """The datasets of idx files, each under the name of its folder; labels are optional."""
    found = {file: match for file in files if (match := IDX.fullmatch(file.below.name))}

    def place(file: File) -> tuple[str, str]:
        return "/".join(filter(None, (*file.below.parent.parts, found[file]["set"]))), SPLITS.get(
            found[file]["split"], "test"
        )

    def table(files: Sequence[File]) -> Table:
        there = {found[file]["what"]: file for file in reversed(files)}  # an unpacked one comes before its .gz
        if "images" not in there:
            raise UserError(f"{there['labels'].path} has no file of images beside it: add that, or remove it")
        images = _idx_array(there["images"], 3)
        labels = _idx_array(there["labels"], 1) if "labels" in there else None
        if labels is not None and len(images) != len(labels):
            path = there["images"].path
            raise UserError(f"{path} has {len(images)} images, and {len(labels)} labels beside it")
        return in_memory({"image": images} | ({} if labels is None else {"label": labels.tolist()}))

    return assembled(found, place, table), [*found]


def _idx_array(file: File, dimensions: int) -> np.ndarray:
    """The bytes of an idx file, which begins with its shape."""
    content = file.read()
    if file.below.suffix.lower() == ".gz":
        with told(f"{file.path} cannot be unpacked"), gzip.open(BytesIO(content)) as unpacked:
            content = limited(unpacked.read, file.path, MAX_BYTES)
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + prod(shape) or 0 in shape[1:]:
        raise UserError(f"{file.path} is not a complete idx file of bytes: get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(files: Sequence[File]) -> tuple[Datasets, list[File]]:
    """The datasets of CIFAR-10's binary files, each under the name of its folder."""
    batches = [file for file in files if CIFAR.fullmatch(file.below.name)]
    names = {file.below.parent.parts: file for file in files if file.below.name == CIFAR_NAMES}

    def place(file: File) -> tuple[str, str]:
        return "/".join(file.below.parent.parts), "train" if file.below.name.startswith("data") else "test"

    def table(files: Sequence[File]) -> Table:
        contents = {file.path: file.read() for file in files}
        for path, content in contents.items():
            if len(content) % RECORD:
                raise UserError(f"{path} is no complete file of CIFAR-10's binary version: get it again")
        records = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(-1, RECORD)
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        folder = files[0].below.parent.parts
        classes = names[folder].read().decode(errors="replace").split() if folder in names else ()
        return in_memory({"image": pixels, "label": records[:, 0].tolist()}, tuple(classes))

    return assembled(batches, place, table), [*batches, *names.values()]
