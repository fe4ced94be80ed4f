r"""Plants one mistake after the other in each printed formula, and counts those that the check catches.

    python book/formulas/plant.py             all formulas
    python book/formulas/plant.py ddim snr    these

A mistake is of one of five kinds: a sign is turned, an index, a factor or power changed, a function replaced by another
or left out, a symbol replaced by another of the same formula or robbed of its hat.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import formulas.entries  # noqa: F401
from formulas.check import UNREADABLE, problem
from formulas.latex import DECORATIONS, Tokens, group, text
from formulas.printed import all_numbered

KINDS = ("sign", "index", "factor", "function", "symbol")
OTHER_FUNCTION = {
    r"\log": r"\exp",
    r"\ln": r"\exp",
    r"\exp": r"\log",
    r"\sin": r"\cos",
    r"\cos": r"\sin",
    r"\tanh": r"\sin",
    r"\min": r"\max",
    r"\max": r"\min",
    r"\Phi": r"\exp",
    r"\mathrm{tr}": r"\mathrm{std}",
    r"\mathrm{std}": r"\mathrm{tr}",
    r"\mathrm{softmax}": r"\exp",
    r"\mathrm{gelu}": r"\tanh",
    r"\le": "<",
    "<": r"\le",
    r"\ge": r"\le",
    r"\ne": ",",
    "/": r"\cdot",
    r"\cdot": "/",
}
_SIGNS = r"\frac \sqrt \sum \int \bigcup \quad \dots \in \top \| \sim \odot \\ \nabla"
_NO_SYMBOLS = {*OTHER_FUNCTION, *_SIGNS.split(), r"\begin{cases}", r"\end{cases}", r"\mathcal{N}", r"\mathrm{KL}"}


@dataclass(frozen=True)
class Mistake:
    """A formula with one mistake."""

    kind: str
    formula: Tokens


def mistakes(formula: Tokens) -> list[Mistake]:
    """Every formula that one mistake makes of this one."""
    found = {made: Mistake(kind, made) for kind, made in _mistakes(formula) if made != formula}
    return list(found.values())


def _mistakes(formula: Tokens) -> Iterator[tuple[str, Tokens]]:
    below = _subscripts(formula)
    letters = [t for place, t in enumerate(formula) if place not in _inside(below) and _is_letter(formula, place)]
    for place, token in enumerate(formula):
        before, after = formula[:place], formula[place + 1 :]
        if place in _inside(below):
            continue
        if token in "+-":
            yield "sign", (*before, "-" if token == "+" else "+", *after)
        if token.isdigit():
            yield "factor", (*before, str((int(token) + 1) % 10), *after)
        if token in OTHER_FUNCTION:
            yield "function", (*before, OTHER_FUNCTION[token], *after)
        if token == r"\sqrt":
            yield "function", (*before, *after)
        if token == r"\frac":
            middle = group(formula, place + 1)
            end = group(formula, middle)
            yield "function", (*before, token, *formula[middle:end], *formula[place + 1 : middle], *formula[end:])
        if token == "^" and place not in {end for _, end in below}:
            yield "factor", (*before, *formula[group(formula, place + 1) :])
        if token in DECORATIONS:
            yield "symbol", (*before, *after)
        elif _is_letter(formula, place):
            start = place
            while start and formula[start - 1] in DECORATIONS:
                start -= 1
            if formula[place + 1 : place + 3] != ("=", "0"):  # twice that says the same
                yield "factor", _doubled(formula, start)
            if other := next((letter for letter in letters if letter != token), None):
                yield "symbol", (*before, other, *after)
    yield from (("index", made) for made in _other_indices(formula, below))


def _is_letter(formula: Tokens, place: int) -> bool:
    token = formula[place]
    if token in _NO_SYMBOLS or token in DECORATIONS:
        return False
    return token.isalpha() or (len(token) > 1 and token.startswith("\\"))


def _doubled(formula: Tokens, place: int) -> Tokens:
    """With a 2 before the symbol that starts here; in braces, where it is the whole argument of something."""
    if _is_argument(formula, place):
        return (*formula[:place], "{", "2", formula[place], "}", *formula[place + 1 :])
    return (*formula[:place], "2", *formula[place:])


def _is_argument(formula: Tokens, place: int) -> bool:
    if formula[place - 1 : place] in (("^",), (r"\sqrt",), (r"\frac",)):
        return True
    starts = (start for start, token in enumerate(formula[:place]) if token == r"\frac")
    return any(group(formula, start + 1) == place for start in starts)


def _subscripts(formula: Tokens) -> list[tuple[int, int]]:
    """Start and end of each, nested ones left out, and of the bounds above a sum or an integral."""
    found: list[tuple[int, int]] = []
    for place, token in enumerate(formula):
        if token == "_" and (not found or place >= found[-1][1]):
            end = group(formula, place + 1)
            found.append((place + 1, end))
            if formula[place - 1] in (r"\sum", r"\int") and formula[end : end + 1] == ("^",):
                found.append((end + 1, group(formula, end + 1)))
    return found


def _inside(spans: list[tuple[int, int]]) -> set[int]:
    return {place for start, end in spans for place in range(start, end)}


def _other_indices(formula: Tokens, below: list[tuple[int, int]]) -> Iterator[Tokens]:
    all_of_them = [formula[start:end] for start, end in below]
    for start, end in below:
        index = formula[start:end]
        plain = index[1:-1] if index[0] == "{" else index
        changed = [_moved(plain)]
        if other := next((one for one in all_of_them if one != index and "=" not in (*one, *index)), None):
            changed.append(other)
        for new in changed:
            yield (*formula[:start], "{", *new, "}", *formula[end:])


def _moved(index: Tokens) -> Tokens:
    """An index that is one off."""
    if index[-1].isdigit() and "-" not in index:
        return (*index[:-1], str((int(index[-1]) + 1) % 10))
    if index[-2:] == ("-", "1"):
        return index[:-2]
    return (*index, "-", "1")


@dataclass(frozen=True)
class Count:
    """What the check says of the mistakes in one formula: of those of each kind, which it does not catch."""

    label: str
    kinds: Counter[str]
    missed: list[Mistake]
    unread: int

    @property
    def planted(self) -> int:
        return self.kinds.total()

    @property
    def caught(self) -> int:
        return self.planted - len(self.missed)


def count(label: str, formula: Tokens) -> Count:
    """Plants every mistake in a formula, one at a time."""
    planted = mistakes(formula)
    said = [problem(label, mistake.formula) for mistake in planted]
    missed = [mistake for mistake, found in zip(planted, said, strict=True) if found is None]
    unread = sum(found is not None and UNREADABLE in found for found in said)
    return Count(label, Counter(mistake.kind for mistake in planted), missed, unread)


@cache
def counts() -> dict[str, Count]:
    """The same for all numbered formulas of the book, by label."""
    return {label: count(label, formula) for label, formula in all_numbered().items()}


def main(labels: list[str]) -> int:
    """Prints how many mistakes are caught, and every one that is not."""
    found = [count(label, formula) for label, formula in all_numbered().items() if label in labels or not labels]
    for one in found:
        for mistake in one.missed:
            print(f"NOT CAUGHT in {one.label}, {mistake.kind}: {text(mistake.formula)}")
    print(f"{len(found)} formulas are parsed")
    for kind in KINDS:
        planted = sum(one.kinds[kind] for one in found)
        missed = sum(mistake.kind == kind for one in found for mistake in one.missed)
        print(f"{kind}: {planted - missed} of {planted} mistakes caught")
    print(
        f"{sum(one.unread for one in found)} of them name something that the formula does not have, or cannot be read"
    )
    return int(any(one.missed for one in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
