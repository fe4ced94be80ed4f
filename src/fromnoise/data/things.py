"""What scenes are made of: digits, or things that were cut out of something, as far as the scenes must know them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.scene_captions import Thing

Kind = Literal["seen", "unseen", "composed", "two"]
"""of prompts: for one thing in a combination with its background that training draws, or in one that it never draws;
for one whose look training draws with other things alone; for two things"""

LENGTHS_FOR = 64  # a picture of so many pixels

RGB = torch.tensor(
    [
        (215, 25, 40),  # red
        (30, 150, 60),  # green
        (35, 80, 230),  # blue
        (245, 230, 60),  # yellow
        (245, 245, 245),  # white
        (10, 10, 10),  # black
        (250, 140, 10),  # orange
        (150, 40, 185),  # purple
    ],
    dtype=torch.float32,
)
"""of each of COLOURS, (8, 3), in 0..255"""
COLOUR_JITTER = 10  # in 0..255, in each of red, green and blue


@dataclass(frozen=True)
class Lengths:
    """How large things are and where they go, in pixels of a picture of 64 x 64."""

    small: tuple[float, float]  # the least and the most
    large: tuple[float, float]
    large_of_two: float  # the most of either of two things, so that both fit
    centres: tuple[float, float, float]  # of a place, from the top or from the left


class Things(Protocol):
    """Things of K kinds, of which there are N cut-out pictures; each of them may have one of several looks."""

    kinds: tuple[Kind, ...]  # of prompts that there are
    lengths: Lengths
    pixels: Tensor  # (N, C, h, w) uint8
    edges: Tensor  # (N, 2, 2): where each begins and ends in its picture, see `ink_edges`

    def combinations(self, kind: Literal["seen", "unseen", "composed", "all"]) -> Tensor:
        """Which things go together with which backgrounds: ``(G, M, 3)`` numbers, looks and backgrounds.

        There is a group for each background that things go with. The groups are equally likely, and their rows.

        Raises:
            UserError: there are none.
        """

    def texts(self) -> Iterable[str]:
        """All that captions may call them, where that is more than a few words."""

    def thing(self, number: int, look: int, size: str) -> Thing:
        """The thing of a number, in plain values."""

    def numbers(self, thing: Thing) -> tuple[int, int]:
        """The number and the look of a thing in plain values."""

    def rows(self, numbers: Tensor, looks: Tensor, chance: Tensor) -> Tensor:
        """Which of the N pictures show them; all are of one shape, and ``chance`` is uniform in [0, 1)."""

    def zoom(self, length: Tensor, ink: Tensor) -> Tensor:
        """How much larger a picture gets, in height and width ``(B, 2, 2)``, to be so long ``(B, 2)``.

        The height and width of what it shows, ``ink``, are ``(B, 2, 2)``.
        """

    def colours(self, looks: Tensor) -> Tensor:
        """In which things of some looks ``(B, 2)`` are painted, 0..255: ``(B, 2, 3)``, or ``(B, 0, 3)``: in none."""

    def painted(self, drawn: Drawn, size: int) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], see `Scenes.images`."""
