r"""The LaTeX of a formula as tokens, without what only serves its looks.

``\big(x_{t}\,\bigr)`` and ``( x _ t )`` have the same tokens. Two formulas with the same tokens are the same formula.
"""

import re
from functools import cache

from formulas.values import FormulaError

Tokens = tuple[str, ...]

_FONTS = "text|mathrm|operatorname|mathbb|mathcal|mathbf"
_TOKEN = re.compile(
    rf"\\(?:{_FONTS})" + r"\s*(?:\{[^{}]*\}|[A-Za-z])"  # a name in a font
    r"|\\(?:begin|end)\{[a-z*]+\}|\\\\(?:\[[^\]]*\])?|\\[A-Za-z]+|\\.|\S",
    re.DOTALL,
)
_LOOKS = {"\\ ", "\\\n", r"\,", r"\;", r"\!", r"\:", "~", r"\left", r"\right", r"\limits", r"\nolimits"}
_LOOKS |= {rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")}
_ALIASES = r"""
    \tfrac \frac, \dfrac \frac, \mid |, \vert |, \lvert |, \rvert |, \Vert \|, \lVert \|, \rVert \|, \lbrack [,
    \rbrack ], \geq \ge, \leq \le, \neq \ne, \ldots \dots, \cdots \dots, \qquad \quad, \times \cdot,
    \emptyset \varnothing, \prime '
"""
_SAME: dict[str, str] = dict(pair.split() for pair in _ALIASES.split(","))

RELATIONS = {"=", r"\sim", r"\ge", r"\le", "<", ">"}
DECORATIONS = {r"\hat", r"\bar", r"\tilde", r"\dot", r"\vec"}
_CONTINUES = RELATIONS | {"+", "-", r"\cdot", r"\odot", "/"}


@cache
def tokens(latex: str) -> Tokens:
    r"""The tokens of a formula. Lines of ``aligned`` that do not go on with an operator are parted by ``\quad``."""
    raw = [_named(token) for token in _TOKEN.findall(latex)]
    raw = [_SAME.get(token, token) for token in raw if token not in _LOOKS]
    return tuple(_without_braces(_joined(raw)))


def text(formula: Tokens) -> str:
    """Tokens as LaTeX again, one way for one formula."""
    written = ""
    for token in formula:
        command = re.fullmatch(r"\\[A-Za-z]+", written[written.rfind("\\") :]) if "\\" in written else None
        spaced = token in RELATIONS or (command and token[0].isalpha())
        written += (" " if spaced else "") + token + (" " if token in RELATIONS or token == "," else "")
    return written.strip()


def split(formula: Tokens, separators: set[str]) -> list[Tokens]:
    """The parts of a formula between separators that stand in no bracket."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in formula:
        depth += (token in "([{" or token.startswith(r"\begin")) - (token in ")]}" or token.startswith(r"\end"))
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts if part]


def sides_of(claim: Tokens) -> tuple[list[Tokens], tuple[str, ...]]:
    """What stands on both sides of the relations in a claim, and the relations."""
    sides = split(claim, RELATIONS)
    if sum(map(len, sides)) + len(sides) - 1 != len(claim):
        raise FormulaError(f"a side is missing in {text(claim)!r}")
    relations, place = [], -1
    for side in sides[:-1]:
        place += len(side) + 1
        relations.append(claim[place])
    return sides, tuple(relations)


def group(formula: Tokens, start: int) -> int:
    """Where the group or the single token that starts here ends."""
    if start >= len(formula) or formula[start] != "{":
        return start + 1
    depth = 0
    for place in range(start, len(formula)):
        depth += (formula[place] == "{") - (formula[place] == "}")
        if depth == 0:
            return place + 1
    return len(formula)


def _named(token: str) -> str:
    r"""``\mathrm {SNR}`` as ``\mathrm{SNR}``, ``\mathbb{E}`` too, and text without outer blanks."""
    found = re.fullmatch(
        r"\\(text|mathrm|operatorname|mathbb|mathcal|mathbf)\s*\{?\s*([^{}]*?)\s*\}?", token, re.DOTALL
    )
    if not found:
        return token
    font = {"operatorname": "mathrm"}.get(found[1], found[1])
    if font == "mathbb" and found[2] == "E":
        return "E"  # an expectation, in either font
    return rf"\{font}{{{' '.join(found[2].split())}}}"


def _joined(raw: list[str]) -> list[str]:
    """Without the marks of alignment, which mean something only in ``cases``."""
    found: list[str] = []
    in_cases = False
    for place, token in enumerate(raw):
        if token in (r"\begin{cases}", r"\end{cases}"):
            in_cases = token.startswith(r"\begin")
            found.append(token)
        elif in_cases:
            found.append(r"\\" if token.startswith(r"\\") else token)
        elif token.startswith(r"\\"):
            following = next((later for later in raw[place + 1 :] if later not in ("&", r"\quad")), "")
            if following not in _CONTINUES:
                found.append(r"\quad")
        elif token == r"\quad" and next((t for t in reversed(raw[:place]) if t != "&"), "").startswith(r"\\"):
            continue  # an indented line
        elif token != "&" and not token.startswith((r"\begin", r"\end")):
            found.append(token)
    return found


def _without_braces(raw: list[str]) -> list[str]:
    """Without empty braces and those around a single token."""
    while True:
        for place, token in enumerate(raw):
            if token == "{" and "}" in raw[place + 1 : place + 3]:
                end = raw.index("}", place)
                raw = raw[:place] + raw[place + 1 : end] + raw[end + 1 :]
                break
        else:
            return raw
