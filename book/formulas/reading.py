r"""Reads a printed formula into something that has a value: a recursive descent, in which each rule returns a function.

    formula    := statement (("," | "\quad") statement)*
    statement  := sum (relation sum)* ["\text{for}" statement]
    sum        := ["-"] product (("+" | "-") product)*
    product    := factor (["/" | "\cdot" | "\odot"] factor)*
    factor     := atom ["^" exponent]

A symbol is what the entry of the formula gives a value for, however many tokens it has (``E[x_0|x_t]``,
``\frac{dy}{dr}``); the longest is taken. Of a `Family` the index is read and computed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from formulas import values
from formulas.latex import DECORATIONS, RELATIONS, Tokens, group, split, text, tokens
from formulas.values import Average, Depends, Family, FormulaError, Law, NoSuchIndex

Scope = Mapping[Tokens, Any]
Rule = Callable[[Scope], Any]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    r"\log": torch.log,
    r"\ln": torch.log,
    r"\exp": torch.exp,
    r"\sin": torch.sin,
    r"\cos": torch.cos,
    r"\tanh": torch.tanh,
    r"\mathrm{tr}": torch.trace,
    r"\mathrm{std}": lambda x: x.std(),
    r"\mathrm{softmax}": lambda x: x.softmax(-1),
    r"\mathrm{gelu}": torch.nn.functional.gelu,
    r"\min": lambda *x: torch.stack(x).min(),
    r"\max": lambda *x: torch.stack(x).max(),
}
_STOPS = RELATIONS | {"+", "-", ")", "]", "}", ",", ";", r"\in", "&", r"\\", r"\end{cases}", r"\quad", "^", "_"}


@dataclass(frozen=True)
class Statement:
    r"""One claim of a formula: its sides with the relations between them, where it holds, and its tokens.

    Without a relation it is the value of what the formula stands beside.
    """

    sides: tuple[Rule, ...]
    relations: tuple[str, ...]
    condition: "Statement | None"
    tokens: Tokens


@dataclass(frozen=True)
class Range:
    r"""``i = 0, \dots, N``: which values an index takes."""

    index: Tokens
    first: Rule
    last: Rule
    tokens: Tokens


def read(latex: str, known: Mapping[Tokens, Any]) -> list[Statement | Range]:
    """The claims of a formula. Only the sort of each symbol's value matters here, not the value."""
    parts = split(tokens(latex), {",", r"\quad", r"\text{with}", r"\text{and}", r"\text{where}", r"\text{so}"})
    parts = [part[:-1] if part[-1] == "." else part for part in parts]
    found: list[Statement | Range] = []
    place = 0
    while place < len(parts):
        if parts[place + 1 : place + 2] == [(r"\dots",)] and place + 2 < len(parts) and "=" in parts[place]:
            index, first = split(parts[place], {"="})
            rules = [Reader(part, known).whole() for part in (first, parts[place + 2])]
            found.append(Range(index, *rules, tokens=parts[place] + parts[place + 2]))
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
    claims = split(part, {r"\text{for}", r"\text{if}"})
    condition = _statement(claims[1], known) if len(claims) > 1 else None
    if part and part[0] == r"\text{for}":
        raise FormulaError("a condition stands without its claim")
    sides, relations = _sides(claims[0])
    return Statement(tuple(Reader(side, known).whole() for side in sides), relations, condition, part)


def _sides(claim: Tokens) -> tuple[list[Tokens], tuple[str, ...]]:
    sides = split(claim, RELATIONS)
    relations, place = [], -1
    for side in sides[:-1]:
        place += len(side) + 1
        relations.append(claim[place])
    return sides, tuple(relations)


