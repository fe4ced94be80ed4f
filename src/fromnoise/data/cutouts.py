"""The things of scenes that are pictures with transparent surroundings: from a folder, or the glyphs of a font.

Kept out of training are a tenth of the combinations of thing and background (`is_unseen`) and, of things with several
looks, a fifth of the combinations of thing and look (`is_composed`). No thing is ever drawn on a background that hides
where it ends.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.resampling import ink_edges, resample
from fromnoise.data.scene_captions import SYNONYMS, Chances, Thing, join
from fromnoise.data.things import COLOUR_JITTER, LENGTHS_FOR, RGB, Kind, Lengths
from fromnoise.errors import UserError, told

STORED = 48  # height and width of a cut-out for pictures of 64 x 64, more than it will ever have there
FAR = 45.0 + 3**0.5 * COLOUR_JITTER  # in 0..255: colours that differ less may look alike
ENDS = 0.06  # of the longer side: how far a thing may seem to end from where it does
SEEN = 0.5  # of its surface: what must differ from the background, at least
FRAME = 32  # height and width of what a classifier sees
SUFFIXES = {".png", ".webp", ".gif"}

VOWEL = re.compile(r"(?!uni|ewe|eu|one\b|one-|use)[aeiou]|hour|x-ray", re.IGNORECASE)


@dataclass(frozen=True)
class Names:
    """What a thing is called."""

    names: tuple[str, ...]  # each of them fits after an article, and the first is that of the thing
    keywords: tuple[str, ...] = ()  # which mean this thing alone, but may be any words
    counted: bool = True  # whether there can be "a" one, with an article


@dataclass(frozen=True)
class Named:
    """A thing in a scene by its name, see `Thing`."""

    thing: str
    size: str  # one of SIZES
    tone: str = ""  # of the skin, where there is one
    words_for: Names = field(default=Names(()), compare=False, repr=False)

    noun: ClassVar[str] = "thing"

    @property
    def attributes(self) -> dict[str, str | int]:
        named: dict[str, str | int] = {"thing": self.thing, "size": self.size}
        return named | ({"tone": self.tone} if self.tone else {})

    def words(self, named: Collection[str], choose: Chances, terse: bool, alone: bool) -> str:
        """``a large woman astronaut with dark skin``, or tersely ``large woman astronaut, dark skin tone``."""
        size = choose.one(SYNONYMS[self.size]) if "size" in named else ""
        tone = self.tone if "tone" in named else ""
        name = choose.one(self.words_for.names or (self.thing,))
        if terse:
            if alone and self.words_for.keywords and choose.happens(0.3):
                keyword = choose.one(self.words_for.keywords)  # which may be an adjective
                name = keyword if choose.happens(0.5) else f"{name}, {keyword}"
            return join([join([size, name]), f"{tone} skin tone" if tone else ""], ", ")
        words = join([size, name, f"{'and' if ' with ' in name else 'with'} {tone} skin" if tone else ""])
        return f"{'an' if VOWEL.match(words) else 'a'} {words}" if self.words_for.counted else words


def is_unseen(number: Tensor, background: Tensor) -> Tensor:
    """Which things are never drawn on which backgrounds for training."""
    return (3 * number + 7 * background) % 10 == 0


def is_composed(number: Tensor, look: Tensor) -> Tensor:
    """Which things training never has in which looks; all have the first one, and each look has most things."""
    return (look > 0) & ((number + look) % 5 == 0)


class Cutouts:
    """Things that are cut out, and keep their colours and their shape; see `Things`."""

    lengths = Lengths(small=(19.0, 22.0), large=(30.0, 34.0), large_of_two=28.0, centres=(19.0, 32.0, 45.0))

    def __init__(
        self,
        pixels: Tensor,
        names: Sequence[Names],
        numbers: Tensor | None = None,
        looks: Tensor | None = None,
        tones: Sequence[str] = ("",),
    ) -> None:
        """Looks for where each thing ends.

        Args:
            pixels: uint8 ``(N, 4, h, w)``: red, green and blue times alpha, and alpha.
            names: of the K things.
            numbers: of which thing each is a picture ``(N,)``; none: of one after the other.
            looks: in which look ``(N,)``; none: in the only one.
            tones: how the looks are called, of which the first has no name.
        """
        numbers = torch.arange(len(pixels)) if numbers is None else numbers
        looks = torch.zeros_like(numbers) if looks is None else looks
        self.pixels, self.names, self.tones = pixels, tuple(names), tuple(tones)
        self.edges = ink_edges(pixels[:, 3], 255 / 2)  # (N, 2, 2)
        self.row = torch.full((len(names), len(tones)), -1)  # (K, L)
        self.row[numbers, looks] = torch.arange(len(pixels))
        self.visible = _visible(pixels, self.edges)  # (N, 8)
        self.number_of = {name.names[0]: number for number, name in enumerate(names)}
        composed = self._are("composed", *(self.row >= 0).nonzero().T).any()
        self.kinds: tuple[Kind, ...] = ("seen", "unseen", *(("composed",) if composed else ()), "two")

    def combinations(self, kind: Literal["seen", "unseen", "composed", "all"]) -> Tensor:
        """A thing with one look counts as often as one with all of them."""
        times = len(self.tones) // (self.row >= 0).sum(1)  # (K,)
        number, look = (self.row >= 0).nonzero().T  # (N,) each
        number, look = (values.repeat_interleave(times[number]) for values in (number, look))
        groups = []
        for background, kept in enumerate(self._are(kind, number, look).T):
            if kept.any():
                groups.append(torch.stack([number, look, torch.full_like(look, background)], 1)[kept])
        if not groups:
            raise UserError(f"there are too few things for scenes ({len(self.names)}, some hard to see): give more")
        most = max(map(len, groups))
        return torch.stack([group[torch.arange(most) % len(group)] for group in groups])

    def _are(self, kind: Literal["seen", "unseen", "composed", "all"], number: Tensor, look: Tensor) -> Tensor:
        """Which things in which looks are of a kind, and can be seen, on each background: ``(M, 8)``."""
        unseen = is_unseen(number[:, None], torch.arange(len(RGB)))  # (M, 8)
        composed = is_composed(number, look)[:, None]  # (M, 1)
        of_kind = {
            "seen": ~unseen & ~composed,
            "unseen": unseen & ~composed,
            "composed": composed & ~unseen,
            "all": torch.ones_like(unseen),
        }
        return of_kind[kind] & self.visible[self.row[number, look]]

    def texts(self) -> Iterable[str]:
        return (text for one in self.names for text in (*one.names, *one.keywords))

    def thing(self, number: int, look: int, size: str) -> Thing:
        names = self.names[number]
        return Named(names.names[0], size, self.tones[look], names)

    def numbers(self, thing: Thing) -> tuple[int, int]:
        assert isinstance(thing, Named)
        return self.number_of[thing.thing], self.tones.index(thing.tone)

    def rows(self, numbers: Tensor, looks: Tensor, chance: Tensor) -> Tensor:
        return self.row[numbers, looks]

    def zoom(self, length: Tensor, ink: Tensor) -> Tensor:
        """By the longer side, alike in both directions."""
        return (length / ink.amax(-1))[..., None].expand(ink.shape)

    def colours(self, looks: Tensor) -> Tensor:
        return torch.zeros(len(looks), 0, 3)

    def painted(self, drawn: Drawn, size: int) -> Tensor:
        cutouts = drawn["cutouts"].float().flatten(0, 1) / 255  # (2B, 4, h, w)
        zoom, source, target = (drawn[name].flatten(0, 1) for name in ("zoom", "from", "to"))
        with torch.autocast(cutouts.device.type, enabled=False):  # products of matrices would be in bf16
            layers = resample(cutouts, zoom, source, target, size, even=True)  # (2B, 4, size, size)
            layers = layers.unflatten(0, (-1, 2)).sum(1)  # (B, 4, size, size)
            paint, alpha = layers[:, :3], layers[:, 3:]  # no pixel is covered by both
            background = (drawn["colours"][:, -1, :, None, None] + 1) / 2  # (B, 3, 1, 1)
            images = 2 * (background * (1 - alpha) + paint) - 1  # (B, 3, size, size)
        return images.clamp_(-1, 1)


def _visible(pixels: Tensor, edges: Tensor) -> Tensor:
    """On which backgrounds things ``(N, 4, h, w)`` can be seen to their ends: ``(N, 8)``."""
    alpha = pixels[:, 3].float()  # (N, h, w)
    colours = 255 * pixels[:, :3].float() / alpha[:, None].clamp(min=1)  # (N, 3, h, w)
    solid = alpha > 255 / 2
    longest = (edges[..., 1] - edges[..., 0]).amax(1)  # (N,)
    found = []
    for background in RGB:
        far = solid & ((colours - background[:, None, None]).norm(dim=1) > FAR)  # (N, h, w)
        off = (ink_edges(alpha * far, 255 / 2) - edges).abs().amax((1, 2))  # (N,)
        surface = far.sum((1, 2)) / solid.sum((1, 2)).clamp(min=1)
        found.append((off <= ENDS * longest) & (surface >= SEEN))
    return torch.stack(found, 1)


def framed(images: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Square parts ``(T, 3, 32, 32)`` of pictures ``(T, 3, S, S)``, for a classifier.

    Args:
        images: in [-1, 1].
        centre: of each part, row and column in pixels ``(T, 2)``.
        length: of the thing that it shows, ``(T,)``; the part is a fifth longer.
    """
    zoom = (FRAME / (1.2 * length.clamp(min=4)))[:, None].expand(-1, 2)  # (T, 2)
    return resample(images, zoom, centre, torch.full_like(centre, FRAME / 2), FRAME, even=True)


