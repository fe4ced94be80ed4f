"""Every equation label that the code cites has its test, every such test its code, and each label one function."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import fromnoise

DERIVATION_ONLY = {"forward-cov", "reverse-mixture", "elbo", "vlb-eps", "ddim-marginal", "cfg-w", "cfg-gauss"}
"""Labels of equations that prove or explain others, and are computed by no function."""


def labels_cited(source: str) -> Iterator[str]:
    """The labels that docstrings cite as `Eq. label`, once for each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from set(re.findall(r"\bEq\.\s+([a-z0-9]+(?:-[a-z0-9]+)*)", ast.get_docstring(node) or ""))


def labels_tested(source: str) -> Iterator[str]:
    """The labels that test names carry: `test_some_label__detail` is of `some-label`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name.removeprefix("test_").split("__")[0].replace("_", "-")


def problems(sources: Iterable[str], tests: Iterable[str], derivation_only: set[str]) -> list[str]:
    """What is wrong between the code's citations and the tests' names."""
    cited = Counter(label for source in sources for label in labels_cited(source))
    tested = {label for test in tests for label in labels_tested(test)}
    return [
        *(f"{label}: cited by {count} functions" for label, count in cited.items() if count > 1),
        *(f"{label}: cited but not tested" for label in cited if label not in tested),
        *(f"{label}: tested but not cited" for label in tested - set(cited) - derivation_only),
        *(f"{label}: cited though a mere derivation" for label in derivation_only & set(cited)),
        *(f"{label}: a derivation without a test" for label in derivation_only - tested),
    ]


def test_every_label_has_one_function_and_a_test():
    package = Path(fromnoise.__file__).parent
    tests = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert sum(1 for source in sources for _ in labels_cited(source)) > 20, "found next to no citation"
    assert problems(sources, [path.read_text(encoding="utf-8") for path in tests], DERIVATION_ONLY) == []


CITES = 'def f():\n    """Eq. a-b: text."""\n'


@pytest.mark.parametrize(
    ("source", "test", "derivation_only", "problem"),
    [
        (CITES, "def test_a_b__detail(): ...", set(), None),
        ("", "def test_a_b(): ...", {"a-b"}, None),
        (CITES + CITES.replace("f()", "g()"), "def test_a_b(): ...", set(), "a-b: cited by 2 functions"),
        (CITES, "def test_a(): ...", {"a"}, "a-b: cited but not tested"),
        (CITES, "def a_b(): ...", set(), "a-b: cited but not tested"),
        (CITES, "def test_a_b(): ...\ndef test_c(): ...", set(), "c: tested but not cited"),
        (CITES, "def test_a_b(): ...", {"a-b"}, "a-b: cited though a mere derivation"),
        ("", "", {"a-b"}, "a-b: a derivation without a test"),
    ],
)
def test_the_check_can_fail(source, test, derivation_only, problem):
    assert problems([source], [test], derivation_only) == ([problem] if problem else [])
