r"""The table of symbols, held against the formulas: each letter of a formula must stand in a table.

    python book/formulas/symbols.py          the letters that no table has

The table of chapter 0 holds for all chapters, and a chapter's own, under ``## The letters of this chapter``, for it.
Held against them are the numbered formulas, and in a chapter with its own table all that are set off by ``$$``. A
symbol is a letter with its decorations and primes; an index such as t, i or 0 does not matter, but a name such as
``\theta`` or ``\text{skip}`` below the line does.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bridge import chapters
from formulas.latex import DECORATIONS, Tokens, group, sides_of, split, text, tokens
from formulas.printed import numbered

HEADINGS = "## The one table of symbols", "## The letters of this chapter"
_INDEX = r"t u T i j k l n N r \tau \hat + - / | , : d _ { }"
_COMMON = r"""
    \log \ln \exp \sin \cos \tanh \min \max \frac \sqrt \sum \int \prod \bigcup \in \top \| \sim \propto
    \leftarrow \odot \cdot \ge \le \ne \approx \to \longrightarrow
    \dots \quad \\ \partial \pi \infty e \begin{cases} \end{cases}
"""
_INDICES, _ELEMENTARY = set(_INDEX.split()), set(_COMMON.split())
_COUNTING = {"i", "j", "k", "l", "n"}  # where they are an index
_OVER = {"E", r"\nabla", r"\mathrm{softmax}"}


def symbols(formula: Tokens) -> list[str]:
    """The symbols of a formula, in order, each once. Indices that count, or that a sum binds, are not among them."""
    bound = _bound(formula) | (_COUNTING & _below(formula))
    found = dict.fromkeys(name for name in _symbols(formula) if name not in bound)
    return list(found)


def _symbols(formula: Tokens) -> Iterator[str]:
    place = 0
    while place < len(formula):
        start = place
        while formula[place : place + 1] and formula[place] in DECORATIONS:
            place += 1
        token = formula[place] if place < len(formula) else ""
        place += 1
        if not _is_letter(token) or _is_differential(formula, start):
            continue
        while formula[place : place + 1] in (("'",), ("*",)):
            place += 1
        name = formula[start:place]
        if formula[place : place + 1] == ("_",):
            end = group(formula, place + 1)
            below = formula[place + 1 : end]
            place = end
            if token in _OVER:  # what it goes over
                yield text(name)
                continue
            yield text(name + (("_", *below) if _is_name(below) else ()))
            while formula[place : place + 1] == ("'",):
                place += 1
            if not _is_name(below):
                yield from (name for name in _symbols(below) if name not in _COUNTING)
        else:
            yield text(name)


def _is_letter(token: str) -> bool:
    if token in _ELEMENTARY or token in DECORATIONS or token.startswith(r"\text"):
        return False
    if re.fullmatch(r"\\mathrm\{[a-z]{3,}\}", token):
        return False  # a function by its name
    return token.isalpha() or (len(token) > 1 and token.startswith("\\"))


def _is_differential(formula: Tokens, place: int) -> bool:
    """The d of ``dx``: one that is followed by a letter at once."""
    return formula[place] == "d" and place + 1 < len(formula) and _is_letter(formula[place + 1])


def _is_name(below: Tokens) -> bool:
    if "," in below and all(len(token) == 1 for token in below):
        return False  # w_{c, m, n}
    return any(token not in _INDICES and not token.isdigit() for token in below)


def _bound(formula: Tokens) -> set[str]:
    found: set[str] = set()
    for place, token in enumerate(formula[:-1]):
        if token in (r"\sum", r"\bigcup", r"\prod") and formula[place + 1] == "_":
            below = formula[place + 2 : group(formula, place + 2)]
            before_bound = below[: below.index("=")] if "=" in below else below
            found |= {one for one in before_bound if one.isalpha()}
    return found


def _below(formula: Tokens) -> set[str]:
    """What stands in indices."""
    spans = ((place + 1, group(formula, place + 1)) for place, token in enumerate(formula) if token == "_")
    return {token for start, end in spans for token in formula[start:end]}


def table(chapter: str) -> set[str]:
    """The symbols that a chapter's table has in its first column; of a definition, what stands before the ``=``."""
    found: set[str] = set()
    for heading in HEADINGS:
        section = re.search(rf"^{heading}\n(.*?)(?=^## |\Z)", chapter, re.MULTILINE | re.DOTALL)
        for row in re.findall(r"^\|([^\n]*?\$[^\n]*)", section[1] if section else "", re.MULTILINE):
            first = re.split(r"(?<!\\)\|", row)[0]
            for latex in re.findall(r"\$([^$]+)\$", first):
                claims = [side for part in split(tokens(latex), {",", r"\quad"}) for side in sides_of(part)[0][:1]]
                found |= {name for claim in claims for name in _symbols(claim)}
    return found


def displayed(chapter: str) -> list[tuple[str, str]]:
    """All formulas that are set off, with their first line for the label of those that have none."""
    found = re.findall(r"^\$\$\n(.*?)\n\$\$(?: \(([a-z0-9-]+)\))?$", chapter, re.MULTILINE | re.DOTALL)
    return [(label or latex.splitlines()[0], latex) for latex, label in found]


def gaps(sources: dict[str, str]) -> list[str]:
    """What is missing in the tables: one line for each formula with such a symbol."""
    common = set().union(*(table(text) for name, text in sources.items() if name.startswith("00")))
    found = []
    for name, chapter in sources.items():
        known = common | table(chapter)
        for label, latex in displayed(chapter) if HEADINGS[1] in chapter else numbered(chapter):
            if missing := [symbol for symbol in symbols(tokens(latex)) if symbol not in known]:
                found.append(f"{name}, {label}: no table of symbols has {' or '.join(missing)}")
    return found


def book() -> dict[str, str]:
    return {chapter.stem: chapter.read_text(encoding="utf-8") for chapter in chapters()}


if __name__ == "__main__":
    lines = gaps(book())
    print("\n".join(lines))
    sys.exit(bool(lines))
