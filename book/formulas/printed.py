"""The numbered formulas that the chapters print."""

import re

from bridge import chapters
from formulas.latex import Tokens, tokens

_NUMBERED = re.compile(r"^\$\$\n((?:(?!^\$\$).)*?)\n\$\$ \(([a-z0-9-]+)\)$", re.MULTILINE | re.DOTALL)


def numbered(chapter: str) -> list[tuple[str, str]]:
    """Label and LaTeX of each numbered formula in a chapter's source, in order."""
    return [(label, latex) for latex, label in _NUMBERED.findall(chapter)]


def all_numbered() -> dict[str, Tokens]:
    """Every numbered formula of the book, by label."""
    pairs = (pair for chapter in chapters() for pair in numbered(chapter.read_text(encoding="utf-8")))
    return {label: tokens(latex) for label, latex in pairs}