class Reader:
    """Reads one side of a claim."""

    def __init__(self, formula: Tokens, known: Mapping[Tokens, Any]):
        self.formula, self.known = formula, dict(known)
        self.place = 0
        self.bars: list[str] = []  # what closes the bars that are open
        self.in_integral = 0

    # The rules, from the loosest to the tightest.

    def whole(self) -> Rule:
        rule = self.sum()
        if self.place < len(self.formula):
            raise FormulaError(f"cannot read on at {text(self.formula[self.place :])!r}")
        return rule

    def sum(self) -> Rule:
        sign = self.take("-", "+")
        rule = self.product()
        if sign == "-":
            rule = _negative(rule)
        while operator := self.take("+", "-"):
            right = self.product()
            rule = _two(values.plus, rule, right if operator == "+" else _negative(right))
        return rule

    def product(self) -> Rule:
        rule = self.factor()
        while True:
            if self.take("/"):
                rule = _two(values.divided, rule, self.factor())
            elif self.take(r"\cdot"):
                rule = _two(values.dot, rule, self.factor())
            elif self.take(r"\odot"):
                rule = _two(_elementwise, rule, self.factor())
            elif self.begins_factor():
                rule = _two(values.times, rule, self.factor())
            else:
                return rule

    def factor(self) -> Rule:
        rule = self.atom()
        while self.take("^"):
            rule = self.raised(rule)
        return rule

    def raised(self, base: Rule) -> Rule:
        exponent = self.argument_tokens()
        if exponent in ((r"\top",), ("T",)):
            power = self.known.get(exponent)

            def transposed_or_power(scope: Scope) -> Any:
                a = base(scope)
                return values.transposed(a) if a.ndim or power is None else values.power(a, scope[exponent])

            return transposed_or_power
        return _two(values.power, base, self.inside(exponent))

    def atom(self) -> Rule:
        token = self.peek()
        if symbol := self.symbol():
            return self.of_symbol(symbol)
        if token.isdigit():
            return self.numeral()
        if token in ("(", "[", "{"):
            return self.bracket({"(": ")", "[": "]", "{": "}"}[token])
        if token in ("|", r"\|"):
            return self.between_bars(token)
        if token == r"\frac":
            self.place += 1
            above, below = self.argument(), self.argument()
            return _two(values.divided, above, below)
        if token == r"\sqrt":
            self.place += 1
            return _one(torch.sqrt, self.argument())
        if token in FUNCTIONS:
            return self.function(token)
        named = {
            r"\sum": self.big_sum,
            r"\bigcup": self.union,
            r"\int": self.integral,
            r"\mathcal{N}": self.normal,
            r"\mathrm{KL}": self.divergence,
            r"\begin{cases}": self.cases,
        }
        if token in named:
            self.place += 1
            return named[token]()
        return self.member()

    # Symbols.

    def symbol(self) -> Tokens | None:
        """The longest symbol with a value that stands here."""
        rest = self.formula[self.place :]
        fitting = (name for name in self.known if rest[: len(name)] == name and name[-1] != "_")
        for name in sorted(fitting, key=len, reverse=True):
            following = rest[len(name)] if len(name) < len(rest) else ""
            if following not in ("_", "'"):
                self.place += len(name)
                return name
        return None

    def of_symbol(self, name: Tokens) -> Rule:
        thing = self.known[name]
        if isinstance(thing, Average):
            return self.expectation(name)
        if callable(thing):
            return self.called(lambda scope: scope[name])
        return lambda scope: _settled(scope[name], scope)

    def member(self) -> Rule:
        """A letter with an index, of a `Family`."""
        start = self.place
        while self.peek() in DECORATIONS:
            self.place += 1
        self.place += 1
        while self.peek() == "'":
            self.place += 1
        name = self.formula[start : self.place] + ("_",)
        if self.peek() != "_" or not isinstance(family := self.known.get(name), Family):
            end = group(self.formula, self.place + 1) if self.peek() == "_" else self.place
            raise FormulaError(f"the entry gives no value for {text(self.formula[start:end])!r}")
        self.place += 1
        indices = self.indices(self.argument_tokens())

        def pick(scope: Scope) -> Any:
            try:
                found = scope[name][tuple(values.number(index(scope)) for index in indices)]
            except NoSuchIndex as error:
                raise NoSuchIndex(f"{text(name[:-1])}: {error}") from error
            return values.value(_settled(found, scope))

        return self.called(pick) if family.calls else pick

    def indices(self, inside: Tokens) -> list[Rule]:
        if len(inside) > 1 and all((token,) in self.known for token in inside):
            return [self.inside((token,)) for token in inside]  # J_{ii}
        return [self.inside(part) for part in split(inside, {","})]

    def called(self, function: Rule) -> Rule:
        arguments = self.arguments()
        return lambda scope: values.value(function(scope)(*(argument(scope) for argument in arguments)))

    # Brackets and what is named.

    def bracket(self, closing: str) -> Rule:
        self.place += 1
        bars, self.bars = self.bars, []
        rule = self.sum()
        if self.take(r"\in"):
            rule = _two(lambda point, region: torch.tensor(float(region(point)), dtype=values.F64), rule, self.sum())
        self.bars = bars
        self.expect(closing)
        return rule

    def between_bars(self, bar: str) -> Rule:
        self.place += 1
        self.bars.append(bar)
        rule = self.sum()
        self.bars.pop()
        self.expect(bar)
        return _one(torch.linalg.norm if bar == r"\|" else _determinant, rule)

    def function(self, name: str) -> Rule:
        self.place += 1
        exponent = self.inside(self.argument_tokens()) if self.take("^") else None
        if self.take("_"):  # softmax_i(...)
            rule = self.softmax_over(self.argument_tokens())
        elif self.peek() == "(":
            arguments = self.arguments()
            rule = lambda scope: FUNCTIONS[name](*(argument(scope) for argument in arguments))  # noqa: E731
        else:
            rule = _one(FUNCTIONS[name], self.factor())
        return _two(values.power, rule, exponent) if exponent else rule

    def softmax_over(self, index: Tokens) -> Rule:
        (inner,) = self.arguments()

        def share(scope: Scope) -> Any:
            each = torch.stack([inner({**scope, index: values.value(i)}) for i in scope[("range", *index)]])
            return (inner(scope) - each.logsumexp(0)).exp()

        return share

    def big_sum(self) -> Rule:
        indices, body = self.over()

        def total(scope: Scope) -> Any:
            result = torch.zeros((), dtype=values.F64)
            for term in _terms(indices, body, scope):
                result = values.plus(result, term)
            return result

        return total

    def union(self) -> Rule:
        indices, body = self.over()
        return lambda scope: lambda point: any(region(point) for region in _terms(indices, body, scope))

    def over(self) -> tuple["Indices", Rule]:
        r"""What stands below and above a ``\sum``, and the product that follows it."""
        below = self.argument_tokens() if self.take("_") else ()
        above = self.argument_tokens() if self.take("^") else ()
        if "=" in below:
            names, first = [split(below, {"="})[0]], self.inside(split(below, {"="})[1])
            bounds = (first, self.inside(above))
        else:
            names, bounds = split(below, {",", r"\ne", "<"}), None
        relation = next((token for token in below if token in (r"\ne", "<")), None)
        before = dict(self.known)
        self.known.update(dict.fromkeys(names, torch.zeros(())))
        body = self.product()
        self.known = before
        return Indices(names, bounds, relation), body

    def integral(self) -> Rule:
        below = self.argument_tokens() if self.take("_") else ()
        above = self.argument_tokens() if self.take("^") else ()
        bounds = (self.inside(below), self.inside(above)) if below and above else None
        rest = self.formula[self.place :]
        variable = self.differential(rest)
        before = dict(self.known)
        self.known[variable] = torch.zeros(())
        self.in_integral += 1
        body = self.product()
        self.in_integral -= 1
        self.known = before
        self.expect("d")
        self.place += len(variable)
        return lambda scope: _integral(body, variable, bounds, scope)

    def differential(self, rest: Tokens) -> Tokens:
        """What is integrated over: the longest known symbol, or the one letter, after the d."""
        for start in (place for place, token in enumerate(rest) if token == "d"):
            after = rest[start + 1 :]
            named = [name[1:] for name in self.known if name[0] == "range" and after[: len(name) - 1] == name[1:]]
            if named:
                return max(named, key=len)
            if after and (after[0].isalpha() or after[0].startswith("\\")) and after[0] != r"\frac":
                return after[:1]
        raise FormulaError("an integral without its d")

    def expectation(self, name: Tokens) -> Rule:
        added = {tokens(symbol) for _, case in self.known[name].cases for symbol in case}
        before = dict(self.known)
        sample = {tokens(symbol): thing for symbol, thing in self.known[name].cases[0][1].items()}
        self.known.update({symbol: sample.get(symbol, torch.zeros(())) for symbol in added})
        body = self.product()
        self.known = before

        def mean(scope: Scope) -> Any:
            result = torch.zeros((), dtype=values.F64)
            for weight, case in scope[name].cases:
                inner = {**scope, **{tokens(symbol): values.value(thing) for symbol, thing in case.items()}}
                result = values.plus(result, weight * body(inner))
            return result

        return mean

    def normal(self) -> Rule:
        arguments = self.arguments()
        if len(arguments) == 2:
            return lambda scope: Law(*(argument(scope) for argument in arguments))
        return lambda scope: values.density(*(argument(scope) for argument in arguments))

    def divergence(self) -> Rule:
        self.expect("(")
        self.bars.append(r"\|")
        first = self.sum()
        self.expect(r"\|")
        second = self.sum()
        self.bars.pop()
        self.expect(")")
        return _two(values.kl, first, second)

    def cases(self) -> Rule:
        start = self.place
        self.place = self.formula.index(r"\end{cases}", start) + 1
        rows = []
        for row in split(self.formula[start : self.place - 1], {r"\\"}):
            claim, condition = split(row, {"&"})
            if condition[-1].startswith((r"\text{else", r"\text{otherwise")):
                holds: Callable[[Scope], bool] = lambda scope: True  # noqa: E731
            else:
                sides, relations = _sides(condition[1:] if condition[0] == r"\text{if}" else condition)
                holds = _holding([self.inside(side) for side in sides], relations)
            rows.append((holds, self.inside(claim)))

        def choose(scope: Scope) -> Any:
            for holds, claim in rows:
                if holds(scope):
                    return claim(scope)
            raise FormulaError("none of the cases")

        return choose

    # Tools.

    def peek(self) -> str:
        return self.formula[self.place] if self.place < len(self.formula) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if token and token in wanted:
            self.place += 1
            return token
        return ""

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise FormulaError(f"{wanted!r} is missing at {text(self.formula[self.place :])!r}")

    def begins_factor(self) -> bool:
        token = self.peek()
        if self.in_integral and token == "d":
            return False
        return bool(token) and token not in _STOPS and not (self.bars and token == self.bars[-1])

    def argument_tokens(self) -> Tokens:
        """One token, or a group without its braces."""
        start, self.place = self.place, group(self.formula, self.place)
        inside = self.formula[start : self.place]
        if not inside:
            raise FormulaError("something is missing at the end")
        return inside[1:-1] if inside[0] == "{" else inside

    def argument(self) -> Rule:
        return self.inside(self.argument_tokens())

    def inside(self, part: Tokens) -> Rule:
        return Reader(part, self.known).whole()

    def arguments(self) -> list[Rule]:
        """What stands in parentheses, between commas or semicolons."""
        if self.peek() != "(":
            raise FormulaError(f"a function without parentheses at {text(self.formula[self.place :])!r}")
        start, depth = self.place, 0
        for self.place in range(start, len(self.formula)):
            depth += (self.formula[self.place] == "(") - (self.formula[self.place] == ")")
            if depth == 0:
                break
        self.place += 1
        return [self.inside(part) for part in split(self.formula[start + 1 : self.place - 1], {",", ";"})]

    def numeral(self) -> Rule:
        digits = ""
        while self.peek().isdigit() or (self.peek() == "." and digits and "." not in digits):
            digits += self.take(self.peek())
        return lambda scope: torch.tensor(float(digits), dtype=values.F64)


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
        ranges = [_range(name, scope) for name in indices.names]
    scopes: list[dict[Tokens, Any]] = [dict(scope)]
    for name, numbers in zip(indices.names, ranges, strict=True):
        bound = {("range", *name): numbers}
        scopes = [{**inner, name: values.value(i), **bound} for inner in scopes for i in numbers]
    if indices.relation:
        one, other = indices.names
        keep = {r"\ne": lambda a, b: a != b, "<": lambda a, b: a < b}[indices.relation]
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


