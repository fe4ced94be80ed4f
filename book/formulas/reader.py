r"""Reads one side of a claim: a recursive descent, in which each rule returns a function of what the symbols are.

    sum     := ["-"] product (("+" | "-") product)*
    product := factor (["/" | "\cdot" | "\odot"] factor)*
    factor  := atom ["^" exponent]

A symbol is what the entry of the formula gives a value for, however many tokens it has (``E[x_0|x_t]``,
``\frac{dy}{dr}``); the longest is taken. Of a `Family` the index is read and computed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from formulas import values
from formulas.cursor import Cursor
from formulas.latex import DECORATIONS, Tokens, group, split, text, tokens
from formulas.values import Average, Depends, Divergence, Family, FormulaError, NoSuchIndex

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
OPERATORS: dict[str, Callable[["Reader"], Rule]] = {}
"""How what begins with a token of its own is read; `formulas.operators` fills it."""


class Reader(Cursor):
    """Reads with the symbols that are known. Only the sort of a symbol's value matters here, not the value."""

    def __init__(self, formula: Tokens, known: Mapping[Tokens, Any]):
        super().__init__(formula)
        self.known = dict(known)

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
            rule = two(values.plus, rule, right if operator == "+" else _negative(right))
        return rule

    def product(self) -> Rule:
        rule = self.factor()
        while True:
            if self.take("/"):
                rule = two(values.divided, rule, self.factor())
            elif self.take(r"\cdot"):
                rule = two(values.dot, rule, self.factor())
            elif self.take(r"\odot"):
                rule = two(_elementwise, rule, self.factor())
            elif self.begins_factor():
                rule = two(values.times, rule, self.factor())
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
        return two(values.power, base, self.inside(exponent))

    def atom(self) -> Rule:
        token = self.peek()
        if symbol := self.symbol():
            return self.of_symbol(symbol)
        if token.isdigit():
            digits = self.digits()
            return lambda scope: torch.tensor(digits, dtype=values.F64)
        if token in ("(", "[", "{"):
            return self.bracket({"(": ")", "[": "]", "{": "}"}[token])
        if token in ("|", r"\|"):
            return self.between_bars(token)
        if token == r"\frac":
            self.place += 1
            above, below = self.argument(), self.argument()
            return two(values.divided, above, below)
        if token == r"\sqrt":
            self.place += 1
            return _one(torch.sqrt, self.argument())
        if token in FUNCTIONS:
            return self.function(token)
        if token in OPERATORS:
            self.place += 1
            return OPERATORS[token](self)
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
        if isinstance(thing, Divergence):
            return self.divergence(tokens(thing.by))
        if callable(thing):
            return self.called(lambda scope: scope[name])
        return lambda scope: settled(scope[name], scope)

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
        inside = self.argument_tokens()
        indices = self.indices(inside)
        missing = NoSuchIndex if len(inside) == 1 else FormulaError  # a sum over i ends where there is no x_i

        def pick(scope: Scope) -> Any:
            try:
                found = scope[name][tuple(values.number(index(scope)) for index in indices)]
            except NoSuchIndex as error:
                raise missing(f"{text(name[:-1])}: {error}") from error
            return values.value(settled(found, scope))

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
            rule = two(lambda point, region: torch.tensor(float(region(point)), dtype=values.F64), rule, self.sum())
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
        if name == r"\mathrm{softmax}" and self.take("_"):  # softmax_i(...)
            rule = self.softmax_over(self.argument_tokens())
        elif name == r"\log" and self.take("_"):
            rule = two(lambda base, x: x.log() / base.log(), self.inside(self.argument_tokens()), self.factor())
        elif self.peek() == "(":
            arguments = self.arguments()
            rule = lambda scope: FUNCTIONS[name](*(argument(scope) for argument in arguments))  # noqa: E731
        else:
            rule = _one(FUNCTIONS[name], self.factor())
        return two(values.power, rule, exponent) if exponent else rule

    def softmax_over(self, index: Tokens) -> Rule:
        (inner,) = self.arguments()

        def share(scope: Scope) -> Any:
            each = torch.stack([inner({**scope, index: values.value(i)}) for i in range_of(index, scope)])
            return (inner(scope) - each.logsumexp(0)).exp()

        return share

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

    def divergence(self, by: Tokens) -> Rule:
        body = self.factor()

        def total(scope: Scope) -> Any:
            slopes = torch.autograd.functional.jacobian(lambda x: body({**scope, by: x}).flatten(), scope[by].flatten())
            return torch.trace(slopes)

        return total

    # Tools.

    def argument(self) -> Rule:
        return self.inside(self.argument_tokens())

    def inside(self, part: Tokens) -> Rule:
        return Reader(part, self.known).whole()

    def arguments(self) -> list[Rule]:
        return [self.inside(part) for part in self.argument_lists()]


def settled(thing: Any, scope: Scope) -> Any:
    """A value, of what depends on others as well."""
    if not isinstance(thing, Depends):
        return thing
    return values.value(thing.of(lambda name: settled(scope[tokens(name)], scope)))


def _determinant(a: Any) -> Any:
    """Of a square matrix; of a number, and of a picture that is not square, the absolute value."""
    return torch.det(a) if a.ndim and a.shape[0] == a.shape[1] else a.abs()


def _elementwise(a: Any, b: Any) -> Any:
    return a * b


def _negative(rule: Rule) -> Rule:
    return lambda scope: -rule(scope)


def _one(function: Callable[[Any], Any], rule: Rule) -> Rule:
    return lambda scope: function(rule(scope))


def two(function: Callable[[Any, Any], Any], left: Rule, right: Rule) -> Rule:
    return lambda scope: function(left(scope), right(scope))


def range_of(name: Tokens, scope: Scope) -> Any:
    """What an index goes over, or between what a variable is integrated."""
    if ("range", *name) not in scope:
        raise FormulaError(f"the entry does not say over what {text(name)!r} goes")
    return scope[("range", *name)]
