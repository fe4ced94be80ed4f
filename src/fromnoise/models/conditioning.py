"""How a model is told what to draw."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import cycle, islice
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.interop.tokenizer import Tokenizer
from fromnoise.nn.text_encoder import TextEncoder
from fromnoise.terminal import warn

Wish = int | str  # what one image is asked to show: the number of a class, or a prompt
Condition = dict[str, Tensor]  # what the network is told, by the names of its arguments


@dataclass(frozen=True)
class Usual:
    """What a request of this kind is like, where it does not say otherwise."""

    sampler: str = "dpmpp-2m-sde"
    steps: int | None = None  # none: as is usual for the sampler
    guidance: float = 1.0
    each: int = 8  # how many images of each wish


class Conditioner(Protocol):
    """Turns wishes into what the network is told."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that can be asked for, where that is a list; else empty."""

    @property
    def usual(self) -> Usual:
        """What is usual in requests."""

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        """One wish for each of n images: what is asked for, repeated in order; none: everything, where that is a list.

        Raises:
            UserError: the model cannot be asked for it.
        """

    def encode(self, wishes: Sequence[Wish]) -> Condition:
        """What the network is told, each tensor ``(B, ...)``."""

    def null(self) -> Condition | None:
        """What stands for no wish and is led away from by guidance, without the batch dimension; none: nothing does."""


@dataclass(frozen=True)
class Unconditional:
    """The network is told nothing."""

    names: tuple[str, ...] = ()
    usual: Usual = Usual()

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        if asked is not None:
            raise UserError("this model is unconditional: leave --classes and --prompt out")
        return []

    def encode(self, wishes: Sequence[Wish]) -> Condition:
        return {}

    def null(self) -> Condition | None:
        return None


@dataclass(frozen=True)
class Classes:
    """The network is told the number of a class."""

    names: tuple[str, ...]  # one for each class, the null class not included
    has_null: bool = True  # whether the network's table ends in a row that stands for no class
    usual: Usual = Usual()

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        for label in asked or ():
            if isinstance(label, str):
                raise UserError("this model knows classes, not prompts: give --classes")
            if label not in range(len(self.names)):
                raise UserError(f"there is no class {label}: this model knows 0 to {len(self.names) - 1}")
        return list(islice(cycle(asked or range(len(self.names))), n))

    def encode(self, wishes: Sequence[Wish]) -> Condition:
        return {"class_labels": torch.tensor(wishes)}  # (B,)

    def null(self) -> Condition | None:
        return {"class_labels": torch.tensor(len(self.names))} if self.has_null else None


def by_class(rows: int, names: tuple[str, ...] | None) -> Classes | Unconditional:
    """How a network with a class table of so many rows is told what to draw.

    Args:
        names: of the classes without the null class, which has the last row if there is one more; none: numbers.

    Raises:
        ValueError: another number of names than the table has rows.
    """
    names = tuple(str(i) for i in range(rows)) if names is None else names
    if len(names) not in (rows, rows - 1):
        raise ValueError(f"{len(names)} class names do not fit a class table of {rows} rows")
    return Classes(names, len(names) < rows) if rows else Unconditional()


@dataclass(frozen=True)
class Prompts:
    """The network is told a text, as one vector for each of its tokens. Each text is encoded once, on the CPU."""

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    names: tuple[str, ...] = ()
    usual: Usual = Usual("dpmpp-2m", steps=25, guidance=7.5, each=1)
    _encoded: dict[Wish, Tensor] = field(default_factory=dict, repr=False)

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        if not asked or not all(isinstance(wish, str) for wish in asked):
            raise UserError("this model draws what a prompt says: give --prompt TEXT")
        for wish in asked:
            if cut := self.tokenizer(str(wish)).cut:
                most = self.tokenizer.length - 2
                warn(f"the prompt is longer than the {most} tokens that this model reads: {cut!r} is cut off")
            if unknown := self.tokenizer.unknown_words(str(wish)):
                known = _telling(self.tokenizer.known_words or frozenset())
                told = [_with_nearest(word, known) for word in unknown]
                warn(f"this model has never read {_listed(told, 100)}: it knows {_listed(known, 360)}")
        return list(islice(cycle(asked), n))

    def encode(self, wishes: Sequence[Wish]) -> Condition:
        return {"context": torch.stack([self._vectors(wish) for wish in wishes])}  # (B, tokens, width)

    def null(self) -> Condition | None:
        return {"context": self._vectors("")}  # (tokens, width)

    @torch.no_grad()
    def _vectors(self, wish: Wish) -> Tensor:
        if wish not in self._encoded:
            self._encoded[wish] = self.text_encoder(torch.tensor([self.tokenizer(str(wish)).ids]))[0]
        return self._encoded[wish]  # (tokens, width)


def _telling(words: Collection[str]) -> list[str]:
    """Those of three letters and more, which say what there is; all, if none are so long."""
    return sorted(word for word in words if len(word) > 2) or sorted(words)


def _with_nearest(word: str, known: Sequence[str]) -> str:
    """A word, with the known ones that are spelt most like it, if there are any: ``lepard (leopard?)``."""
    nearest = get_close_matches(word, known, n=2, cutoff=0.7)
    return f"{word} ({' or '.join(nearest)}?)" if nearest else word


def _listed(words: Sequence[str], room: int) -> str:
    """As many of the words as fit into so many characters, spread evenly, and how many more there are."""
    shown = list(words)
    while len(text := ", ".join(shown)) > room and len(shown) > 1:
        shown = [words[i * len(words) // (len(shown) - 1)] for i in range(len(shown) - 1)]
    return text + (f" and {len(words) - len(shown)} more" if len(shown) < len(words) else "")
