"""CLIP's byte-pair tokeniser, from the files of transformers' ``CLIPTokenizer``: text to the ids of its tokens.

A text is put into Unicode's composed form and lower case, and split into words, digits and runs of other signs. Each of
these is a row of bytes, of which the byte-pair merges make as few tokens as they can.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import StringConstraints
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from fromnoise.configs import load, read
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, read_bytes

MAX_BYTES = 2**25  # of a vocabulary or its merges
LENGTH = 77  # of a text, where the files do not say
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
BETWEEN = r"\s.,:;!?…'‘’\"“”()\[\]{}<>|/"  # what stands between the words that a reader sees, of which "it's" is one
READ_AS_ONE = re.compile(f"[^{BETWEEN}]+(?:['’][^{BETWEEN}]+)*")
SPOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # a word or a number, where "blue-red" is two of them
KNOWN_WORDS = "words.txt"  # beside the vocabulary: a known word in each line


@dataclass(frozen=True)
class SpecialToken:
    """A token that is found in a text before it is split into words, and how: the fields of ``AddedToken``."""

    content: str
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    special: bool = True
    id: int | None = None

    def added(self) -> AddedToken:
        flags = {key: value for key, value in vars(self).items() if key not in ("content", "id")}
        return AddedToken(self.content, **flags)


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """Keys of ``tokenizer_config.json`` and ``special_tokens_map.json``, with the defaults of ``CLIPTokenizer``.

    transformers keeps there whatever a tokeniser was once called with, so keys that are not named here are left alone.
    """

    # what a Tokenizer is made of
    bos_token: str | SpecialToken = "<|startoftext|>"
    eos_token: str | SpecialToken = "<|endoftext|>"
    unk_token: str | SpecialToken = "<|endoftext|>"
    pad_token: str | SpecialToken = "<|endoftext|>"
    added_tokens_decoder: dict[Annotated[str, StringConstraints(pattern="^[0-9]+$")], SpecialToken] | None = None
    model_max_length: Annotated[float, Gt(2)] = LENGTH
    # what must be as it is here
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"
    split_special_tokens: Literal[False] = False


@dataclass(frozen=True)
class Tokens:
    """The ids of a text, as many for each text.

    Attributes:
        cut: the end of the text that did not fit; empty if all of it did.
        words: each word that did, with the place in ``ids`` of its first token and the one after its last.
    """

    ids: tuple[int, ...]
    cut: str
    words: tuple[tuple[str, int, int], ...] = ()


class Tokenizer:
    """Call it with a text for its `Tokens`: one that begins it, those of the text, one that ends it, and padding.

    Attributes:
        length: number of ids for each text.
        size: one more than the largest id.
        bos, eos, pad: ids of the tokens that begin a text, end it, and fill up the rest.
        known_words: all that a model was trained on, in lower case; none: nobody has written them down.
        vocabulary, merges, file: what it was made of.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: list[tuple[str, str]],
        file: TokenizerFile,
        known_words: frozenset[str] | None = None,
    ):
        self.vocabulary, self.merges, self.file, self.known_words = vocabulary, merges, file, known_words
        known = file.added_tokens_decoder or {}
        added = [known[key] for key in sorted(known, key=int)]
        by_content = {token.content: token for token in added}
        strings = (file.bos_token, file.eos_token, file.unk_token, file.pad_token)
        tokens = [SpecialToken(token) if isinstance(token, str) else token for token in strings]
        bos, eos, unknown, pad = named = [by_content.get(token.content, token) for token in tokens]

        self._backend = Backend(BPE(vocabulary, merges, unk_token=unknown.content, end_of_word_suffix="</w>"))
        split_as_clip_does(self._backend)
        self._backend.add_tokens([token.added() for token in (*added, *named)])
        ids = self._backend.get_vocab()  # the added tokens among them
        self.size = 1 + max(ids.values())
        self.bos, self.eos, self.pad = ids[bos.content], ids[eos.content], ids[pad.content]
        self.length = int(file.model_max_length) if file.model_max_length < 1e6 else LENGTH  # 1e30 stands for none

    def __call__(self, text: str) -> Tokens:
        try:
            found = self._backend.encode(text, add_special_tokens=False)
        except TypeError:  # half of a surrogate pair, which an argument that is not UTF-8 has
            raise UserError(f"{ascii(text[:50])} is not valid text: it should be UTF-8") from None
        room = self.length - 2
        ids = (self.bos, *found.ids[:room], self.eos)
        cut = text[found.offsets[room][0] :] if len(found.ids) > room else ""
        return Tokens(ids + (self.pad,) * (self.length - len(ids)), cut, _words(text, found.offsets, room))

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that the model was not trained on, in order, each once; none where that is not known."""
        return [] if self.known_words is None else [word for word in spoken(text) if word not in self.known_words]

    def with_words_of(self, texts: Iterable[str]) -> "Tokenizer":
        """The same, which also knows the words of these texts, if it says which it knows."""
        if self.known_words is None:
            return self
        return Tokenizer(self.vocabulary, self.merges, self.file, self.known_words.union(*map(spoken, texts)))

    def save(self, directory: Path) -> None:
        """Writes the files of transformers' ``CLIPTokenizer``, and the known words, where there are any.

        Raises:
            UserError: a file cannot be written.
        """
        by_id = dict(sorted(self.vocabulary.items(), key=lambda item: item[1]))
        merges = ["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)]
        settings = {key: _written(value) for key, value in vars(self.file).items() if value is not None}
        settings |= {"model_max_length": self.length, "tokenizer_class": "CLIPTokenizer"}
        contents = {
            "vocab.json": json.dumps(by_id, ensure_ascii=False),
            "merges.txt": "".join(f"{line}\n" for line in merges),
            "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        }
        if self.known_words is not None:
            contents[KNOWN_WORDS] = "".join(f"{word}\n" for word in sorted(self.known_words))
        for name, content in contents.items():
            with atomic_write(directory / name) as partial:
                partial.write_text(content, encoding="utf-8")


def split_as_clip_does(backend: Backend) -> None:
    """Sets how a text becomes rows of bytes, before any are merged."""
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def spoken(text: str) -> list[str]:
    """The words and numbers of a text in lower case, each once, without the signs between them."""
    return list(dict.fromkeys(SPOKEN.findall(unicodedata.normalize("NFC", text).lower())))


def _written(value: Any) -> Any:
    """A setting as it stands in the file."""
    if isinstance(value, SpecialToken):
        fields = {key: field for key, field in asdict(value).items() if key != "id"}
        return {"__type": "AddedToken", **fields}
    if isinstance(value, dict):
        return {key: {k: v for k, v in asdict(token).items() if k != "id"} for key, token in value.items()}
    return value


def _words(text: str, offsets: list[tuple[int, int]], room: int) -> tuple[tuple[str, int, int], ...]:
    """Where each word's tokens are, by the characters that each token stands for; not the words that are cut."""
    words, known = [], offsets[: room + 1]  # the last of them does not fit, nor does its word
    for word in READ_AS_ONE.finditer(text, 0, known[-1][1] if known else 0):
        places = [i for i, (first, end) in enumerate(known) if first < word.end() and end > word.start()]
        if places and places[-1] < room:
            words.append((word[0], places[0] + 1, places[-1] + 2))  # one token begins the text
    return tuple(words)


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokeniser of a directory that holds ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

    Raises:
        UserError: a file is missing or broken, or the tokeniser is another one.
    """
    config = _load_if_present(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _load_if_present(directory / "special_tokens_map.json")
        if (path := directory / "added_tokens.json").exists():
            raise UserError(f"{path}: tokens that were added to CLIP's are not supported")
    path = directory / "tokenizer.json"
    if path.exists():
        match load(path, MAX_BYTES):
            case {"model": {"end_of_word_suffix": "</w>", "vocab": dict(vocabulary), "merges": list(merges)}, **others}:
                config.setdefault("added_tokens_decoder", dict(enumerate(others.get("added_tokens", ()))))
            case _:
                raise UserError(f"{path} is not CLIP's byte-pair tokeniser, whose words end in '</w>'")
    elif (path := directory / "vocab.json").exists():
        vocabulary = load(path, MAX_BYTES)
        lines = read_bytes(directory / "merges.txt", MAX_BYTES).decode("utf-8", "replace").splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
    else:
        raise UserError(f"{directory} holds no tokeniser: neither tokenizer.json nor vocab.json and merges.txt")
    file = read(TokenizerFile, _known_keys(config), str(directory / "tokenizer_config.json"))
    known_words = _known_words(directory / KNOWN_WORDS)
    try:
        pairs: Any = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        return Tokenizer(vocabulary, pairs, file, known_words)
    except Exception as problem:  # the library raises no narrower one
        raise UserError(
            f"{path}: the vocabulary and its merges do not fit together: {problem}".splitlines()[0]
        ) from None


def _load_if_present(path: Path) -> dict[str, Any]:
    return load(path) if path.exists() else {}


def _known_words(path: Path) -> frozenset[str] | None:
    return frozenset(read_bytes(path, MAX_BYTES).decode("utf-8", "replace").split()) if path.exists() else None


def _known_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that `TokenizerFile` names, and of its tokens those but the ``__type`` that some releases wrote."""

    def plain(value: Any) -> Any:
        return {key: plain(v) for key, v in value.items() if key != "__type"} if isinstance(value, dict) else value

    return {key: plain(value) for key, value in content.items() if key in TokenizerFile.__dataclass_fields__}
