"""What a formula does over and over: sums, integrals, expectations, and what stands in large brackets."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from formulas import values
from formulas.latex import Tokens, sides_of, split
from formulas.reader import OPERATORS, Reader, Rule, Scope, range_of, two
from formulas.values import FormulaError, Law, NoSuchIndex

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "=": math.isclose,
    r"\le": operator.le,
    r"\ge": operator.ge,
    r"\ne": operator.ne,
}
"""when a comparison of two numbers is true"""


def big_sum(reader: Reader) -> Rule:
    indices, body = over(reader)

    def total(scope: Scope) -> Any:
        result = torch.zeros((), dtype=values.F64)
        for term in _terms(indices, body, scope):
            result = values.plus(result, term)
        return result

    return total


def union(reader: Reader) -> Rule:
    indices, body = over(reader)
    return lambda scope: lambda point: any(region(point) for region in _terms(indices, body, scope))


def over(reader: Reader) -> tuple["Indices", Rule]:
    r"""What stands below and above a ``\sum``, and the product that follows it."""
    below = reader.argument_tokens() if reader.take("_") else ()
    above = reader.argument_tokens() if reader.take("^") else ()
    if "=" in below:
        names, first = [split(below, {"="})[0]], reader.inside(split(below, {"="})[1])
        bounds = (first, reader.inside(above))
    else:
        names, bounds = split(below, {",", r"\ne", "<"}), None
        if above:
            raise FormulaError("a sum has an end and no beginning")
    relation = next((token for token in below if token in (r"\ne", "<")), None)
    before = dict(reader.known)
    reader.known.update(dict.fromkeys(names, torch.zeros(())))
    body = reader.product()
    reader.known = before
    return Indices(names, bounds, relation), body


def integral(reader: Reader) -> Rule:
    below = reader.argument_tokens() if reader.take("_") else ()
    above = reader.argument_tokens() if reader.take("^") else ()
    bounds = (reader.inside(below), reader.inside(above)) if below and above else None
    rest = reader.formula[reader.place :]
    variable = differential(reader, rest)
    before = dict(reader.known)
    reader.known[variable] = torch.zeros(())
    reader.in_integral += 1
    body = reader.product()
    reader.in_integral -= 1
    reader.known = before
    reader.expect("d")
    reader.place += len(variable)
    return lambda scope: _integral(body, variable, bounds, scope)


def differential(reader: Reader, rest: Tokens) -> Tokens:
    """What is integrated over: the longest known symbol, or the one letter, after the d."""
    for start in (place for place, token in enumerate(rest) if token == "d"):
        after = rest[start + 1 :]
        named = [name[1:] for name in reader.known if name[0] == "range" and after[: len(name) - 1] == name[1:]]
        if named:
            return max(named, key=len)
        if after and (after[0].isalpha() or after[0].startswith("\\")) and after[0] != r"\frac":
            return after[:1]
    raise FormulaError("an integral without its d")


def normal(reader: Reader) -> Rule:
    arguments = reader.arguments()
    if len(arguments) == 2:
        return lambda scope: Law(*(argument(scope) for argument in arguments))
    return lambda scope: values.density(*(argument(scope) for argument in arguments))


def divergence(reader: Reader) -> Rule:
    reader.expect("(")
    reader.bars.append(r"\|")
    first = reader.sum()
    reader.expect(r"\|")
    second = reader.sum()
    reader.bars.pop()
    reader.expect(")")
    return two(values.kl, first, second)


def cases(reader: Reader) -> Rule:
    start = reader.place
    reader.place = reader.formula.index(r"\end{cases}", start) + 1
    rows = []
    for row in split(reader.formula[start : reader.place - 1], {r"\\"}):
        claim, condition = split(row, {"&"})
        if condition in ((r"\text{elsewhere}",), (r"\text{else}",), (r"\text{otherwise}",)):
            holds: Callable[[Scope], bool] = lambda scope: True  # noqa: E731
        else:
            sides, relations = sides_of(condition)
            holds = holding([reader.inside(side) for side in sides], relations)
        rows.append((holds, reader.inside(claim)))

    def choose(scope: Scope) -> Any:
        for holds, claim in rows:
            if holds(scope):
                return claim(scope)
        raise FormulaError("none of the cases")

    return choose


@dataclass(frozen=True)
class Indices:
    """What a sum goes over."""

    names: list[Tokens]
    bounds: tuple[Rule, Rule] | None
    relation: str | None


def _each(indices: Indices, scope: Scope) -> list[Scope]:
    if indices.bounds:
        first, last = (values.number(bound(scope)) for bound in indices.bounds)
        ranges = [range(round(first), round(last) + 1)]
        if first % 1 or last % 1:
            raise FormulaError("a sum between numbers that are not whole")
    else:
        ranges = [range_of(name, scope) for name in indices.names]
    scopes: list[dict[Tokens, Any]] = [dict(scope)]
    for name, numbers in zip(indices.names, ranges, strict=True):
        bound = {("range", *name): numbers}
        scopes = [{**inner, name: values.value(i), **bound} for inner in scopes for i in numbers]
    if indices.relation:
        one, other = indices.names
        keep = COMPARE[indices.relation]
        scopes = [inner for inner in scopes if keep(inner[one], inner[other])]
    return list(scopes)


def _terms(indices: Indices, body: Rule, scope: Scope) -> list[Any]:
    """What is summed up. A sum without bounds goes over the indices that the letters in it have."""
    found = []
    for inner in _each(indices, scope):
        try:
            found.append(body(inner))
        except NoSuchIndex:
            if indices.bounds:
                raise
    if not found:
        raise FormulaError("a sum of nothing")
    return found


def _integral(body: Rule, variable: Tokens, bounds: tuple[Rule, Rule] | None, scope: Scope) -> Any:
    """Gauss and Legendre's rule, in two stretches of 24 points."""
    low, high = (values.number(bound(scope)) for bound in bounds) if bounds else range_of(variable, scope)
    points, weights = _gauss_legendre()
    total = torch.zeros((), dtype=values.F64)
    for stretch in range(2):
        start, half = low + (high - low) * stretch / 2, (high - low) / 4
        for point, weight in zip(points, weights, strict=True):
            inner = {**scope, variable: torch.tensor(start + half * (1 + point), dtype=values.F64)}
            total = values.plus(total, weight * half * body(inner))
    return total


@cache
def _gauss_legendre() -> tuple[list[float], list[float]]:
    points, weights = np.polynomial.legendre.leggauss(24)
    return points.tolist(), weights.tolist()


def holding(sides: list[Rule], relations: tuple[str, ...]) -> Callable[[Scope], bool]:
    if not relations or not COMPARE.keys() >= set(relations):
        raise FormulaError("a condition that compares nothing")

    def check(scope: Scope) -> bool:
        numbers = [values.number(side(scope)) for side in sides]
        return all(COMPARE[r](a, b) for r, a, b in zip(relations, numbers, numbers[1:], strict=False))

    return check


OPERATORS |= {
    r"\sum": big_sum,
    r"\bigcup": union,
    r"\int": integral,
    r"\mathcal{N}": normal,
    r"\mathrm{KL}": divergence,
    r"\begin{cases}": cases,
}
