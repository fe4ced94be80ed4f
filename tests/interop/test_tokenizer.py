"""The tokeniser gives the ids of transformers' ``CLIPTokenizer``, whatever the text, from each form of its files."""

import json

import pytest
from small_sd import BOS, EOS, MERGES, VOCABULARY
from transformers import CLIPTokenizer

from fromnoise.errors import UserError
from fromnoise.interop.tokenizer import READ_AS_ONE, Tokens, read_tokenizer


def special(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | flags


def tagged(content):
    return {"__type": "AddedToken", **special(content)}


STABLE_DIFFUSION = {
    "add_prefix_space": False,
    "bos_token": tagged(BOS),
    "do_lower_case": True,
    "eos_token": tagged(EOS),
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": EOS,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": tagged(EOS),
}
SPECIAL_TOKENS = {"bos_token": special(BOS), "eos_token": special(EOS), "pad_token": EOS, "unk_token": special(EOS)}
DECODER = {  # the last two are not in the vocabulary, and get the next ids in the order of these numbers
    "0": special("!", normalized=False, special=True),
    str(VOCABULARY[BOS]): special(BOS, special=True),
    str(VOCABULARY[EOS]): special(EOS, special=True),
    str(VOCABULARY[EOS] + 1): special("<new>", lstrip=True, special=False),
    "1000": special("<newer>", special=False),
}
FORMS = {
    "bare": {},
    "stable_diffusion_1": {"tokenizer_config": STABLE_DIFFUSION, "special_tokens_map": SPECIAL_TOKENS},
    "stable_diffusion_2": {
        "tokenizer_config": STABLE_DIFFUSION,
        "special_tokens_map": SPECIAL_TOKENS | {"pad_token": "!"},
    },
    "sd_turbo": {
        "tokenizer_config": STABLE_DIFFUSION
        | {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": "!", "added_tokens_decoder": DECODER},
        "special_tokens_map": SPECIAL_TOKENS,  # where the decoder is, this file is not read
    },
}
PAD = {"bare": EOS, "stable_diffusion_1": EOS, "stable_diffusion_2": "!", "sd_turbo": "!"}

AWKWARD = [
    "",
    *(" ", "   ", "\t", "\n", "\r\n", "\0", "\x01\x1f\x7f", "\x85", "\xa0", "\u200b", "\ufeff", "\u2028", "\u3000"),
    "hello",
    "Hello",
    "HELLO",
    "hElLo wOrLd",
    " hello",
    "hello ",
    "  hello   cat  ",
    "hello\tcat",
    "hello\ncat\n\n dog",
    "hello\0cat",
    "hello\x07cat\x1b[0m",
    "hello\u200bcat",
    "hello\xadcat",
    "hello\xa0cat",
    "hello\u3000cat",
    *("!", "!!", "!!!", "!!!!", "cat!", "cat!!!", "!cat", "! cat", "cat ! dog", "?!?!"),
    *("<>", "...", "cat...", "cat,dog;hello", "(cat:1.3)", "[cat]", "((cat))", "cat-dog", "cat_dog", "#cat @dog"),
    *("a/b\\c", "~`^|", "$100", "100%", "c++", "e=mc²", "½ cat", "№ 5", "™ ©"),
    *("0", "123", "1 2 3", "3.14", "1,000,000", "cat2dog", "2cats", "x264", "٣٤٥", "一二三", "Ⅷ"),
    *("it's", "IT'S", "they're we've i'm you'll he'd can't", "'s", "''s", "cat's's", "o'clock", "‘cat’ “dog”", "'sing"),
    *(
        "café",
        "cafe\u0301",
        "CAFÉ",
        "naïve Ångström",
        "A\u030angstrom",
        "İstanbul",
        "ǅ",
        "ß ẞ",
        "ﬁ ﬂ",
        "o\u0308\u0301\u0327",
    ),
    *("日本語", "猫と犬", "中文 cat", "한국어", "ᄒ\u1161ᆫ", "привет", "ΣΊΣΥΦΟΣ", "שלום", "مرحبا", "नमस्ते", "ไทย"),
    *("😀", "cat😀dog", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "❤️", "\U0010ffff", "𝒜𝔹", "\ue000"),
    *("&amp;", "&lt;cat&gt;", "cat&nbsp;dog", "&#39;", "<b>cat</b>"),
    *(
        BOS,
        EOS,
        f"cat {EOS} dog",
        f"cat{EOS}dog",
        f"{BOS}{BOS}",
        EOS.upper(),
        f"  {EOS}  cat",
        "<|endoftext",
        "|endoftext|>",
    ),
    *("</w>", "cat</w>", "<new>", "cat  <new> dog", "<newer> <new>", "<NEW>"),
    *("Ġhello", "\u0120", "#version: 0.2"),
    *("the cat " * 37 + "x", "the cat " * 37 + "xy", "cat " * 75, "cat " * 76, "hello " * 300, "x" * 1000, "😀" * 60),
    "a painting of a photo of a cat riding a dog, " * 12,
]


def write(directory, form):
    """The files of a tokeniser in this form."""
    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(VOCABULARY), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in FORMS[form].items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def reference(directory):
    """What transformers makes of the same directory."""
    there = CLIPTokenizer.from_pretrained(directory)
    return lambda text: tuple(there(text, padding="max_length", max_length=77, truncation=True).input_ids)


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path, "stable_diffusion_1")


def test_there_are_a_hundred_awkward_texts():
    assert len(set(AWKWARD)) == len(AWKWARD) >= 100


@pytest.mark.parametrize("form", FORMS)
def test_equals_transformers(form, tmp_path):
    expected, tokenizer = reference(write(tmp_path, form)), read_tokenizer(tmp_path)
    assert tokenizer.pad == VOCABULARY[PAD[form]]
    assert {text: tokenizer(text).ids for text in AWKWARD} == {text: expected(text) for text in AWKWARD}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("joined", [False, True])
def test_equals_transformers__tokenizer_json(form, joined, tmp_path):
    """As transformers saves it today, and with each merge as one string, as it did before."""
    CLIPTokenizer.from_pretrained(write(tmp_path / "there", form)).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in content["model"]["merges"]]
    content["model"]["merges"] = [" ".join(merge) for merge in merges] if joined else merges
    path.write_text(json.dumps(content), encoding="utf-8")
    expected, tokenizer = reference(tmp_path), read_tokenizer(tmp_path)
    assert {text: tokenizer(text).ids for text in AWKWARD} == {text: expected(text) for text in AWKWARD}