def _range(name: Tokens, scope: Scope) -> Any:
    if ("range", *name) not in scope:
        raise FormulaError(f"the entry does not say over what {text(name)!r} goes")
    return scope[("range", *name)]


def _integral(body: Rule, variable: Tokens, bounds: tuple[Rule, Rule] | None, scope: Scope) -> Any:
    """Gauss and Legendre's rule, in four stretches of 32 points."""
    low, high = (values.number(bound(scope)) for bound in bounds) if bounds else _range(variable, scope)
    points, weights = _gauss_legendre()
    total = torch.zeros((), dtype=values.F64)
    for stretch in range(4):
        start, half = low + (high - low) * stretch / 4, (high - low) / 8
        for point, weight in zip(points, weights, strict=True):
            inner = {**scope, variable: torch.tensor(start + half * (1 + point), dtype=values.F64)}
            total = values.plus(total, weight * half * body(inner))
    return total


def _gauss_legendre() -> tuple[list[float], list[float]]:
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(32)
    return points.tolist(), weights.tolist()


def _settled(thing: Any, scope: Scope) -> Any:
    if not isinstance(thing, Depends):
        return thing
    return values.value(thing.of(lambda name: _settled(scope[tokens(name)], scope)))


def holds(statement: Statement, scope: Scope) -> bool:
    """Whether a comparison of numbers is true."""
    return _holding(list(statement.sides), statement.relations)(scope)


def _holding(sides: list[Rule], relations: tuple[str, ...]) -> Callable[[Scope], bool]:
    compare: dict[str, Callable[[float, float], bool]] = {
        "<": lambda a, b: a < b,
        ">": lambda a, b: a > b,
        "=": lambda a, b: math.isclose(a, b),
        r"\le": lambda a, b: a <= b,
        r"\ge": lambda a, b: a >= b,
    }

    def check(scope: Scope) -> bool:
        numbers = [values.number(side(scope)) for side in sides]
        return all(compare[r](a, b) for r, a, b in zip(relations, numbers, numbers[1:], strict=False))

    return check


def _determinant(a: Any) -> Any:
    return torch.det(a) if a.ndim else a.abs()


def _elementwise(a: Any, b: Any) -> Any:
    return a * b


def _negative(rule: Rule) -> Rule:
    return lambda scope: -rule(scope)


def _one(function: Callable[[Any], Any], rule: Rule) -> Rule:
    return lambda scope: function(rule(scope))


def _two(function: Callable[[Any, Any], Any], left: Rule, right: Rule) -> Rule:
    return lambda scope: function(left(scope), right(scope))
