"""The minutes that chapter 0 gives each chapter are about those that its text takes."""

import re

import pytest

from bridge import BOOK, chapters
from pages import minutes

START = (BOOK / "00-start-here.md").read_text()
STATED = {stem: int(number) for stem, number in re.findall(r"^\| \[.*?\]\((.*?)\.md\) \|.*\| (\d+) \|$", START, re.M)}
WAYS = re.findall(r"^\*\*([^*\n]+): (\w+) hours\*\*\n\n(.+?)\n:::::$", (BOOK / "index.md").read_text(), re.M | re.S)
IN_CHAPTER_0 = re.findall(r"^- \*\*([^*\n]+), (\w+) hours\.\*\*", START, re.M)
HOURS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
OWN = r"^\*\*Time:\*\* about (\d+) minutes to read"


def test_every_chapter_after_the_first_has_its_minutes():
    assert {chapter.stem for chapter in chapters()} - {"00-start-here"} == set(STATED)


@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.stem)
def test_the_minutes_are_about_right(chapter):
    text = chapter.read_text()
    counted, own = minutes(text), int(re.search(OWN, text, re.M)[1])
    assert 0.6 < own / counted < 1.67, f"{chapter.stem}: {counted:.0f} minutes by the rule of chapter 0"
    assert STATED.get(chapter.stem, own) == own, f"{chapter.stem}: chapter 0 gives it other minutes than its own line"


@pytest.mark.parametrize(("way", "hours", "text"), WAYS, ids=[way for way, _, _ in WAYS])
def test_the_ways_of_the_front_page_take_their_hours(way, hours, text):
    chosen = [BOOK / f"{stem}.md" for stem in re.findall(r"\]\((\d\d-[\w-]+)\.ipynb\)", text)]
    counted = sum(int(re.search(OWN, chapter.read_text(), re.M)[1]) for chapter in chosen) / 60
    assert abs(counted - HOURS.index(hours)) < 0.5, f"{way}: {counted:.1f} hours by what the chapters say"


def test_chapter_0_gives_the_same_ways_the_same_hours():
    assert len(WAYS) == 2
    assert [(way, hours) for way, hours, _ in WAYS] == IN_CHAPTER_0


def test_minutes():
    head, cell = "---\nkernel: python\n---\n", "```{code-cell} ipython3\n:tags: [exercise]\nlong code here\n```\n"
    assert minutes(head) == 0
    assert minutes(head + "word " * 400) == pytest.approx(2)
    assert minutes("$$\nx = y\n$$ (label)\n") == pytest.approx(0.5)
    assert minutes(cell) == pytest.approx(5)
    assert minutes(cell.replace(":tags: [exercise]\n", "")) == pytest.approx(1 / 3)
