"""Files that are read without surprises, files that appear whole or not at all, and the user's cache."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fromnoise.errors import UserError


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A file, open for reading. Opening never waits, as it would for a pipe that nobody writes to.

    Raises:
        UserError: the file is missing or cannot be read, or is a folder, a pipe or a device.
    """
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is not a file")
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero in it
        raise UserError(f"cannot read {path}: {getattr(problem, 'strerror', None) or problem}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes; no more is read than was allowed.

    Raises:
        UserError: the file cannot be read, as `open_file` says, or is too large.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit} bytes, which no such file is")
    return content


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of ``path`` if all went well and is removed if not.

    It lies beside ``path`` in a folder of a name that nobody can foretell and that nobody else may enter. A link is
    followed: what it points to is replaced. What is no file, such as a device or a pipe, gets the finished bytes.

    Raises:
        UserError: the place cannot be written.
    """
    place = path.resolve() if path.is_symlink() else path
    special = place.exists() and not place.is_file() and not place.is_dir()
    private = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=".partial-", dir=None if special else place.parent))
        partial = private / place.name
        yield partial
        if special:
            with partial.open("rb") as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            partial.replace(place)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if private is not None:
            shutil.rmtree(private, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder and those below it."""
    for partial in list(folder.rglob(".partial-*")):
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where a user's machine keeps what this project has built or measured on it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromnoise"
