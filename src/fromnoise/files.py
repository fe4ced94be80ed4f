"""Files that appear whole or not at all, and where those lie that can be made again."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fromnoise.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place if all went well and is removed if not.

    Raises:
        UserError: the place cannot be written.
    """
    partial = path.with_name(f".partial-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder and those below it."""
    for partial in list(folder.rglob(".partial-*")):
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where a user's machine keeps what this project has built or measured on it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromnoise"
