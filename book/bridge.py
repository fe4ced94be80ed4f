"""The bridge between the book, the code and the tests: each equation's function and tests, found by its label.

A chapter calls ``bridge("forward-marginal")`` beside the equation of that label, and ``show(function)`` for any other
code of the package. Both read the source when the chapter is run, so that what is shown cannot drift from what runs.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from IPython.display import Markdown, display

import fromnoise

BOOK = Path(__file__).resolve().parent
PACKAGE = Path(fromnoise.__file__).resolve().parent
TESTS = BOOK.parent / "tests" / "equations"

DERIVATION_ONLY = {
    "forward-cov",
    "reverse-mixture",
    "reverse-mean",
    "elbo",
    "vlb-eps",
    "ddim-marginal",
    "cfg-w",
    "cfg-gauss",
    "dsm",
    "cdf-invariant",
    "i-mmse",
    "continuity",
}
"""Labels of equations that prove or explain others, and are computed by no function."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Code:
    """A piece of a source file: where it stands, and its text."""

    path: Path
    name: str
    text: str


def chapters() -> list[Path]:
    """The chapters' sources, in order."""
    return sorted(BOOK.glob("[0-9][0-9]-*.md"))


def labels_cited(docstring: str | None) -> set[str]:
    """The labels that a docstring cites as ``Eq. label``."""
    return set(re.findall(r"\bEq\.\s+([a-z0-9]+(?:-[a-z0-9]+)*)", docstring or ""))


def label_tested(name: str) -> str | None:
    """The label that a test's name carries: ``test_some_label__detail`` is of ``some-label``."""
    return name.removeprefix("test_").split("__")[0].replace("_", "-") if name.startswith("test_") else None


def citations(source: str) -> Iterator[tuple[str, str, Definition | ast.Module]]:
    """Label, qualified name and node of each docstring that cites an equation."""
    yield from _citations(ast.parse(source), "")


def _citations(node: ast.AST, prefix: str) -> Iterator[tuple[str, str, Definition | ast.Module]]:
    if isinstance(node, ast.Module | Definition):
        prefix += "" if isinstance(node, ast.Module) else f"{'.' if prefix else ''}{node.name}"
        for label in sorted(labels_cited(ast.get_docstring(node))):
            yield label, prefix, node
    for child in ast.iter_child_nodes(node):
        yield from _citations(child, prefix)


@cache
def functions() -> dict[str, Code]:
    """The code that computes each equation, by label."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for label, name, node in citations(source) if "Eq." in source else ():  # parsing what cites nothing takes time
            if isinstance(node, ast.Module):
                raise ValueError(f"{path}: a module cites Eq. {label}; its function should")
            found[label] = Code(path.relative_to(PACKAGE), name, without_docstring(source, node))
    return found


@cache
def proofs() -> dict[str, list[Code]]:
    """The tests that prove each equation, by label."""
    found: dict[str, list[Code]] = {}
    for path in sorted(TESTS.glob("test_*_equations.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and (label := label_tested(node.name)):
                text = "\n".join(source.splitlines()[_first_line(node) - 1 : node.end_lineno])
                found.setdefault(label, []).append(Code(path, node.name, text))
    return found


def equations(chapter: str) -> list[str]:
    """The labels of the numbered equations in a chapter's source, in order: those of ``$$ ... $$ (label)``."""
    return re.findall(r"^\$\$ \(([a-z0-9-]+)\)$", chapter, re.MULTILINE)


def bridge(label: str) -> None:
    """Shows the code that is an equation, and links to the tests that prove it."""
    tests = proofs()[label]
    links = ", ".join(f"[{test.name}](../tests/equations/{test.path.name})" for test in tests[:2])
    more = f" and {len(tests) - 2} more" if len(tests) > 2 else ""
    if label in DERIVATION_ONLY:
        display(Markdown(f"`{label}` serves the derivation only: no function computes it. Tested by {links}{more}."))
        return
    code = functions()[label]
    caption = f"`{label}` is `{code.name}` in `{code.path.as_posix()}`, tested by {links}{more}."
    display(Markdown(f"```python\n{code.text}\n```\n\n{caption}"))


def show(thing: Any) -> None:
    """Shows the source of a function, method or class of the package, without its docstrings."""
    source = textwrap.dedent(inspect.getsource(thing))
    node = ast.parse(source).body[0]
    assert isinstance(node, Definition)
    path = Path(inspect.getsourcefile(thing) or "").resolve().relative_to(PACKAGE)
    caption = f"`{thing.__qualname__}` in `{path.as_posix()}`."
    display(Markdown(f"```python\n{without_docstring(source, node)}\n```\n\n{caption}"))


def without_docstring(source: str, node: Definition) -> str:
    """The text of a definition at the left margin, without its docstrings, decorators included."""
    lines = source.splitlines()
    for inner in ast.walk(node):
        if isinstance(inner, Definition) and ast.get_docstring(inner) is not None and len(inner.body) > 1:
            for number in range(inner.body[0].lineno - 1, inner.body[0].end_lineno or 0):
                lines[number] = "\0"
    text = "\n".join(line for line in lines[_first_line(node) - 1 : node.end_lineno] if line != "\0")
    return re.sub(r"(:\n)\n+", r"\1", textwrap.dedent(text))


def _first_line(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
