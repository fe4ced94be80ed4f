"""What is on disk: every file below a folder and in the zips there."""

import zipfile
from functools import partial
from pathlib import Path, PurePosixPath

from fromnoise.data.table import MAX_BYTES, SPLITS, File
from fromnoise.errors import UserError, told
from fromnoise.files import limited, read_bytes


def list_files(folder: Path) -> tuple[list[File], list[Path]]:
    """All files, in the order of their names, and the folders that were passed over because links led there before.

    Links are followed. A zip counts as a folder of its name, unless what it holds has folders of its own.

    Raises:
        UserError: a folder or a zip cannot be read, or two files would be the same one.
    """
    files, again, seen, pending = list[File](), list[Path](), {folder.resolve()}, [folder]
    while pending:
        place = pending.pop()
        with told(f"cannot read {place}"):
            for path in sorted(place.iterdir()):
                below = PurePosixPath(*path.relative_to(folder).parts)
                if path.is_dir():
                    (again if path.resolve() in seen else pending).append(path)
                    seen.add(path.resolve())
                elif path.suffix.lower() == ".zip" and path.is_file():
                    files += _members(below, path)
                else:
                    files.append(File(below, path, partial(read_bytes, path, MAX_BYTES)))
    files.sort(key=lambda file: file.below)
    for one, other in zip(files, files[1:], strict=False):
        if one.below == other.below:
            raise UserError(f"{one.path} and {other.path} would be the same image: remove one")
    return files, again


def _members(below: PurePosixPath, path: Path) -> list[File]:
    """The files in a zip."""
    with told(f"cannot read {path}"):
        archive = zipfile.ZipFile(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
    inside = [PurePosixPath(member.filename.replace("\\", "/").lstrip("/")) for member in members]
    flat = all(len(name.parts) == 1 for name in inside)
    tops = {part.lower() for name in inside for part in name.parts[:1]}
    split = path.stem.lower() in SPLITS and tops != {path.stem.lower()}
    above = below.with_suffix("") if flat or split else below.parent
    named = zip(members, inside, strict=True)
    return [File(above / name, path / name, partial(_read, archive, member, path / name)) for member, name in named]


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    with told(f"cannot read {path}"), archive.open(member) as file:
        return limited(file.read, path, MAX_BYTES)
