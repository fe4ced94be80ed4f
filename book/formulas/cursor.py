"""A place in the tokens of a formula, and what moves it."""

from formulas.latex import RELATIONS, Tokens, group, split, text
from formulas.values import FormulaError

_STOPS = RELATIONS | {"+", "-", ")", "]", "}", ",", ";", r"\in", "&", r"\\", r"\end{cases}", r"\quad", "^", "_"}


class Cursor:
    """Walks through the tokens of one side of a claim."""

    def __init__(self, formula: Tokens):
        self.formula = formula
        self.place = 0
        self.bars: list[str] = []  # what closes the bars that are open
        self.in_integral = 0

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

    def argument_lists(self) -> list[Tokens]:
        """What stands in parentheses, between commas or semicolons."""
        if self.peek() != "(":
            raise FormulaError(f"a function without parentheses at {text(self.formula[self.place :])!r}")
        start, depth = self.place, 0
        while self.place < len(self.formula):
            depth += (self.peek() == "(") - (self.peek() == ")")
            self.place += 1
            if depth == 0:
                break
        return split(self.formula[start + 1 : self.place - 1], {",", ";"})

    def digits(self) -> float:
        found = ""
        while self.peek().isdigit() or (self.peek() == "." and found and "." not in found):
            found += self.take(self.peek())
        return float(found)
