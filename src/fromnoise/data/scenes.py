"""Captioned scenes, drawn without end: one thing or two, each with a size, a look and a place, on a background.

Some combinations are never drawn for training (`Things.combinations`). What a model makes of them shows whether it has
learned the words one by one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.cutouts import load_folder
from fromnoise.data.digits import Digits
from fromnoise.data.emoji import emoji_things, find_font
from fromnoise.data.images import load_images
from fromnoise.data.scene_captions import CHANCES, COLOURS, PLACES, RELATIONS, SIZES, Scene, describe
from fromnoise.data.table import local
from fromnoise.data.things import COLOUR_JITTER, LENGTHS_FOR, RGB, Kind, Things
from fromnoise.errors import UserError

if TYPE_CHECKING:
    from fromnoise.train.config import DataConfig

# lengths in pixels of a picture of 64 x 64
JITTER = 2.0  # of a centre, either way
GAP = 4.0  # between two things, at least
APART = 30.0  # from the centre of one to that of the other, where they are not longer


@dataclass(frozen=True)
class _Attributes:
    """Of B scenes, as places in the lists of names; what one thing has no use for is drawn all the same."""

    two: Tensor  # (B,) bool
    numbers: Tensor  # (B, 2)
    looks: Tensor  # (B, 2)
    sizes: Tensor  # (B, 2)
    places: Tensor  # (B,)
    relations: Tensor  # (B,)
    background: Tensor  # (B,)

    @classmethod
    def drawn(cls, count: int, combinations: Tensor, generator: torch.Generator) -> "_Attributes":
        def integers(end: int, *shape: int) -> Tensor:
            return torch.randint(end, (count, *shape), generator=generator)

        group = integers(len(combinations))
        things = combinations[group[:, None], integers(combinations.shape[1], 2)]  # (B, 2, 3)
        two, sizes, places, relations = integers(2) == 1, integers(2, 2), integers(9), integers(4)
        return cls(two, things[..., 0], things[..., 1], sizes, places, relations, things[:, 0, 2])

    @classmethod
    def of(cls, scenes: Sequence[Scene], things: Things) -> "_Attributes":
        """Those of given scenes."""
        pairs = [(scene.things[0], scene.things[-1]) for scene in scenes]
        two = [len(scene.things) == 2 for scene in scenes]
        numbers = torch.tensor([[things.numbers(thing) for thing in pair] for pair in pairs])  # (B, 2, 2)
        return cls(
            torch.tensor(two),
            numbers[..., 0],
            numbers[..., 1],
            torch.tensor([[SIZES.index(thing.size) for thing in pair] for pair in pairs]),
            torch.tensor([0 if of_two else PLACES.index(s.where) for s, of_two in zip(scenes, two, strict=True)]),
            torch.tensor([RELATIONS.index(s.where) if of_two else 0 for s, of_two in zip(scenes, two, strict=True)]),
            torch.tensor([COLOURS.index(scene.background) for scene in scenes]),
        )

    def scenes(self, things: Things, generator: torch.Generator, *, everything: bool = False) -> list[Scene]:
        """The scenes, each with a caption."""
        chances = torch.rand(len(self.two), CHANCES, generator=generator, dtype=torch.float64).tolist()
        columns = (self.two, self.numbers, self.looks, self.sizes, self.places, self.relations, self.background)
        scenes = []
        for row, (two, numbers, looks, sizes, place, relation, background) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            parts = zip(numbers, looks, sizes, strict=True)
            told = tuple(things.thing(number, look, SIZES[size]) for number, look, size in parts)
            where = RELATIONS[relation] if two else PLACES[place]
            scene = Scene(told if two else told[:1], where, COLOURS[background])
            scenes.append(describe(scene, chances[row], everything=everything))
        return scenes


class Scenes:
    """Scenes of the given things; those that are held out show all combinations of attributes."""

    rows: int | None = None
    shards: tuple[int, ...] = ()

    def __init__(self, things: Things, size: int = LENGTHS_FOR, held_out: bool = False) -> None:
        self.things, self.size, self.held_out = things, size, held_out
        self.combinations = things.combinations("all" if held_out else "seen")

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """What ``len(indices)`` pictures are made from, and their captions, see `Captioned`."""
        drawn, scenes = self.draw_scenes(len(indices), generator)
        return drawn, [scene.caption for scene in scenes]

    def captions_of(self, indices: Tensor, generator: torch.Generator) -> list[str]:
        """The captions alone of what `draw` has."""
        return self.draw(indices, generator)[1]

    def texts(self) -> Iterable[str]:
        """What things are called, see `Captioned`."""
        return self.things.texts()

    def draw_scenes(self, count: int, generator: torch.Generator) -> tuple[Drawn, list[Scene]]:
        """What so many pictures are made from, and what each shows."""
        attributes = _Attributes.drawn(count, self.combinations, generator)
        return self._made_from(attributes, generator), attributes.scenes(self.things, generator)

    def paint(self, scenes: Sequence[Scene], generator: torch.Generator) -> Drawn:
        """What pictures of given scenes are made from."""
        return self._made_from(_Attributes.of(scenes, self.things), generator)

    def prompts(self, kind: Kind, count: int, seed: int) -> list[Scene]:
        """Scenes to ask a model for, each with a caption that names all of its attributes.

        Args:
            kind: one of those that the things have; two things are both in combinations that training draws.
            count: how many.
            seed: decides everything random.
        """
        generator = torch.Generator().manual_seed(seed)
        combinations = self.things.combinations("seen" if kind == "two" else kind)
        attributes = _Attributes.drawn(count, combinations, generator)
        attributes.two.fill_(kind == "two")
        return attributes.scenes(self.things, generator, everything=True)

    def _made_from(self, attributes: _Attributes, generator: torch.Generator) -> Drawn:
        chance = torch.rand(len(attributes.two), 2, generator=generator, dtype=torch.float64)
        rows = self.things.rows(attributes.numbers, attributes.looks, chance)  # (B, 2)
        cutouts = self.things.pixels[rows]  # (B, 2, C, h, w)
        cutouts[~attributes.two, 1] = 0
        edges = self.things.edges[rows]  # (B, 2, 2, 2)
        zoom, centre = self._placed(attributes, edges[..., 1] - edges[..., 0], generator)
        of_things, background = self.things.colours(attributes.looks), RGB[attributes.background]
        colours = torch.cat([of_things, background[:, None]], 1)  # (B, 3, 3), or (B, 1, 3)
        colours += COLOUR_JITTER * (2 * torch.rand(colours.shape, generator=generator) - 1)
        colours = colours.clamp(0, 255) / 127.5 - 1
        return {"cutouts": cutouts, "zoom": zoom, "from": edges.mean(-1), "to": centre, "colours": colours}

    def _placed(self, attributes: _Attributes, ink: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """How much larger each thing gets, and where its middle goes, given its height and width in its picture.

        All three are ``(B, 2, 2)``, each thing's vertical length first.
        """
        lengths, two, across = self.things.lengths, attributes.two, attributes.relations < 2  # left of, right of
        low, high = torch.tensor([lengths.small, lengths.large]).T[:, attributes.sizes]  # (B, 2) each
        high = torch.where(two[:, None], high.clamp(max=lengths.large_of_two), high)
        low = torch.minimum(low, high)
        zoom = self.things.zoom(low + (high - low) * torch.rand(low.shape, generator=generator), ink)  # (B, 2, 2)

        jitter = JITTER * (2 * torch.rand(zoom.shape, generator=generator) - 1)
        centres = torch.tensor(lengths.centres)
        cell = torch.stack([attributes.places // 3, attributes.places % 3], -1)  # (B, 2)
        single = centres[cell][:, None] + jitter  # (B, 2, 2)

        axis = across.long()
        length = (zoom * ink)[torch.arange(len(two)), :, axis].sum(1)  # (B,) of both things, where they follow
        apart = (APART + jitter[:, 1, 0]).maximum(length / 2 + GAP)  # (B,)
        middle = LENGTHS_FOR / 2 + jitter[:, 0, 0] / 2
        sign = torch.where(attributes.relations % 2 == 0, -1, 1)  # of the first thing: above and left of are even
        along = middle[:, None] + (sign * apart / 2)[:, None] * torch.tensor([1, -1])  # (B, 2)
        beside = LENGTHS_FOR / 2 + jitter[..., 1]  # (B, 2)
        rows_and_columns = [torch.where(across[:, None], beside, along), torch.where(across[:, None], along, beside)]
        centre = torch.where(two[:, None, None], torch.stack(rows_and_columns, -1), single)
        return zoom * self.size / LENGTHS_FOR, centre * self.size / LENGTHS_FOR

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], on the device of ``drawn``."""
        return self.things.painted(drawn, self.size)


