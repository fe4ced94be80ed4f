"""A byte-pair vocabulary of CLIP's form that is learned from captions, and the files of transformers' tokeniser."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from fromnoise.interop.tokenizer import Tokenizer, TokenizerFile, split_as_clip_does, spoken

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
SMALLEST = 2 * 256 + 2  # each byte, each byte at the end of a word, and what begins and ends a text


@dataclass(frozen=True)
class Vocabulary:
    """What a tokeniser knows, as its files say it.

    Attributes:
        tokens: the id of each, in CLIP's order: bytes, bytes at the end of a word, merges, what begins and ends a text.
        merges: which two tokens become one, first things first.
        length: number of ids that each text gets.
        words: all that captions have, in lower case.
    """

    tokens: dict[str, int]
    merges: tuple[tuple[str, str], ...]
    length: int
    words: frozenset[str]

    def tokenizer(self) -> Tokenizer:
        """The tokeniser that `read_tokenizer` makes of the files."""
        file = TokenizerFile(model_max_length=self.length)
        return Tokenizer(self.tokens, list(self.merges), file, self.words)


def learn_vocabulary(captions: Sequence[str], size: int, length: int, texts: Iterable[str] = ()) -> Vocabulary:
    """Merges the pair of tokens that stands in the captions most often, again and again, until there are enough.

    It depends on nothing but how often each word occurs. Any text can be told in its tokens: each byte is one.

    Args:
        size: how many tokens to have, at most; where all words are whole, there are fewer. The bytes are always there.
        length: number of ids that each text is to get, with those that begin and end it.
        texts: whose words are known too, whether or not these captions have them; they change no token.

    Source: Sennrich et al. 2015 (arXiv 1508.07909), section 3.2; Radford et al. 2021 (arXiv 2103.00020), section 2.4.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [*alphabet, *(sign + END_OF_WORD for sign in alphabet)]  # with fixed ids, by which ties are decided
    backend = Backend(BPE(end_of_word_suffix=END_OF_WORD))
    split_as_clip_does(backend)
    trainer = BpeTrainer(
        vocab_size=max(size, SMALLEST) - 2,
        min_frequency=2,
        special_tokens=first,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = dict(model["vocab"])
    tokens |= {token: len(tokens) + i for i, token in enumerate((BOS, EOS))}
    merges = tuple((left, right) for left, right in model["merges"])
    known = frozenset(word for text in chain(captions, texts) for word in spoken(text))
    return Vocabulary(dict(sorted(tokens.items(), key=lambda item: item[1])), merges, length, known)
