"""Pictures with captions: scenes that are drawn without end, or the pictures of a folder or a dataset of the hub."""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fromnoise.errors import UserError

if TYPE_CHECKING:
    from fromnoise.train.config import DataConfig

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


def load_captioned(config: "DataConfig", source: str) -> tuple[Captioned, Captioned]:
    """The captioned pictures of ``source`` for training, and those that are held out.

    Raises:
        UserError: there are none.
    """
    from fromnoise.data.scenes import load_scenes  # which is made of what stands above

    if source == "scenes":
        return load_scenes(config)
    raise UserError(f"{source} holds no captioned pictures: give scenes")