def test_ids_by_hand(directory):
    """A text that is short, one that fits exactly and one that does not, and which part of it is cut."""
    tokenizer = read_tokenizer(directory)
    bos, eos, cat, dog = (VOCABULARY[token] for token in (BOS, EOS, "cat</w>", "dog</w>"))
    cats = tuple(("cat", i, i + 1) for i in range(1, 76))
    assert tokenizer("  Cat DOG") == Tokens((bos, cat, dog, *[eos] * 74), "", (("Cat", 1, 2), ("DOG", 2, 3)))
    assert tokenizer("cat " * 75) == Tokens((bos, *[cat] * 75, eos), "", cats)
    assert tokenizer("cat " * 75 + "Dog, at  Noon ") == Tokens((bos, *[cat] * 75, eos), "Dog, at  Noon ", cats)
    assert tokenizer("cafe\u0301 " + "cat " * 75).cut == "cat cat cat "  # ca, f, é and 72 of the cats fit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" ,. !", {}),
        ("Hello, CAT!", {"Hello": ["hello</w>"], "CAT": ["cat</w>"]}),
        ("tabby", {"tabby": ["t", "a", "b", "b", "y</w>"]}),
        (
            "a blue-red cat",
            {"a": ["a</w>"], "blue-red": [*"blu", "e</w>", "-</w>", *"re", "d</w>"], "cat": ["cat</w>"]},
        ),
        ("the cat's 'cat'", {"the": ["the</w>"], "cat's": ["cat</w>", "'", "s</w>"], "cat": ["cat</w>"]}),
        ("2024(cat)", {"2024": ["2</w>", "0</w>", "2</w>", "4</w>"], "cat": ["cat</w>"]}),
        ("cafe\u0301 x", {"cafe\u0301": ["ca", "f", "Ã©</w>"], "x": ["x</w>"]}),
        ("😀 cat", {"😀": ["ð", "Ł", "ĺ", "Ģ</w>"], "cat": ["cat</w>"]}),
        ("cat " * 73 + "ab dog", {"cat": ["cat</w>"], "ab": ["a", "b</w>"]}),  # the dog has no place
        ("cat " * 74 + "ab dog", {"cat": ["cat</w>"]}),  # half of the word has, which is no word
        ("cat " * 75 + ", ab dog", {"cat": ["cat</w>"]}),
    ],
)
def test_words(text, expected, directory):
    """A word is written as in the text and has all its tokens, however many; the signs around it are left out."""
    found, names = read_tokenizer(directory)(text), {i: token for token, i in VOCABULARY.items()}
    assert {word: [names[i] for i in found.ids[first:end]] for word, first, end in found.words} == expected
    assert len(found.words) == len(READ_AS_ONE.findall(text)) - len(READ_AS_ONE.findall(found.cut))


