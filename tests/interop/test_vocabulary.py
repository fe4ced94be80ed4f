"""A vocabulary that is learned from captions is the same each time, and transformers reads its files alike."""

import json
import random

import pytest
from test_tokenizer import AWKWARD
from transformers import AutoTokenizer, CLIPTokenizer

from fromnoise.interop.tokenizer import read_tokenizer
from fromnoise.interop.vocabulary import BOS, EOS, SMALLEST, learn_vocabulary

CAPTIONS = [
    *("A large red seven on a blue background", "a small white three left of a green nine", "it's a photo of a café"),
    *("7 in red, bottom-right, on black", "A LARGE GREEN NINE", "two red sevens", "一二三 red", "a large 😀 nine"),
] * 3


@pytest.fixture(scope="module")
def vocabulary():
    return learn_vocabulary(CAPTIONS, 640, 12)


@pytest.fixture(scope="module")
def directory(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.tokenizer().save(folder)
    return folder


def test_the_order_is_that_of_clip(vocabulary):
    """Bytes, bytes that end a word, one token for each merge in their order, and the two that begin and end a text."""
    tokens = list(vocabulary.tokens)
    assert list(vocabulary.tokens.values()) == list(range(len(tokens)))
    assert tokens[:4] == ["!", '"', "#", "$"]
    assert tokens[256:512] == [sign + "</w>" for sign in tokens[:256]]
    assert tokens[512:-2] == [left + right for left, right in vocabulary.merges]
    assert tokens[-2:] == [BOS, EOS]


def test_frequent_words_become_one_token(vocabulary):
    assert {"red</w>", "large</w>", "nine</w>", "a</w>"} <= vocabulary.tokens.keys()
    assert vocabulary.merges[0] == ("e", "d</w>") or len(vocabulary.merges[0][0]) == 1
    tokenizer = vocabulary.tokenizer()
    assert tokenizer("a LARGE red nine").ids[:6] == (
        tokenizer.bos,
        *(vocabulary.tokens[token] for token in ("a</w>", "large</w>", "red</w>", "nine</w>")),
        tokenizer.eos,
    )


def test_no_more_tokens_than_asked_for():
    assert len(learn_vocabulary(CAPTIONS, 530, 12).tokens) == 530
    assert len(learn_vocabulary(CAPTIONS, 3, 12).tokens) == SMALLEST
    assert len(learn_vocabulary([], 600, 12).tokens) == SMALLEST
    assert len(learn_vocabulary(CAPTIONS, 10**6, 12).tokens) < 700, (
        "where all words are whole, nothing is left to merge"
    )


def test_the_order_of_captions_does_not_matter():
    """Words of the same number are many here, and ties have to be decided in the same way each time."""
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    first, second = (learn_vocabulary(captions, 640, 12) for captions in (CAPTIONS, shuffled))
    assert (first.tokens, first.merges) == (second.tokens, second.merges)


def test_equals_transformers(vocabulary, directory):
    """Plain ``from_pretrained``, which knows the length from the file, and the tokeniser that was never on disk."""
    there, here, unsaved = CLIPTokenizer.from_pretrained(directory), read_tokenizer(directory), vocabulary.tokenizer()
    assert there.model_max_length == here.length == 12
    assert type(AutoTokenizer.from_pretrained(directory)) is type(there)
    for text in [*AWKWARD, *CAPTIONS]:
        expected = tuple(there(text, padding="max_length", truncation=True).input_ids)
        assert here(text).ids == unsaved(text).ids == expected, text
        assert len(expected) == 12
    assert (here.bos, here.eos, here.pad, here.size) == (unsaved.bos, unsaved.eos, unsaved.pad, unsaved.size)
    assert here.size == len(vocabulary.tokens) == len(there)


def test_any_text_comes_back(directory):
    """Every byte has a token, so that nothing is lost but capitals and spaces."""
    there = CLIPTokenizer.from_pretrained(directory)
    for text in ("an orange zebra", "naïve ångström", "日本語", "😀"):
        found = read_tokenizer(directory)(text)
        long = there(text).input_ids
        assert there.decode(long, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
        assert len(long) > 12 or found.cut == ""


def test_known_words(directory):
    """Each word and number of the captions, in lower case, one a line and sorted; signs are none."""
    lines = (directory / "words.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(set(lines))
    assert {"seven", "it's", "café", "7", "bottom", "right", "一二三"} <= set(lines)
    assert not {"", "-", "bottom-right", ",", "😀", "A"} & set(lines)
    tokenizer = read_tokenizer(directory)
    assert tokenizer.known_words == frozenset(lines)
    assert tokenizer.unknown_words("A Large RED seven; top-right 😀, 77 cafe\u0301s: it's PINK pink") == [
        "top",
        "77",
        "cafés",
        "pink",
    ]


def test_more_words_are_known_and_change_no_token(vocabulary):
    """In lower case and without signs, as those of captions are."""
    more = learn_vocabulary(CAPTIONS, 640, 12, ["Jack-o-lantern", "red pumpkin", "pumpkin pumpkin"])
    assert (more.tokens, more.merges) == (vocabulary.tokens, vocabulary.merges)
    assert more.words - vocabulary.words == {"jack", "o", "lantern", "pumpkin"} and vocabulary.words < more.words
    assert more.tokenizer().unknown_words("a red Pumpkin and a jack-o-lantern") == ["and"]
    assert vocabulary.tokenizer().unknown_words("a red Pumpkin") == ["pumpkin"]


def test_without_the_file_nothing_is_unknown(directory, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.known_words is None
    assert tokenizer.unknown_words("anything") == []


def test_the_files(directory):
    config = json.loads((directory / "tokenizer_config.json").read_text())
    assert config["pad_token"] == EOS
    assert (directory / "merges.txt").read_text().startswith("#version: 0.2\n")
    assert {path.name for path in directory.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "words.txt",
    }
