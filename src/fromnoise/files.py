"""Files that are read without surprises, files that appear whole or not at all, and the user's cache."""

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from fromnoise.errors import UserError
from fromnoise.terminal import reason, warn


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
        return limited(file.read, path, limit)


def limited(read: Callable[[int], bytes], path: Path, limit: int) -> bytes:
    """All that ``read`` gives, at most ``limit`` bytes, as `read_bytes`; errors call it ``path``."""
    content = read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit} bytes, which no such file is")
    return content


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of ``path`` if all went well and is removed if not.

    It lies beside ``path`` in a folder of a name that nobody can foretell and that nobody else may enter. A link is
    followed: what it points to is replaced. What is no file, as a pipe or ``/dev/stdout``, gets the finished bytes.

    Raises:
        UserError: the place cannot be written.
    """
    private = None
    try:
        place, special = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=".partial-", dir=None if special else place.parent))
        partial = private / place.name
        yield partial
        if special:
            with partial.open("rb") as source, _sink(path) as sink:
                shutil.copyfileobj(source, sink)
        else:
            partial.replace(place)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if private is not None:
            shutil.rmtree(private, ignore_errors=True)


def check_writable(path: Path, option: str) -> None:
    """Refuses what `atomic_write` would refuse, before any work is done.

    Raises:
        UserError: names the option that gave the path, and says why.
    """
    tried = path
    try:
        place, special = _place(path)
        if not special:
            tried = next(folder for folder in place.absolute().parents if folder.exists())
            tempfile.TemporaryFile(dir=tried).close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        where = "" if tried == path else f"{tried}: "
        raise UserError(f"{option} {path} cannot be written: {where}{error.strerror or error}") from None


def check_new_folder(folder: Path, option: str) -> None:
    """Refuses a folder that is there already, or could not be written.

    Raises:
        UserError: as that of `check_writable`.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{option} {folder} exists already: give a new folder")
    check_writable(folder, option)


def _place(path: Path) -> tuple[Path, bool]:
    """Where a write to a path ends, links followed, and whether what is there is no file that could be replaced."""
    if path.name in ("", ".."):
        raise UserError(f"cannot write {path}: it names no file")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):  # a new name, or a link to one
        return Path(os.path.realpath(path)) if path.is_symlink() else path, False
    if stat.S_ISBLK(found.st_mode):
        raise UserError(f"cannot write {path}: it is a disk")
    replaced = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and _printed_to(found) is None)
    return path.resolve() if path.is_symlink() and replaced else path, not replaced


def _printed_to(found: os.stat_result) -> int | None:
    """Which of standard output and standard error is this file; replaced, it would lose what is printed."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None


def _sink(path: Path) -> BinaryIO:
    """What is no file, open for writing, after what was printed before. A pipe that nobody reads from is refused."""
    if (printed := _printed_to(path.stat())) is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return open(os.dup(printed), "wb")
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    return open(descriptor, "wb")


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder and those below it."""
    for partial in list(folder.rglob(".partial-*")):
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where a user's machine keeps what this project has built or measured on it: a folder that nobody else can change.

    It is ``fromnoise`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Where that cannot be, or others could write there, it
    is a temporary folder that goes with this process, and that is said once.

    Raises:
        UserError: there is no safe place for temporary files either.
    """
    try:
        wanted = os.environ.get("XDG_CACHE_HOME", "")
        return _own_folder((Path(wanted) if os.path.isabs(wanted) else Path.home() / ".cache") / "fromnoise")
    except (OSError, RuntimeError, UserError) as problem:  # RuntimeError: there is no home
        told = reason(problem) if isinstance(problem, OSError) else problem
        warn(f"nothing is kept in the cache, and all is built anew ({told}): set XDG_CACHE_HOME to a folder of yours")
    try:
        return _own_folder(Path(_temporary_cache().name))
    except OSError as problem:
        raise UserError(f"no cache, and no temporary folder: {reason(problem)}") from None


def cache_file(name: str, made_from: object) -> Path:
    """The place in the cache of a file for each value of what it is made from, which is told apart by its ``repr``.

    What is there is the user's own file: anything else is removed first.

    Raises:
        UserError: there is no safe place.
    """
    place = cache_folder() / f"{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}-{name}"
    with suppress(OSError):
        found = place.lstat()
        if not (stat.S_ISREG(found.st_mode) and _only_ours(found)):
            place.unlink()
    return place


@cache
def _temporary_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fromnoise-")


def _own_folder(folder: Path) -> Path:
    """Makes a folder for this user alone, links followed; refuses one in which others could put or move something."""
    folder = Path(os.path.realpath(folder))
    for part in [*reversed(folder.parents), folder]:
        if not part.is_dir():
            part.mkdir(0o700)
            part.chmod(0o700)  # whatever the umask
        if not _only_ours(part.lstat(), above=part != folder):
            raise UserError(f"others can write to {part}")
    return folder


def _only_ours(found: os.stat_result, *, above: bool = False) -> bool:
    """Whether only this user can write to a file or folder; ``above``: or only move what is theirs, or is root."""
    if sys.platform == "win32":  # which says it otherwise, and keeps a home to its user
        return True
    closed = found.st_mode & 0o022 == 0 or (above and found.st_mode & stat.S_ISVTX != 0)
    return closed and found.st_uid in ({0, os.geteuid()} if above else {os.geteuid()})