def test_words_of_any_text(directory):
    """In order, each apart from the next, and between the tokens that begin and end the text."""
    tokenizer = read_tokenizer(directory)
    for text in AWKWARD:
        found = tokenizer(text)
        places = [place for _, first, end in found.words for place in (first, end)]
        assert places == sorted(places) and all(first < end for _, first, end in found.words)
        assert not places or (places[0] >= 1 and places[-1] <= 76)
        assert all(word in text for word, _, _ in found.words)


def test_length_of_the_file(directory):
    path = directory / "tokenizer_config.json"
    for length, expected in [(5, 5), (10**30, 77)]:
        path.write_text(json.dumps(STABLE_DIFFUSION | {"model_max_length": length}))
        assert len(read_tokenizer(directory)("cat cat cat cat").ids) == expected


def message(directory):
    with pytest.raises(UserError) as caught:
        read_tokenizer(directory)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("vocab.json", None, "holds no tokeniser"),
        ("merges.txt", None, "merges.txt is missing"),
        ("vocab.json", "[]", "vocab.json is not a JSON object"),
        ("vocab.json", '{"a": "b"}', "do not fit together"),
        ("vocab.json", '{"a": 0}', "do not fit together"),
        ("merges.txt", "a b c\n", "do not fit together"),
        ("merges.txt", "zebra crossing\n", "do not fit together"),
        ("tokenizer.json", "{}", "tokenizer.json is not CLIP's byte-pair tokeniser"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "is not CLIP's"),
        ("tokenizer_config.json", '{"padding_side": "left"}', 'padding_side: "left" is not supported'),
        ("tokenizer_config.json", '{"truncation_side": "left"}', 'truncation_side: "left" is not supported'),
        ("tokenizer_config.json", '{"split_special_tokens": true}', "split_special_tokens: true is not supported"),
        ("tokenizer_config.json", '{"model_max_length": 2}', "model_max_length: 2 is not supported"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"x": {"content": "y"}}}',
            "tokenizer_config.json: added_tokens_decoder",
        ),
        ("special_tokens_map.json", '{"pad_token": null}', "pad_token: null is not supported"),
        ("special_tokens_map.json", '{"pad_token": {"colour": "red"}}', "pad_token"),
        ("added_tokens.json", '{"<new>": 600}', "tokens that were added to CLIP's are not supported"),
    ],
)
def test_bad_files_are_refused_in_one_line(name, content, expected, directory):
    path = directory / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    assert expected in message(directory)


def test_text_that_is_not_unicode_is_refused(directory):
    with pytest.raises(UserError, match="is not valid text"):
        read_tokenizer(directory)("a cat \udcff")
