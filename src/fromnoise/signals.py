"""Signals that ask a command to stop: one line, the exit status that shells expect, and nothing left over.

Nothing heavy is imported here, so that the first thing a command does can be to listen.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 5.0
"""seconds after a signal in which others do not disturb the clean-up"""
_last = [0, -PATIENCE]  # the last signal that was heeded, and when
_advice: list[Callable[[], str]] = []


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to stop."""


def listen() -> None:
    """From now on these signals raise `Stopped`, unless they are ignored already, as under ``nohup``.

    While this package imports others the process ends at once: there is nothing to clean up, and libraries would
    take the exception for a failed import.
    """
    for number in ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def ignore() -> None:
    """From now on there is nothing left to stop."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


def end(status: int) -> int:
    """The exit status; after a signal the process ends here, since what runs at exit may wait for what was stopped."""
    if _last[0]:
        sys.stdout.flush()
        os._exit(status)
    return status


def check() -> None:
    """Stops after a signal that was lost, as exceptions are in code that is called back from C.

    Raises:
        Stopped: there was one.
    """
    if _last[0]:
        raise Stopped


@contextmanager
def advising(say: Callable[[], str]) -> Iterator[None]:
    """Whoever stops what is done within is told, in words, how to go on."""
    _advice.append(say)
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (say(),)
        raise
    finally:
        _advice.remove(say)


def farewell(stop: BaseException | None = None) -> int:
    """Tells that the command was stopped, and the advice that goes with it; returns the exit status."""
    ignore()
    number = int(_last[0]) or signal.SIGINT
    if is_first_here():
        advice = stop.args if stop else [say() for say in _advice[-1:]]
        told = "; ".join(["interrupted" if number == signal.SIGINT else "stopped", *map(str, advice)])
        os.write(2, f"{os.linesep if sys.stderr.isatty() else ''}fromnoise: {told}\n".encode())
    return 128 + number


def is_first_here() -> bool:
    """Whether this is the only process, or the first that ``torchrun`` has started on this machine."""
    return not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() or os.environ.get("LOCAL_RANK", "0") == "0"


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _last[1] > PATIENCE:
        _last[:] = number, now
        if _importing(frame):
            os._exit(farewell())
        raise Stopped


def _importing(frame: FrameType | None) -> bool:
    """Whether the outermost import that is under way was begun by this package."""
    importer = None
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            importer = frame.f_back
        frame = frame.f_back
    name = importer.f_globals.get("__name__", "") if importer else ""
    return name == "__main__" or name.partition(".")[0] == "fromnoise"
