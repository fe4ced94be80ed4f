"""What a model says of a prompt before it draws."""

import pytest
import torch

from fromnoise.errors import LONGEST
from fromnoise.interop.vocabulary import learn_vocabulary
from fromnoise.models.conditioning import Prompts
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig
from fromnoise.terminal import warn

CAPTIONS = ["a large red seven", "a small blue nine at the top, on black"]


@pytest.fixture
def told(capsys):
    """What is said of a prompt by a model that has read these captions."""
    warn.cache_clear()

    def wishes(prompt, captions=CAPTIONS):
        vocabulary = learn_vocabulary(captions, 600, 77)
        tokenizer = vocabulary.tokenizer()
        with torch.device("meta"):
            encoder = TextEncoder(TextEncoderConfig(len(vocabulary.tokens), 16, 32, 1, 2, 77))
        assert Prompts(tokenizer, encoder).wishes([prompt], 2) == [prompt, prompt]
        return capsys.readouterr().err

    return wishes


def test_unknown_words_are_named_with_what_is_known(told):
    known = "black, blue, large, nine, red, seven, small, the, top"
    assert told("A large PINK elephant, at the pink top") == (
        f"fromnoise: this model has never read pink, elephant: it knows {known}\n"
    )


def test_what_is_known_is_not_spoken_of(told):
    assert told("a LARGE blue-black seven, small!") == ""
    assert told("") == ""


def test_a_model_that_knows_many_words_lists_some(told):
    """In one line, from a to z, with the number of all others."""
    words = [f"{chr(97 + i % 26)}{'xyz'[i // 26 % 3]}{i:03}" for i in range(500)]
    said = told(" ".join(f"unknown{i}" for i in range(5)), [" ".join(words)])
    assert said.count("\n") == 1
    assert len(said) < LONGEST
    listed = said.partition("it knows ")[2].partition(" and ")[0].split(", ")
    assert 20 < len(listed) <= 60
    assert {word[0] for word in listed} > set("agmsy")
    assert f" and {500 - len(listed)} more\n" in said


def test_words_of_one_or_two_letters_are_listed_if_there_are_no_others(told):
    assert told("x", ["a b c"]) == "fromnoise: this model has never read x: it knows a, b, c\n"


def test_a_misspelt_word_gets_the_nearest_ones_that_are_known(told):
    """At most two, and none where none is near."""
    assert told("a larg sevn elephant").startswith(
        "fromnoise: this model has never read larg (large?), sevn (seven?), ele"
    )
    assert "hound (sound or round?):" in told("hound", ["a sound, a round, a bound, an elephant"])
