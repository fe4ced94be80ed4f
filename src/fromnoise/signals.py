"""Signals that ask a command to stop: one line, the exit status that shells expect, and nothing left over.

Nothing heavy is imported here, so that the first thing a command does can be to listen.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from fromnoise.terminal import is_first_here

ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 5.0  # seconds after a signal in which others do not disturb the clean-up
_last = [0, -PATIENCE]  # the last signal that was heeded, and when
_advice: list[Callable[[], str]] = []


def stoppable(command: Callable[[], int]) -> int:
    """The exit status of a command in which a signal raises KeyboardInterrupt, unless it is ignored, as by ``nohup``.

    While this package imports others, the signal ends the process: libraries would take that for a failed import.
    """
    for number in ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        return command()
    except KeyboardInterrupt as stop:
        _farewell(*stop.args)
    finally:
        _last[1] = math.inf  # nothing is left to stop


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


def check() -> None:
    """Raises KeyboardInterrupt after a signal whose own was lost, as in code that is called back from C."""
    if _last[0]:
        raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _last[1] > PATIENCE:
        _last[:] = number, now
        if _importing(frame):
            _farewell(*(say() for say in _advice[-1:]))
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether the outermost import that is under way was begun by this package."""
    importer = ""
    while frame and frame.f_back:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            importer = frame.f_back.f_globals.get("__name__", "")
        frame = frame.f_back
    return importer.partition(".")[0] in ("__main__", "fromnoise")


def _farewell(*advice: object) -> NoReturn:
    """Says that it was stopped, and how to go on, and ends here: what runs at exit may wait for what was stopped."""
    _last[1] = math.inf
    number = int(_last[0]) or signal.SIGINT
    if is_first_here():
        told = "; ".join(["interrupted" if number == signal.SIGINT else "stopped", *map(str, advice)])
        with suppress(OSError):  # standard error is closed
            os.write(2, f"{os.linesep if os.isatty(2) else ''}fromnoise: {told}\n".encode())
    os._exit(128 + number)
