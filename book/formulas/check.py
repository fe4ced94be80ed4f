r"""Holds each printed formula against the function that it stands beside, in numbers.

An *entry* says what the symbols of a formula stand for: a generator, named like the label, that yields one dictionary
for each case that is tried. The value of what the function computes is among them, under its symbol, or as ``"value"``
where the formula prints no left side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from formulas import values
from formulas.draws import Draws
from formulas.latex import RELATIONS, Tokens, split, text, tokens
from formulas.operators import COMPARE
from formulas.reader import Scope
from formulas.reading import Range, Statement, bound, read
from formulas.symbols import symbols
from formulas.values import FormulaError

Case = dict[str, Any]
Cases = Callable[[Draws], Iterator[Case]]

CONSTANTS: Case = {"e": math.e, r"\pi": math.pi}


@dataclass(frozen=True)
class Entry:
    """How one formula is read: its cases, and how well both sides must agree (relative)."""

    label: str
    cases: Cases
    tolerance: float


ENTRIES: dict[str, Entry] = {}


def printed(tolerance: float = 1e-9) -> Callable[[Cases], Cases]:
    """Makes a generator of cases the entry of the label that its name is, with underscores for hyphens."""

    def enter(cases: Cases) -> Cases:
        label = cases.__name__.replace("_", "-")
        assert label not in ENTRIES, f"{label} has two entries"
        ENTRIES[label] = Entry(label, cases, tolerance)
        return cases

    return enter


UNREADABLE = "cannot be read: "


def problem(label: str, formula: Tokens) -> str | None:
    """What is wrong with a printed formula, or None: it says what its function computes."""
    entry = ENTRIES.get(label)
    if entry is None:
        return f"{label}: no entry says what its symbols stand for: {', '.join(symbols(formula))}"
    try:
        found = _problem(entry, formula)
    except FormulaError as error:
        found = UNREADABLE + str(error)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        found = f"has no value: {error}"  # a shape that does not fit, an argument too many
    return f"{label}: {found}" if found else None


@cache
def scopes(label: str) -> tuple[tuple[Scope, ...], Scope]:
    """The cases of an entry, computed once, and all their symbols together."""
    entry = ENTRIES[label]
    cases = tuple(bound(CONSTANTS | case) for case in entry.cases(Draws(label)))
    return cases, {name: thing for case in cases for name, thing in case.items()}


def _problem(entry: Entry, formula: Tokens) -> str | None:
    cases, symbols = scopes(entry.label)
    statements = read(formula, symbols)
    if not statements:
        return "nothing is printed"
    for scope in cases:
        for place, statement in enumerate(statements):
            if isinstance(statement, Range):
                fault = _range_fault(statement, scope)
            else:
                fault = _fault(statement, scope, entry.tolerance, first=place == 0)
            if fault:
                return f"{fault} in {text(statement.tokens)!r}"
    return None


def _range_fault(statement: Range, scope: Scope) -> str | None:
    numbers = scope.get(("range", *statement.index))
    if numbers is None:
        return f"the entry does not say over what {text(statement.index)!r} goes"
    ends = values.number(statement.first(scope)), values.number(statement.last(scope))
    return None if ends == (min(numbers), max(numbers)) else f"{text(statement.index)!r} goes over something else"


def _fault(statement: Statement, scope: Scope, tolerance: float, *, first: bool) -> str | None:
    sides = [side(scope) for side in statement.sides]
    if not statement.relations:
        return _compared(_needed(scope), sides[0], tolerance)
    if first and tokens("value") in scope and (fault := _compared(_needed(scope), sides[-1], tolerance)):
        return fault
    if all(relation in ("<", r"\le") for relation in statement.relations) and len(sides) == 3:
        return _domain_fault(statement, sides, scope)
    for relation, left, right in zip(statement.relations, sides, sides[1:], strict=False):
        match relation:
            case "=":
                fault = _compared(left, right, tolerance)
            case r"\ge" | r"\le":
                fault = _bound_fault(relation, left, right, scope, tolerance)
            case r"\sim":
                drawn = scope.get(("draws", *split(statement.tokens, RELATIONS)[0]), left)
                fault = None if values.same(drawn, right, tolerance) else "another distribution"
            case "<" | ">":
                fault = None if COMPARE[relation](left, right) else "the comparison is false"
            case _:
                raise FormulaError(f"nothing says when {relation!r} is true")
        if fault:
            return fault
    return None


def _needed(scope: Scope) -> Any:
    if (found := scope.get(tokens("value"))) is None:
        raise FormulaError("the entry has no 'value' for a formula without a left side")
    return found


def _compared(left: Any, right: Any, tolerance: float) -> str | None:
    if values.same(left, right, tolerance):
        return None
    return f"{_shown(left)} is not {_shown(right)}"


_STRICT = {r"\ge": ">", r"\le": "<"}


def _bound_fault(relation: str, left: Any, right: Any, scope: Scope, tolerance: float) -> str | None:
    """A bound must be met where the entry says ``"tight"``, and true and not met elsewhere."""
    if scope.get(tokens("tight")):
        return _compared(left, right, tolerance)
    return None if COMPARE[_STRICT[relation]](left, right) else "the bound is not true"


def _domain_fault(statement: Statement, sides: list[Any], scope: Scope) -> str | None:
    r"""``0 \le t \le 1``: the ends are those that the entry gives by ``"over t"``."""
    middle = split(statement.tokens, {"<", r"\le"})[1]
    if "<" in statement.relations:
        return "the ends belong to it"
    ends = scope.get(("range", *middle))
    if ends is None:
        return f"the entry does not say over what {text(middle)!r} goes"
    return None if [values.number(sides[0]), values.number(sides[2])] == list(ends) else "other ends"


def _shown(thing: Any) -> str:
    if isinstance(thing, Tensor):
        return ", ".join(f"{number:.6g}" for number in thing.flatten()[:4].tolist())
    return type(thing).__name__
