"""The digits of scenes: handwritten ones in eight colours.

A tenth of the combinations of digit, colour and background are never drawn for training (`is_unseen`). What a model
makes of them shows whether it has learned the words one by one.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.images import Images
from fromnoise.data.resampling import ink_edges, resample
from fromnoise.data.scene_captions import COLOURS, Digit, Thing
from fromnoise.data.things import RGB, Kind, Lengths
from fromnoise.errors import UserError

WIDEST = 26.0  # in pixels of a picture of 64 x 64; wider digits get narrower
INK = 0.4  # where the edge of a digit is, between no ink, 0, and full ink, 1


def is_unseen(digit: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """Which combinations are never drawn for training, given the places in COLOURS; all of one shape.

    Of each two of the three, every combination is drawn.
    """
    return (digit + 3 * colour + 7 * background) % 10 == 0


class Digits:
    """Grey digits, whose looks are the colours that they are painted in; see `Things`."""

    kinds: tuple[Kind, ...] = ("seen", "unseen", "two")
    lengths = Lengths(small=(17.0, 20.0), large=(26.0, 30.0), large_of_two=28.0, centres=(17.0, 32.0, 47.0))

    def __init__(self, images: Images) -> None:
        """Looks for the ink of each digit.

        Raises:
            UserError: the classes are not the ten digits, or there is none of some digit.
        """
        names = tuple(map(str, range(10)))
        if images.labels is None or images.class_names != names or images.pixels.shape[1] != 1:
            raise UserError("scenes are made of grey digits of the classes 0 to 9: give --data.digits as MNIST")
        self.pixels = images.pixels
        self.by_digit = images.labels.argsort(stable=True)  # (N,)
        self.counts = images.labels.bincount(minlength=10)  # (10,)
        if missing := (self.counts == 0).nonzero().flatten().tolist():
            raise UserError(f"scenes need every digit, and there is no {missing[0]}: give --data.digits as MNIST")
        self.edges = ink_edges(self.pixels[:, 0], 255 * INK)  # (N, 2, 2)

    def combinations(self, kind: Literal["seen", "unseen", "composed", "all"]) -> Tensor:
        """Of each background as many: ``(8, M, 3)``, where M is 63, 7 or 70."""
        background, digit, colour = torch.meshgrid(torch.arange(8), torch.arange(10), torch.arange(8), indexing="ij")
        unseen = is_unseen(digit, colour, background)
        kept = {"seen": ~unseen, "unseen": unseen, "all": torch.ones_like(unseen)}[kind] & (colour != background)
        return torch.stack([digit[kept], colour[kept], background[kept]], 1).view(8, -1, 3)

    def texts(self) -> Iterable[str]:
        return ()

    def thing(self, number: int, look: int, size: str) -> Thing:
        return Digit(number, size, COLOURS[look])

    def numbers(self, thing: Thing) -> tuple[int, int]:
        assert isinstance(thing, Digit)
        return thing.digit, COLOURS.index(thing.colour)

    def rows(self, numbers: Tensor, looks: Tensor, chance: Tensor) -> Tensor:
        first = self.counts.cumsum(0) - self.counts
        return self.by_digit[first[numbers] + (chance * self.counts[numbers]).long()]

    def zoom(self, length: Tensor, ink: Tensor) -> Tensor:
        """By the height; what is too wide gets narrower."""
        vertical = length / ink[..., 0]
        return torch.stack([vertical, torch.minimum(vertical, WIDEST / ink[..., 1])], -1)  # (B, 2, 2)

    def colours(self, looks: Tensor) -> Tensor:
        return RGB[looks]  # (B, 2, 3)

    def painted(self, drawn: Drawn, size: int) -> Tensor:
        digits = drawn["cutouts"].float().flatten(0, 1)[:, 0] / 255  # (2B, h, w)
        zoom, source, target = (drawn[name].flatten(0, 1) for name in ("zoom", "from", "to"))
        with torch.autocast(digits.device.type, enabled=False):  # products of matrices would be in bf16
            ink = resample(digits, zoom, source, target, size)  # (2B, size, size)
            coverage = ink.mul_(1.5).add_(0.5 - 1.5 * INK).clamp_(0, 1).view(-1, 2, size**2)  # at an edge 1/2
            background = drawn["colours"][:, 2:].mT  # (B, 3, 1)
            contrast = drawn["colours"][:, :2].mT - background  # (B, 3, 2)
            # no pixel is covered by both
            images = torch.baddbmm(background, contrast, coverage).clamp_(-1, 1)  # (B, 3, size * size)
        return images.unflatten(2, (size, size))
