r"""Reads a printed formula into claims that are true or false once the symbols have values.

    formula   := statement (("," | "\quad") statement)*
    statement := sum (relation sum)*

The rest of the grammar is in `formulas.reader`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formulas import values
from formulas.latex import Tokens, sides_of, split, tokens
from formulas.reader import Reader, Rule


@dataclass(frozen=True)
class Statement:
    r"""One claim of a formula: its sides with the relations between them, and its tokens.

    Without a relation it is the value of what the formula stands beside.
    """

    sides: tuple[Rule, ...]
    relations: tuple[str, ...]
    tokens: Tokens


@dataclass(frozen=True)
class Range:
    r"""``i = 0, \dots, N``: which values an index takes."""

    index: Tokens
    first: Rule
    last: Rule
    tokens: Tokens


def read(formula: Tokens, known: Mapping[Tokens, Any]) -> list[Statement | Range]:
    """The claims of a formula. Only the sort of each symbol's value matters here, not the value."""
    parts = split(formula, {",", r"\quad", r"\text{with}", r"\text{and}", r"\text{where}", r"\text{so}"})
    parts = [part[:-1] if part[-1] == "." else part for part in parts]
    found: list[Statement | Range] = []
    place = 0
    while place < len(parts):
        if parts[place + 1 : place + 2] == [(r"\dots",)] and place + 2 < len(parts) and "=" in parts[place]:
            index, first = split(parts[place], {"="})
            start, end = (Reader(part, known).whole() for part in (first, parts[place + 2]))
            found.append(Range(index, start, end, parts[place] + parts[place + 2]))
            place += 3
        else:
            found.append(_statement(parts[place], known))
            place += 1
    return found


def bound(symbols: Mapping[str, Any]) -> dict[Tokens, Any]:
    """The symbols of an entry by their tokens, with their values as the arithmetic wants them.

    ``"over i"`` says what an index goes over, or between what a variable is integrated, and ``"draws of z"`` has
    `Samples` of z.
    """
    found: dict[Tokens, Any] = {}
    for name, thing in symbols.items():
        if name.startswith("over "):
            found["range", *tokens(name.removeprefix("over "))] = thing
        elif name.startswith("draws of "):
            found["draws", *tokens(name.removeprefix("draws of "))] = thing
        else:
            found[tokens(name)] = values.value(thing)
    return found


def _statement(part: Tokens, known: Mapping[Tokens, Any]) -> Statement:
    sides, relations = sides_of(part)
    return Statement(tuple(Reader(side, known).whole() for side in sides), relations, part)
