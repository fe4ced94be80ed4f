"""Every promise of the page of promises names tests, and these are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def unproven(page: str) -> list[str]:
    """The promises that name no test, and the tests that are not there."""
    found = []
    for promise in re.split(r"^- ", page, flags=re.MULTILINE)[1:]:
        proofs = PROOF.findall(promise)
        found += [] if proofs else [promise.partition("\n")[0]]
        for file, name in proofs:
            path = ROOT / file
            tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
            if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
                found.append(f"{file}::{name}")
    return found


def test_each_promise_has_its_test():
    page = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
    assert page.count("\n- ") > 25
    assert unproven(page) == []
    assert unproven("- We try.\n") == ["We try."]
    assert unproven("- We try.\n  `tests/book/test_promises.py::test_that_is_not_there`\n") != []