def load_scenes(config: "DataConfig") -> tuple[Scenes, Scenes]:
    """The scenes of training, and those that are held out, whose digits are those of the test split.

    Raises:
        UserError: there are no such things.
    """
    things = load_things(config)
    held_out = load_things(config, "test") if isinstance(things, Digits) else things
    return Scenes(things, config.size), Scenes(held_out, config.size, held_out=True)


def load_held_out(config: "DataConfig") -> Scenes:
    """The scenes that are held out alone; errors are those of `load_scenes`."""
    return Scenes(load_things(config, "test"), config.size, held_out=True)


def load_things(config: "DataConfig", split: str = "train") -> Things:
    """The things that scenes are made of; of digits alone there are others in each split.

    Raises:
        UserError: there are none.
    """
    if config.things == "digits":
        size = 8 if config.digits == "digits" else 28
        try:
            images = load_images(config.digits, split, channels=1, size=size, labelled=True, resize=config.resize)
        except UserError as error:  # which says what images are given by
            raise UserError(str(error).replace("--data DIR", "--data.digits DIR")) from error
        return Digits(images)
    if config.things in ("emoji", "emoji-200"):
        return emoji_things(find_font(config.font), config.size, config.things == "emoji-200")
    if (folder := local(config.things)) is None or not folder.is_dir():
        raise UserError(f"data.things is {config.things!r}: give digits, emoji, emoji-200 or a folder of cut-outs")
    return load_folder(folder, config.size)
