"""Each equation has its label, its test, its place in the book and, where it is computed, one function."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from bridge import DERIVATION_ONLY, PACKAGE, TESTS, chapters, citations, equations, label_tested


def labels_tested(source: str) -> set[str]:
    """The labels of the tests in a file."""
    return {label for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE) if (label := label_tested(name))}


def problems(
    sources: Iterable[str],
    tests: Iterable[str],
    book: Iterable[str],
    derivation_only: set[str] = DERIVATION_ONLY,
) -> list[str]:
    """What is wrong between the code's citations, the tests' names and the chapters."""
    book = list(book)
    cited = Counter(label for source in sources for label, _, _ in citations(source))
    tested = {label for test in tests for label in labels_tested(test)}
    printed = Counter(label for chapter in book for label in equations(chapter))
    return [
        *(f"{label}: cited by {count} functions" for label, count in cited.items() if count > 1),
        *(f"{label}: cited but not tested" for label in cited if label not in tested),
        *(f"{label}: tested but not cited" for label in tested - set(cited) - derivation_only),
        *(f"{label}: cited though a mere derivation" for label in derivation_only & set(cited)),
        *(f"{label}: a derivation without a test" for label in derivation_only - tested),
        *(f"{label}: tested but not in the book" for label in tested - set(printed)),
        *(f"{label}: in the book but not tested" for label in set(printed) - tested),
        *(f"{label}: {count} times in the book" for label, count in printed.items() if count > 1),
        *(problem for chapter in book for problem in chapter_problems(chapter)),
        *(
            f"{label}: referred to, but no equation of the book"
            for chapter in book
            for label in set(re.findall(r"Eq\.\s`([a-z0-9-]+)`", chapter)) - set(printed)
        ),
    ]


def chapter_problems(chapter: str) -> list[str]:
    """The equations of a chapter whose code does not come next."""
    ends = [(found[1], found.end()) for found in re.finditer(r"^\$\$ \(([a-z0-9-]+)\)$", chapter, re.MULTILINE)]
    found = []
    for label, end in ends:
        shown = re.search(r'\bbridge\("([a-z0-9-]+)"\)', chapter[end:])
        if shown is None or shown[1] != label:
            found.append(f"{label}: its code is not beside it")
    return found


def read(paths: Iterable) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in paths]


def test_every_label_has_one_function_a_test_and_a_place_in_the_book():
    sources, tests = read(PACKAGE.rglob("*.py")), read(TESTS.glob("test_*_equations.py"))
    assert sum(1 for source in sources for _ in citations(source)) > 30, "found next to no citation"
    assert problems(sources, tests, read(chapters())) == []


def test_only_equations_are_tested_here():
    others = [path.name for path in TESTS.glob("test_*.py") if not path.name.endswith("_equations.py")]
    assert others == ["test_bridge.py"]


CODE = 'def f():\n    """Eq. a-b: text."""\n'
TEST = "def test_a_b__detail(): ..."
PAGE = '$$\nx\n$$ (a-b)\n\n```{code-cell} ipython3\nbridge("a-b")\n```\n'


@pytest.mark.parametrize(
    ("source", "test", "page", "derivation_only", "problem"),
    [
        (CODE, TEST, PAGE, set(), None),
        ("", TEST, PAGE, {"a-b"}, None),
        (CODE, TEST, PAGE + "by Eq. `a-b`", set(), None),
        (CODE + CODE.replace("f()", "g()"), TEST, PAGE, set(), "a-b: cited by 2 functions"),
        (CODE, "def a_b(): ...", "", set(), "a-b: cited but not tested"),
        ("", TEST, PAGE, set(), "a-b: tested but not cited"),
        (CODE, TEST, PAGE, {"a-b"}, "a-b: cited though a mere derivation"),
        ("", "", "", {"a-b"}, "a-b: a derivation without a test"),
        (CODE, TEST, "", set(), "a-b: tested but not in the book"),
        ("", "", PAGE, set(), "a-b: in the book but not tested"),
        (CODE, TEST, PAGE * 2, set(), "a-b: 2 times in the book"),
        (CODE, TEST, PAGE.replace("bridge(", "ridge("), set(), "a-b: its code is not beside it"),
        (CODE, TEST, PAGE.replace('("a-b")', '("a-c")'), set(), "a-b: its code is not beside it"),
        (CODE, TEST, PAGE + "by Eq. `b-c`", set(), "b-c: referred to, but no equation of the book"),
    ],
)
def test_the_check_can_fail(source, test, page, derivation_only, problem):
    assert problems([source], [test], [page], derivation_only) == ([problem] if problem else [])
