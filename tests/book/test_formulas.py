"""What the chapters print is what the functions compute, symbol by symbol, and a misprint is caught."""

import functools
import importlib
import inspect
import re
from collections import Counter

import pytest
import torch

import formulas.entries  # noqa: F401
import pages
from bridge import BOOK, chapters, equations, functions
from formulas import check, plant, symbols, vocabulary
from formulas.latex import RELATIONS, text, tokens
from formulas.printed import all_numbered, numbered
from formulas.reading import bound
from formulas.values import Family

PRINTED = all_numbered()
HOW_TO = """
    printed: {printed}
    If the print is wrong, mend the chapter. If it uses other letters than before, name them in the entry: a generator
    in book/formulas/entries/, named like the label with underscores for hyphens, under @printed(). It yields
    {{symbol: value}} for each case that is tried. What the function computes is the value of the left side, or stands
    under "value" if the formula has no left side. A letter with an index, as in beta_t, is "\\beta_": Family(...)."""


@pytest.mark.parametrize("label", PRINTED)
def test_the_printed_formula_is_what_the_function_computes(label):
    said = check.problem(label, PRINTED[label])
    assert said is None, said + HOW_TO.format(printed=text(PRINTED[label]))


CHAPTERS = {path.stem: numbered(path.read_text(encoding="utf-8")) for path in chapters()}


@pytest.mark.parametrize("chapter", [name for name, found in CHAPTERS.items() if found])
def test_every_misprint_is_caught(chapter):
    """A sign, an index, a factor, a function or a symbol changed, everywhere, one at a time."""
    for label, latex in CHAPTERS[chapter]:
        found = plant.count(label, tokens(latex))
        assert found.planted > 3
        assert not found.missed, f"{label}: not caught: {[text(mistake.formula) for mistake in found.missed]}"


def test_every_formula_is_parsed_and_no_entry_is_left_over():
    assert [label for path in chapters() for label in equations(path.read_text(encoding="utf-8"))] == list(PRINTED)
    assert check.ENTRIES.keys() == PRINTED.keys()


def test_the_letters_of_every_numbered_formula_stand_in_a_table():
    gaps = symbols.gaps(symbols.book())
    assert not gaps, "\n".join(["Add a row to the chapter's table `## The letters of this chapter`:", *gaps])