def side_for(size: int) -> int:
    """The height and width of the cut-outs that pictures of a size are painted with; no less than `STORED`."""
    return max(STORED, math.ceil(STORED * size / LENGTHS_FOR))


def cut_out(picture: Image.Image, side: int) -> Tensor | None:
    """What is not transparent, in the middle of uint8 ``(4, side, side)``, times alpha; none if nothing is."""
    picture = picture.convert("RGBA")
    if (box := picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()) is None:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    reach = max(width, height) * side / (side - 6)  # three pixels stay free on either side
    left, top = (box[0] + box[2] - reach) / 2, (box[1] + box[3] - reach) / 2
    x, y, end = math.floor(left), math.floor(top), math.ceil(reach) + 1
    framed = picture.crop((x, y, x + end, y + end))  # transparent where the picture has ended
    square = (left - x, top - y, left - x + reach, top - y + reach)
    small = framed.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS, square)
    return torch.from_numpy(np.asarray(small).copy()).movedim(-1, 0).contiguous()


def load_folder(folder: Path, size: int) -> Cutouts:
    """The pictures of a folder, whose file names are what they show: ``red car.png``.

    Raises:
        UserError: there are none, or they cannot be read, or one is not transparent anywhere.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"{folder} holds no cut-out pictures: put PNGs there, named by what they show")
    found = []
    for path in paths:
        with told(f"{path} cannot be read as an image", "replace or remove it"), Image.open(path) as picture:
            opaque = picture.convert("RGBA").getchannel("A").getextrema()[0] == 255
            found.append(None if opaque else cut_out(picture, side_for(size)))
        if found[-1] is None:
            raise UserError(f"{path} has no transparent surroundings or nothing within: cut out what it shows")
    names = [Names((" ".join(re.split(r"[\s_]+", path.stem.strip())),)) for path in paths]
    if len({name.names for name in names}) < len(names):
        raise UserError(f"{folder} has two pictures of one name: call them differently")
    return Cutouts(torch.stack([picture for picture in found if picture is not None]), names)
