"""The glossary is in order and says where each word is explained, and links to it from chapters lead to a word."""

import re

import pytest

import conf
from bridge import BOOK, chapters

GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^### (.+)\n\n((?:.+\n)+)", GLOSSARY, re.MULTILINE)
WORDS = [word for word, _ in ENTRIES]


def place(word):
    """What the site and Jupyter call the place of a heading."""
    return re.sub(r"[^\w\- ]", "", word.lower()).replace(" ", "-")


def test_the_words_are_in_order_under_their_letters():
    assert len(WORDS) > 70
    assert sorted(WORDS, key=str.lower) == WORDS
    assert len(set(map(place, WORDS))) == len(WORDS)
    letter = ""
    for level, text in re.findall(r"^(##+) (.+)$", GLOSSARY, re.MULTILINE):
        letter = text if level == "##" else letter
        assert level == "##" or text[0].upper() == letter


@pytest.mark.parametrize(("word", "text"), ENTRIES, ids=WORDS)
def test_every_word_names_its_chapter(word, text):
    assert re.search(r"\sChapter\s(\d|1[012])\.\n$", text), f"{word} does not end with its chapter"
    assert len(text.split()) < 60, f"{word} takes more than two plain sentences"


@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.stem)
def test_links_to_the_glossary_lead_to_a_word(chapter):
    linked = re.findall(r"\]\(glossary\.(?:md|ipynb|html)#?(.*?)\)", chapter.read_text(encoding="utf-8"))
    assert set(linked) <= {place(word) for word in WORDS} | {""}


def test_chapters_are_linked_where_they_are():
    first = next(path.stem for path in chapters() if path.stem.startswith("01"))
    text = "Chapter 1. In [chapter 1](x), chapters 1 and 2, and chapter 99."
    expected = f"[Chapter 1]({first}.ipynb). In [chapter 1](x), chapters 1 and 2, and chapter 99."
    assert conf.with_chapters_linked(text) == expected
    assert conf.with_chapters_linked("Chapter\n1") == f"[Chapter\n1]({first}.ipynb)"
