"""The one exception for mistakes of the user's, and how text of others is made fit to be shown."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 500  # characters of a message


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one line: what is wrong, and what to do about it. The command line prints it without a traceback
    and exits with status 2; a library caller may catch it. What it quotes of a file cannot make it long, break the
    line or steer a terminal.
    """

    def __init__(self, message: str):
        super().__init__(shortened(harmless(message), LONGEST))


@contextmanager
def told(problem: str, advice: str = "") -> Iterator[None]:
    """Makes one line of all that goes wrong within; libraries raise errors of every kind for what others have written.

    Raises:
        UserError: the problem, and the advice or, without one, the first line of what went wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # where ``datasets`` keeps it
        reason = getattr(cause, "strerror", None) or str(cause).strip() or type(cause).__name__
        raise UserError(f"{problem}: {advice or reason.splitlines()[0]}") from error


def harmless(text: str) -> str:
    """The text on one line, with a terminal's control codes and all else that is invisible spelled out."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def shortened(text: str, longest: int) -> str:
    """The text without its middle, if it is longer than so many characters."""
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} ... {text[-(longest // 3 - 5) :]}"