def other_expectations(chapter):
    r"""Expectations that are not written as ``\mathbb{E}``, in what is printed as mathematics."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", chapter, flags=re.MULTILINE | re.DOTALL)
    formulas = re.findall(r"\$\$.*?\$\$|\$[^$]+\$", prose, re.DOTALL)
    found = [re.findall(r"(?<![A-Za-z\\])(?<!\\mathbb\{)E(?![A-Za-z])", formula) for formula in formulas]
    return [formula for formula, letters in zip(formulas, found, strict=True) if letters]


@pytest.mark.parametrize("page", sorted(BOOK.glob("*.md")), ids=lambda path: path.stem)
def test_an_expectation_has_one_form(page):
    assert other_expectations(page.read_text(encoding="utf-8")) == []


def test_another_form_of_an_expectation_is_found():
    assert other_expectations(r"$E[x]$ and $\mathbb E[x]$, $$E_q$$") == ["$E[x]$", r"$\mathbb E[x]$", "$$E_q$$"]
    assert other_expectations(r"$\mathbb{E}[x]$, $\mathrm{SE}$, `E[x]`") == []


def test_the_page_of_equations_says_what_is_caught():
    counts = [plant.count(label, PRINTED[label]) for label in ("snr", "ddim-eta")]
    planted = sum(count.planted for count in counts)
    assert planted > 20
    assert "All 2 formulas are parsed" in pages.misprints(counts)
    assert f" {planted} of {planted} in all" in pages.misprints(counts)
    one_missed = plant.Count("snr", Counter(sign=7, index=2), [plant.Mistake("sign", ("x",))], 0)
    assert "8 of 9 in all (7 of a sign, 2 of an index, 0 of a factor" in pages.misprints([one_missed])


MISPRINTS = [
    ("forward-step", r"\sqrt{1-\beta_t}", r"\sqrt{1+\beta_t}"),
    ("forward-step", r"\sqrt{\beta_t}", r"\sqrt{\beta_{t-1}}"),
    ("forward-step", r"\mathcal N(0, I)", r"\mathcal N(0, 2 I)"),
    ("forward-step", r"\mathcal N(0, I)", r"\mathcal N(1, I)"),
    ("posterior-var", r"1 - \bar\alpha_{t-1}", r"1 - \alpha_{t-1}"),
    ("posterior-mean-eps", r"\frac{\beta_t}{\sigma_t}", r"\frac{\beta_t}{\sigma_t^2}"),
    ("snr", r"\frac{a_t^2}{\sigma_t^2}", r"\frac{\sigma_t^2}{a_t^2}"),
    ("cosine", "0.008", "0.009"),
    ("cosine", r"\min", r"\max"),
    ("gmm-score", r"a_t \mu_k - x", r"x - a_t \mu_k"),
    ("sinusoid", r"\cos(", r"\sin("),
    ("karras", r"\rho = 7", r"\rho = 6"),
    ("interval", r"\le r_", r"< r_"),
    ("cfg-gauss", "(1+w)/2", "(1-w)/2"),
    ("tweedie2", r"\nabla^2_x", r"\nabla_x"),
    ("kid", r"i\ne j", "i, j"),
]


@pytest.mark.parametrize(("label", "right", "wrong"), MISPRINTS)
def test_a_misprint_in_a_chapter_is_caught(label, right, wrong):
    latex = next(latex for formulas in CHAPTERS.values() for found, latex in formulas if found == label)
    assert right in latex, f"{label} prints {latex}, in which this misprint cannot be made"
    assert check.problem(label, tokens(latex)) is None
    assert label in (check.problem(label, tokens(latex.replace(right, wrong, 1))) or "")


def bent(result):
    """What a function returns, a little wrong."""
    if isinstance(result, torch.Tensor) and result.is_floating_point() or isinstance(result, float):
        return 1.01 * result + 0.003
    if isinstance(result, tuple):
        parts = [bent(part) if isinstance(part, torch.Tensor) else part for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(map(bent, result))
    return result


def bending(function):
    if inspect.isgeneratorfunction(function):
        return lambda *args, **kwargs: (bent(moment) for moment in function(*args, **kwargs))
    return lambda *args, **kwargs: bent(function(*args, **kwargs))


OTHERWISE = {"ema", "interp", "respace"}  # classes that change what they hold, and a function that returns a schedule


@pytest.mark.parametrize("label", sorted(PRINTED.keys() & functions().keys() - OTHERWISE))
def test_a_wrong_function_is_caught(monkeypatch, label):
    """No formula is compared with itself: it fails where the function that it stands beside is a little wrong."""
    code = functions()[label]
    owner = importlib.import_module("fromnoise." + ".".join(code.path.with_suffix("").parts))
    *outer, name = code.name.split(".")
    owner = functools.reduce(getattr, outer, owner)
    if isinstance(getattr(owner, name), type):
        owner = getattr(owner, name)
        name = "__call__" if "__call__" in vars(owner) else "forward"
    assert check.problem(label, PRINTED[label]) is None
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, bending(getattr(owner, name)))
        forget()
        said = check.problem(label, PRINTED[label])
    forget()
    assert said is not None


def forget():
    check.scopes.cache_clear()
    vocabulary.tables.cache_clear()


@pytest.mark.parametrize(
    ("latex", "said"),
    [
        ("y = a + 2 b", None),
        (r"y &= \big(a + {2}\,b\bigr)", None),
        ("y = a - 2 b", "is not"),
        ("y = a + 2 c", "no value for 'c'"),
        ("y = a + 2 b, y = 0", "is not"),
        ("y = a + 2 (b", "is missing"),
        ("a + 2 b", "no 'value'"),
        (r"y = a + \sum_{k=1}^{2} b_k", None),
        (r"y = a + \sum_{k=1}^{3} b_k", "nothing of index 3"),
        (r"y = a + \sum_{k=0}^{2} b_k", "nothing of index 0"),
        (r"y = a + b_1 + b_2 \quad k = 1, \dots, 2", None),
        (r"y = a + b_1 + b_2 \quad k = 1, \dots, 3", "goes over something else"),
        (r"y = a + \log_{10} 10^{2 b}", None),
        (r"y = a + \log_2 10^{2 b}", "is not"),
        (r"y = a + |-2 b|", None),
        (r"y \ge a", None),
        (r"y \le a", "is not true"),
        (r"y > a", None),
        (r"y < a", "is false"),
        ("y > a + 2 b", "is false"),
        ("y < a + 2 b", "is false"),
        (r"y \ge a + 2 b", "is not true"),
        (r"y \le a + 2 b", "is not true"),
        (r"y > \log(-a)", "is false"),
        (r"y < \log(-a)", "is false"),
        (r"y \ge \log(-a)", "is not true"),
        (r"y \le \log(-a)", "is not true"),
        (r"y = \begin{cases} a + 2 b & a < b \\ 0 & \text{elsewhere} \end{cases}", None),
        (r"y = \begin{cases} 0 & a > b \\ a + 2 b & \text{elsewhere} \end{cases}", None),
        (r"y = \begin{cases} a + 2 b & \text{if } a < b \\ 0 & \text{elsewhere} \end{cases}", "cannot be read"),
        (r"y = \begin{cases} a + 2 b & a \sim b \\ 0 & \text{elsewhere} \end{cases}", "cannot be read"),
        (r"y \propto a", "cannot be read"),
        (r"y \leftarrow a + 2 b", "cannot be read"),
        (r"y \gets a + 2 b", "cannot be read"),
        (r"y \approx a + 2 b", "cannot be read"),
        (r"y \ne a", "cannot be read"),
        (r"y \to a + 2 b", "cannot be read"),
        (r"y = a + 2 b \text{ for } a = 1", "cannot be read"),
        (r"y = a + 2 b \text{ if } a = 1", "cannot be read"),
    ],
)
def test_how_a_formula_is_read(monkeypatch, latex, said):
    def cases(draw):
        yield {"y": 7.0, "a": 1.0, "b": 3.0, "b_": Family({1: 2.0, 2: 4.0}), "over k": range(1, 3)}

    monkeypatch.setitem(check.ENTRIES, "some-label", check.Entry("some-label", cases, 1e-9))
    check.scopes.cache_clear()
    found = check.problem("some-label", tokens(latex))
    check.scopes.cache_clear()
    assert found is None if said is None else said in (found or "")


def test_a_relation_of_which_nothing_says_when_it_is_true(monkeypatch):
    monkeypatch.setattr("formulas.latex.RELATIONS", RELATIONS | {r"\approx"})
    monkeypatch.setitem(check.ENTRIES, "some-label", check.Entry("some-label", lambda draw: iter([{"y": 1.0}]), 1e-9))
    check.scopes.cache_clear()
    found = check.problem("some-label", tokens(r"y \approx 1"))
    check.scopes.cache_clear()
    assert "nothing says when" in (found or "")


def test_without_an_entry_the_letters_are_named():
    said = check.problem("no-such-label", tokens(r"\hat x_0 = \frac{x_t - \sigma_t\,\hat\epsilon}{a_t}"))
    assert re.search(r"no-such-label: no entry .*\\hat x, x, t, \\sigma, \\hat\\epsilon, a$", said or "")


COMMON = "## The one table of symbols\n\n| |\n| --- |\n| $x_0$, $t$ |\n| $\\bar\\alpha_t = \\alpha_1 \\alpha_t$ |\n"
PAGE = "$$\nx_t = \\bar\\alpha_t y_k\n$$ (some-label)\n"


def test_a_letter_that_no_table_has_is_named():
    assert symbols.gaps({"00": COMMON, "01": PAGE}) == ["01, some-label: no table of symbols has y"]
    own = (
        "## The letters of this chapter\n\n| symbol | in code |\n| --- | --- |\n| $y_k$ | `y` |\n\n## What you can do\n"
    )
    assert symbols.gaps({"00": COMMON, "01": PAGE + own}) == []
    assert symbols.gaps({"00": COMMON, "01": own, "02": PAGE}) != [], "another chapter's table does not count"
    formula = tokens(r"\alpha_t + \hat\epsilon_\theta' + \sum_i w_i")
    assert symbols.symbols(formula) == [r"\alpha", "t", r"\hat\epsilon_\theta", "w"]


def test_values_of_an_entry_are_what_the_arithmetic_wants():
    scope = bound({"x": [1, 2], r"\mathrm{SNR}": torch.ones(1, dtype=torch.float32)})
    assert scope["x",].shape == (2, 1)
    assert scope[r"\mathrm{SNR}",].shape == ()
