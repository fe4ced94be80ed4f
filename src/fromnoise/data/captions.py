"""Pictures with captions: scenes that are drawn without end, or the pictures of a folder or a dataset of the hub."""

from typing import Protocol

import torch
from torch import Tensor

Drawn = dict[str, Tensor]  # what pictures are made from, by name, each tensor with the batch first, on any device


class Captioned(Protocol):
    """Pictures with captions, of which training asks for one batch after the other."""

    rows: int | None  # how many there are; none: they are drawn without end
    size: int  # height and width, in pixels

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """What the pictures at ``indices`` ``(B,)`` are made from, on the CPU, and a caption of each.

        It depends on nothing but the arguments. Where there is no end, ``indices`` says no more than how many.
        """

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], on the device of ``drawn``."""
