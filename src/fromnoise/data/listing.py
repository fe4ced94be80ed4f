"""What is on disk: every file below a folder and in the zips there."""

import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from fromnoise.data.decoding import MAX_BYTES
from fromnoise.data.table import SPLITS, File, Splits
from fromnoise.errors import UserError
from fromnoise.files import read_bytes

Configurations = dict[str, Splits]  # the datasets that a source holds, by name


def list_files(folder: Path) -> tuple[list[File], list[Path]]:
    """All files, in the order of their names, and the folders that were passed over because links led there before.

    Links are followed. A zip counts as a folder of its name, unless what it holds has folders of its own.

    Raises:
        UserError: a folder or a zip cannot be read, or two files would be the same one.
    """
    files, again, seen, pending = list[File](), list[Path](), {_identity(folder)}, [folder]
    while pending:
        place = pending.pop()
        try:
            paths = sorted(Path(entry) for entry in os.scandir(place))
        except OSError as error:
            raise UserError(f"cannot read {place}: {error.strerror}") from None
        for path in paths:
            parts = path.relative_to(folder).parts
            if path.is_dir():
                (again if _identity(path) in seen else pending).append(path)
                seen.add(_identity(path))
            elif path.suffix.lower() == ".zip" and path.is_file():
                files += _members(parts, path)
            else:
                files.append(File(parts, path, partial(read_bytes, path, MAX_BYTES)))
    files.sort(key=lambda file: file.parts)
    for one, other in zip(files, files[1:], strict=False):
        if one.parts == other.parts:
            raise UserError(f"{one.path} and {other.path} would be the same image: remove one")
    return files, again


def _identity(path: Path) -> tuple[int, int]:
    """The same for two paths that lead to the same folder."""
    return path.stat().st_dev, path.stat().st_ino


def _members(parts: tuple[str, ...], path: Path) -> Iterator[File]:
    """The files in a zip."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    inside = {
        info: PurePosixPath(info.filename.replace("\\", "/")).parts for info in archive.infolist() if not info.is_dir()
    }
    flat = all(len(names) == 1 for names in inside.values())
    split = path.stem.lower() in SPLITS and not all(names[0].lower() == path.stem.lower() for names in inside.values())
    above = (*parts[:-1], path.stem) if flat or split else parts[:-1]
    for info, names in inside.items():
        yield File((*above, *names), path / info.filename, partial(_read_member, archive, info, path))


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    try:
        with archive.open(info) as member:
            content = member.read(MAX_BYTES + 1)
    except Exception as error:  # a broken or encrypted one raises many kinds
        raise UserError(f"cannot read {info.filename} in {path}: {error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{info.filename} in {path} is larger than {MAX_BYTES} bytes, which no image is")
    return content
