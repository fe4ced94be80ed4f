"""In every chapter's exercises the stub fails its check, and the solution passes it."""

import ast
import importlib.util
import re

import pytest

import exercises
from bridge import BOOK, chapters

CHAPTERS = chapters()


def stubs(chapter):
    """The source of each function to complete, by name, from a chapter's cells with the tag ``exercise``."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n:tags: \[exercise\]\n(.*?)^```$", chapter.read_text(), re.M | re.S)
    found = {}
    for cell in cells:
        (function,) = [node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
        assert cell.rstrip().endswith(f"check({function.name})")
        found[function.name] = cell
    return found


def solutions(chapter):
    """The functions of a chapter's solutions, by name."""
    path = BOOK / "solutions" / f"chapter_{chapter.stem[:2]}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == path.stem}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_stub_fails_and_the_solution_passes(chapter, capsys):
    todo, done = stubs(chapter), solutions(chapter)
    assert 2 <= len(todo) <= 4
    for name, cell in todo.items():
        exec(compile(cell, name, "exec"), {})
        assert capsys.readouterr().out.startswith("Not yet: "), name
        assert exercises.verdict(done[name]) is None, name


def test_every_check_belongs_to_a_chapter():
    assert sorted(exercises.CHECKS) == sorted(name for chapter in CHAPTERS for name in stubs(chapter))


@pytest.mark.parametrize(
    ("answer", "expected", "problem"),
    [
        (1.0, 1.0, None),
        (..., 1.0, "the stub is still empty"),
        ("1", 1.0, "it returned str"),
        (1.0, exercises.torch.ones(2), r"the shape \(\), where \(2,\) is due"),
        (1.1, 1.0, "hint"),
        (float("nan"), 1.0, "hint"),
    ],
)
def test_expect(answer, expected, problem):
    if problem is None:
        exercises.expect(answer, expected, "hint")
    else:
        with pytest.raises(exercises.Wrong, match=problem):
            exercises.expect(answer, expected, "hint")


def test_a_crash_in_the_answer_is_told(capsys):
    def pixels_to_unit(pixels):
        return 1 / 0

    exercises.check(pixels_to_unit)
    assert capsys.readouterr().out == "Not yet: pixels_to_unit stopped with ZeroDivisionError: division by zero\n"
