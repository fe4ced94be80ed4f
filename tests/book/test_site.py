"""The check of the built site can fail, and so can the links from equations to proofs."""

from collections import Counter

import pytest

import check_site
import conf
import pages
from bridge import DERIVATION_ONLY, equations, functions, proofs
from formulas.plant import Count, Mistake

PAGE = '<a href="other.html#place">x</a><img src="_static/a.png"><p>words</p>'


def site(folder, page=PAGE, style=""):
    (folder / "_static").mkdir()
    (folder / "_static" / "a.png").touch()
    (folder / "_static" / "a.css").write_text(style)
    (folder / "other.html").write_text('<h1 id="place">Other</h1>')
    (folder / "index.html").write_text(page)
    return check_site.problems(folder)


@pytest.mark.parametrize(
    ("page", "style", "problem"),
    [
        (PAGE, "", None),
        (PAGE + '<a href="https://arxiv.org/abs/2006.11239">a link is no request</a>', "", None),
        (PAGE + '<img src="data:image/png;base64,AAAA">', "", None),
        (PAGE + "<pre>$$ {eq}`a` :tags:</pre>", "", None),
        (PAGE + '<div class="math notranslate">$$ x</div>', "", None),
        (PAGE + '<script src="https://cdn.example/x.js"></script>', "", "asks another host"),
        (PAGE + '<link rel="stylesheet" href="//fonts.example/x.css">', "", "asks another host"),
        (PAGE, "@import 'https://fonts.example/x.css';", "asks another host"),
        (PAGE, "a { background: url(https://x.example/y.png) }", "asks another host"),
        (PAGE.replace("a.png", "b.png"), "", "is missing"),
        (PAGE.replace("other.html", "another.html"), "", "leads nowhere"),
        (PAGE.replace("#place", "#elsewhere"), "", "without that place"),
        (PAGE + '<a href="#here">x</a>', "", "without that place"),
        (PAGE + "<p>{eq}`forward-step`</p>", "", "unrendered"),
        (PAGE + "<pre>code</pre> $$ x", "", "unrendered"),
    ],
)
def test_problems_of_a_site(page, style, problem, tmp_path):
    found = site(tmp_path, page, style)
    assert found == [] if problem is None else len(found) == 1 and problem in found[0]


def test_references_become_links():
    label = "forward-step"
    test = proofs()[label][0]
    said = f"by Eq.\n`{label}` and Eq. `no-such-equation`, [{test.name}](../tests/equations/{test.path.name})"
    assert conf.linked(said) == f"by {{eq}}`{label}` and Eq. `no-such-equation`, [`{test.name}`](#proof-{test.name})"


def test_every_equation_is_numbered_by_its_chapter():
    assert conf.NUMBERS["forward-step"] == "1.1"
    assert len(set(conf.NUMBERS.values())) == len(conf.NUMBERS) == len(proofs())


def test_the_table_has_every_equation_with_its_function_and_its_proofs():
    counts = {label: Count(label, Counter(sign=7), [Mistake("sign", ("x",))], 0) for label in conf.NUMBERS}
    rows = {
        line.split("`")[1]: line
        for line in pages.equation_table(conf.NUMBERS, counts).splitlines()
        if line.startswith("| {eq}")
    }
    assert rows.keys() == proofs().keys()
    for label, row in rows.items():
        assert ("derivation only" if label in DERIVATION_ONLY else functions()[label].name) in row
        assert all(f"(#proof-{test.name})" in row for test in proofs()[label])
        assert "| 6 of 7 |" in row
    shown = "".join(pages.proof_pages().values())
    assert all(f"(proof-{test.name})=" in shown and test.text in shown for found in proofs().values() for test in found)


def test_equations_are_found_in_a_chapter():
    assert equations("$$\nx\n$$ (a-b)\n\n$$\ny\n$$\n\n$$\nz\n$$ (c)\n") == ["a-b", "c"]
