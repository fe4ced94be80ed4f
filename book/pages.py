"""The pages of the site that are made from the code: the contents, the table of all equations, and their proofs.

python book/pages.py NN-name...    prints how many minutes a chapter takes to read
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from bridge import DERIVATION_ONLY, chapters, equations, functions, proofs
from formulas import plant

TITLE, QUESTION = r"^# (.*?)$", r"^> \*\*The question\.\*\* (.*?)\n\n"


def write_pages(folder: Path, numbers: dict[str, str]) -> None:
    """Writes ``equations.md`` and one page of proofs for each file of tests into ``folder``."""
    folder.mkdir(exist_ok=True)
    pages = {"contents.md": contents(), "equations.md": equation_table(numbers, plant.counts())} | proof_pages()
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def contents() -> str:
    """All chapters, each with the question that it answers, as the chapters themselves put it."""
    rows = ["| chapter | the question it answers |", "| --- | --- |"]
    for chapter in chapters():
        text = chapter.read_text(encoding="utf-8")
        title, question = (re.search(pattern, text, re.MULTILINE | re.DOTALL) for pattern in (TITLE, QUESTION))
        assert title and question, f"{chapter.name} has no title, or does not say which question it answers"
        rows.append(f"| [{title[1]}]({chapter.stem}.ipynb) | {' '.join(question[1].replace('>', ' ').split())} |")
    return "\n".join([*rows, ""])


def equation_table(numbers: dict[str, str], counts: Mapping[str, plant.Count]) -> str:
    """All equations with their chapter, function and tests, and how many misprints in its print are caught."""
    code, found = functions(), proofs()
    rows = []
    for chapter in chapters():
        text = chapter.read_text(encoding="utf-8")
        title = next(line for line in text.splitlines() if line.startswith("# "))[2:]
        for label in equations(text):
            where = "derivation only" if label in DERIVATION_ONLY else f"`{code[label].path}`<br>`{code[label].name}`"
            links = "<br>".join(f"[`{test.name}`](#proof-{test.name})" for test in found[label])
            checked = f"{counts[label].caught} of {counts[label].planted}"
            place = f"[{title}](../{chapter.stem}.ipynb)"
            rows.append(f"| {{eq}}`{label}` | `{label}` | {place} | {where} | {checked} | {links} |")
    return "\n".join(
        [
            "# All equations",
            "",
            "Each numbered equation of the book, the one function that computes it, and the tests that prove it.",
            "",
            misprints(list(counts.values())),
            "",
            "| | label | chapter | function | print | proof |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def misprints(counts: list[plant.Count]) -> str:
    """How the printed formulas are checked, and how many planted misprints that catches."""
    planted, caught = sum(count.planted for count in counts), sum(count.caught for count in counts)
    kinds = ", ".join(
        f"{sum(count.kinds[kind] for count in counts):,} of {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        for kind in plant.KINDS
    )
    return (
        f"What is printed is checked, too. All {len(counts)} formulas are parsed: a program reads the LaTeX, computes"
        " it in numbers, and compares it with what the function computes. If a formula serves a derivation only, its"
        " two sides are compared, or its value with an exact case. The column *print* says how many of the misprints"
        " that a script plants in the formula, one at a time, the check catches:"
        f" {caught:,} of {planted:,} in all ({kinds})."
    )


def proof_pages() -> dict[str, str]:
    """One page for each file of tests, every test under a heading of its own."""
    pages: dict[str, list[str]] = {}
    for label, found in proofs().items():
        for test in found:
            title = test.path.stem.removeprefix("test_").removesuffix("_equations").replace("_", " ")
            lines = pages.setdefault(
                f"proofs-{title.replace(' ', '-')}.md", [f"# Proofs: {title}", "", f"From `{test.path.name}`.", ""]
            )
            lines += [f"(proof-{test.name})=", f"## {test.name}", "", f"Tests `{label}`.", ""]
            lines += ["```python", test.text, "```", ""]
    return {name: "\n".join(lines) for name, lines in pages.items()}


def minutes(chapter: str) -> float:
    """How long a chapter takes to read: 200 words a minute, 30 s a formula, 20 s a cell, 5 minutes an exercise."""
    exercises = chapter.count(":tags: [exercise]")
    cells = len(re.findall(r"^```\{code-cell\}", chapter, re.MULTILINE)) - exercises
    prose = re.sub(r"^---\n.*?^---$|^```\{code-cell\}.*?^```$", "", chapter, flags=re.MULTILINE | re.DOTALL)
    prose, formulas = re.subn(r"^\$\$$.*?^\$\$.*?$", "", prose, flags=re.MULTILINE | re.DOTALL)
    return len(prose.split()) / 200 + formulas / 2 + cells / 3 + 5 * exercises


if __name__ == "__main__":
    for name in sys.argv[1:]:
        source = Path(__file__).resolve().parent / f"{name}.md"
        print(f"{name}: {minutes(source.read_text(encoding='utf-8')):.0f} minutes")
