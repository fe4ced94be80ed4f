"""What every piece of bad input must come down to: a result, or one line for the person who made it."""

from collections.abc import Callable
from typing import Any

from fromnoise.errors import UserError

LONGEST = 600  # characters of a message, the path of a temporary folder included


def attempt(action: Callable[[], Any]) -> Any:
    """The result of an action, or None where it was refused as the user's mistake; any other exception passes through.

    The message is one printable line, and not a long one.
    """
    try:
        return action()
    except UserError as refusal:
        message = str(refusal)
        assert 0 < len(message) < LONGEST, message
        assert message.isprintable(), repr(message)
        return None
