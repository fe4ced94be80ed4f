"""How a model is told what to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.errors import UserError

Wish = int | str  # what one image is asked to show: the number of a class, or a prompt
Condition = dict[str, Tensor]  # what the network is told, by the names of its arguments


class Conditioner(Protocol):
    """Turns wishes into what the network is told."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that can be asked for, where that is a list; else empty."""

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

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        if asked is not None:
            raise UserError("this model is unconditional: leave --classes out")
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

    def wishes(self, asked: Sequence[Wish] | None, n: int) -> list[Wish]:
        for label in asked or ():
            if label not in range(len(self.names)):
                raise UserError(f"there is no class {label}: this model knows 0 to {len(self.names) - 1}")
        return list(islice(cycle(asked or range(len(self.names))), n))

    def encode(self, wishes: Sequence[Wish]) -> Condition:
        return {"class_labels": torch.tensor(wishes)}  # (B,)

    def null(self) -> Condition | None:
        return {"class_labels": torch.tensor(len(self.names))} if self.has_null else None
