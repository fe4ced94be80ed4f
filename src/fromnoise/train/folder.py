"""The folder of a run: whether it may be used, who is training in it, and its checkpoints.

Nothing heavy is imported here, so that a run that is stopped early can still say where its checkpoints are.
"""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fromnoise.errors import UserError
from fromnoise.files import check_writable, read_bytes

CHECKPOINTS, PRESET, LOCK, CARD = "checkpoints", "training.toml", ".lock", "README.md"
LOG, MAX_LOG_BYTES = "log.jsonl", 2**32
STAGES, STAGES_FILE = "stages", "stages.toml"  # the folder of the runs that a run builds on, and what says which
PROVEN = "proven"  # an empty file in a checkpoint after which steps were finite


def check_folder(folder: Path, resume: bool, staged: bool = False) -> None:
    """Refuses, by a UserError, a folder that cannot be made or holds anything but a run that is to be resumed.

    Args:
        staged: whether the folder may hold the stages that the run builds on.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give --out a folder")
    if not folder.exists():
        return check_writable(folder, "--out")
    names = {path.name for path in folder.iterdir()}
    if PRESET in names and not resume:
        raise UserError(f"{folder} already holds a run: give --resume to go on with it, or another --out")
    if STAGES in names and PRESET not in names and not staged:
        raise UserError(f"{folder} holds stages, which {stages_command(folder)} goes on with: give another --out")
    if PRESET not in names and any(name not in (LOCK, STAGES) and not name.startswith(".partial-") for name in names):
        raise UserError(f"{folder} is not empty and holds no run: give another --out")


def stages_command(folder: Path) -> str:
    """The command that goes on with the stages in a folder."""
    words = ["fromnoise", "train", str(folder / STAGES / STAGES_FILE), "--out", str(folder), "--resume"]
    return shlex.join(words)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder if there is none, and keeps other processes from training in it as long as this one lives.

    Raises:
        UserError: another process trains in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # which does not wait for a pipe
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    with open(descriptor, "rb"):
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            line = f"another process is training in {folder}: wait until it has ended, or give another --out"
            raise UserError(line) from None
        except OSError:
            pass  # this file system has no locks
        yield


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: the folders that are named as `save_checkpoint` names them."""
    found = [path for path in (folder / CHECKPOINTS).glob("step-*") if path.is_dir() and not path.is_symlink()]
    return sorted((path for path in found if re.fullmatch(r"step-(\d{8}|[1-9]\d{8,})", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint, which has lost its name before the first of its files goes."""
    doomed = checkpoint.with_name(f".partial-{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that can be read; others were being written when a process or the machine went down."""
    found, path = [], folder / LOG
    for line in read_bytes(path, MAX_LOG_BYTES).decode(errors="replace").split("\n")[:-1] if path.exists() else []:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and type(line.get("step")) is int]


def how_to_go_on(folder: Path) -> str:
    """What to do after a run has stopped, in words."""
    if checkpoints := list_checkpoints(folder):
        return f"the last good checkpoint is {checkpoints[-1]}: the same command with --resume goes on from it"
    return "there is no checkpoint yet: the same command with --resume starts again"
