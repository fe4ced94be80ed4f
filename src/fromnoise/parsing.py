"""Options from the words of a command line: the one corner that knows how tyro speaks."""

import io
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro

from fromnoise.errors import UserError

LEAST, WIDE = 40, 10_000
"""columns: what help takes, which in fewer never ends, and what keeps a complaint from being broken into lines"""


def parse(options: type[Any], name: str, arguments: Sequence[str], default: Any = None) -> Any:
    """The dataclass ``options`` from the arguments of a command.

    Args:
        name: of the command, as its help shows it.
        default: an instance that stands for the options that are left out; none: the dataclass's own defaults.

    Raises:
        UserError: the arguments are not understood.
        SystemExit: the help was asked for, and printed.
    """
    settings: dict[str, Any] = {"config": (tyro.conf.DisallowNone,)} | ({} if default is None else {"default": default})
    box, before = io.StringIO(), os.environ.get("COLUMNS")
    columns = max(LEAST, shutil.get_terminal_size()[0]) if {"-h", "--help"} & set(arguments) else WIDE
    os.environ["COLUMNS"] = str(columns)
    try:
        with redirect_stderr(box):
            return tyro.cli(options, prog=f"fromnoise {name}", args=list(arguments), **settings)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{_complaint(box.getvalue())}; fromnoise {name.split()[0]} --help tells the options") from None
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _complaint(box: str) -> str:
    """The first paragraph in the box that tyro draws around a mistake, as one line, without the title."""
    body = re.sub(r"\x1b\[[\d;]*m|[│─]", "", box).partition("\n")[2]
    paragraph = re.search(r"(.*\w.*\n)+", body)
    return "the options cannot be understood" if paragraph is None else " ".join(paragraph[0].split()).rstrip(".")
