"""Where the program meets the terminal: output that no work stops for, and the line that a fault becomes.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from fromnoise.errors import LONGEST, UserError, harmless, shortened

LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""what ``torchrun`` and ``accelerate launch`` tell each process that they start"""
NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate|cannot allocate|bad_alloc", re.IGNORECASE)
TOO_LARGE = re.compile(r"overflow|too large", re.IGNORECASE)  # how torch says it of a size


class Outlet:
    """A stream whose other end may be lost: what is written after that is dropped."""

    def __init__(self, stream: Any):
        # a stream that was closed when the program began is None, and every write to it is to fail
        self.stream = open(os.open(os.devnull, os.O_RDONLY), "w") if stream is None else stream  # noqa: SIM115
        self.problem: Exception | None = None  # why something was lost that a reader wanted
        if isinstance(self.stream, io.TextIOWrapper):  # a name in letters that the console does not have is spelled out
            self.stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except (OSError, ValueError) as problem:  # ValueError: closed
            if not isinstance(problem, BrokenPipeError):  # ``head``, which stops reading, has seen enough
                self.problem = self.problem or problem
            with suppress(OSError, ValueError):  # what is left in buffers goes nowhere, from other languages, too
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextmanager
def outlets() -> Iterator[Outlet]:
    """Standard output and standard error as outlets; gives the former."""
    while (null := os.open(os.devnull, os.O_RDONLY)) <= 2:  # or files to come would take the numbers of closed streams
        pass
    os.close(null)
    before = sys.stdout, sys.stderr
    output, errors = Outlet(sys.stdout), Outlet(sys.stderr)
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def explained(error: Exception) -> str | None:
    """The line that tells the user of a fault; None for a defect of the program, whose traceback is wanted."""
    text = str(error)
    of_torch = text if isinstance(error, RuntimeError) else ""
    if isinstance(error, MemoryError) or NO_MEMORY.search(of_torch):
        return "out of memory: ask for less, by a smaller --n or --batch-size, or in training --train.batch-size"
    if isinstance(error, OverflowError) or TOO_LARGE.search(of_torch):
        return f"a number is too large for this machine: {text.partition(chr(10))[0]}"
    if isinstance(error, OSError):
        return reason(error)
    return text if isinstance(error, UserError) else None


def reason(error: OSError) -> str:
    """What the system says of a file, and of which; or that the folder is gone in which the program was started."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the working folder is gone: change to one that is there"
    named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{named}{error.strerror or error}"


def say(line: str) -> None:
    """Prints a line of this program's to standard error."""
    with suppress(OSError, ValueError):  # there may be nobody to tell
        print(f"fromnoise: {shortened(' '.join(harmless(line).split()), LONGEST)}", file=sys.stderr or io.StringIO())


@cache
def warn(line: str) -> None:
    """Says something once, and of several processes by the first alone."""
    if is_first_here():
        say(line)


def is_one_of_several() -> bool:
    """Whether a launcher has started more processes than this one."""
    return os.environ.keys() >= LAUNCHED and os.environ["WORLD_SIZE"] != "1"


def is_first_here() -> bool:
    """Whether this is the only process, or the first that a launcher has started on this machine."""
    return not os.environ.keys() >= LAUNCHED or os.environ["LOCAL_RANK"] == "0"
