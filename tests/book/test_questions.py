"""What the page of questions says was measured is what the repository has stored."""

import json
import re

import pytest

from bridge import BOOK
from fromnoise.train.config import load_config

ROOT = BOOK.parent
PAGE = (BOOK / "questions.md").read_text(encoding="utf-8")


def measured(name, metric):
    """A stored measurement: the share read as asked for (accuracy) or the distance (fd)."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())["metrics"][metric]["value"]


def cells(line):
    """The cells of a row of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(page, heading):
    """The rows of the table below a heading, its first two lines left out."""
    section = page.split(f"### {heading}\n")[1].split("\n###")[0]
    return [cells(line) for line in section.splitlines() if line.startswith("|")][2:]


def agrees(printed, value):
    """Whether a number, perhaps in percent, is this value to the digits that are printed."""
    digits = len(printed.removesuffix(" %").partition(".")[2])
    return printed.removesuffix(" %") == f"{value * (100 if printed.endswith('%') else 1):.{digits}f}"


@pytest.mark.parametrize("heading", ["How strong should guidance be?", "How many steps do I need?"])
def test_rows_say_what_their_file_has(heading):
    found = rows(PAGE, heading)
    assert len(found) == 2
    for row in found:
        (name,) = re.findall(r"`results/([\w-]+)\.json`", row[-1])
        shares = [cell for cell in row if re.fullmatch(r"[\d.]+ %", cell)]
        distances = [cell for cell in row if re.fullmatch(r"0\.\d+", cell)]
        assert len(shares) == len(distances) == 1
        assert agrees(shares[0], measured(name, "accuracy"))
        assert agrees(distances[0], measured(name, "fd"))


def test_distances_by_solver():
    samplers = {"DDIM": "ddim", "DPM-Solver++(2M)": "dpmpp-2m", "ancestral": "ddpm"}
    found = rows(PAGE, "Why do my samples get worse with a better solver?")
    assert [row[0].split(",")[0] for row in found] == [*samplers]
    for row in found:
        for steps, printed in zip((6, 12, 20, 40), row[1:], strict=True):
            assert agrees(printed, measured(f"{samplers[row[0].split(',')[0]]}-{steps}", "fd"))


def test_losses_to_expect():
    for row in rows(PAGE, "Is my loss healthy?"):
        known = load_config(row[0].strip("`")).expect
        for step, printed in zip(("500", "1000", "2000", "4000"), row[1:-1], strict=True):
            assert float(printed) == known[step] if printed else step not in known
        last, step = re.fullmatch(r"([\d.]+) \(([\d,]+)\)", row[-1]).groups()
        assert float(last) == known[step.replace(",", "")]
        assert step.replace(",", "") == str(load_config(row[0].strip("`")).train.steps)


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"`((?:results|benchmarks|src)/[\w./-]+)`", PAGE))
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = re.findall(r"\]\(([\w.-]+)\)", PAGE)
    assert links
    assert [link for link in links if not (BOOK / link).exists()] == []


def test_a_wrong_figure_is_seen():
    assert agrees("98.17 %", 0.9817) and agrees("0.108", 0.10793)
    assert not agrees("98.18 %", 0.9817) and not agrees("0.109", 0.10793)


def test_the_counts_of_nearest_pictures_are_those_of_the_figure():
    found = json.loads((BOOK / "figures" / "nearest-emoji.json").read_text(encoding="utf-8"))["kinds"]
    words = " ".join(PAGE.split("### Does the model copy its training pictures?\n")[1].split())
    counts = re.search(r"Of (\d+) prompts .*? (\d+) were drawn nearer .*? all of (\d+) things", words).groups()
    composed, unseen = found["composed"], found["unseen"]
    assert list(map(int, counts)) == [composed["prompts"], composed["nearer_to_asked"], unseen["prompts"]]
    assert unseen["nearer_to_asked"] == unseen["prompts"]
