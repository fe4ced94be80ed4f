"""The one exception for mistakes of the user's."""


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one line: what is wrong, and what to do about it. The command line prints it without a traceback
    and exits with status 2; a library caller may catch it.
    """
