"""Captioned scenes of digits, drawn without end: one or two digits with a size, a colour and a place, on a background.

A tenth of the combinations of digit, colour and background are never drawn for training (`is_unseen`). What a model
makes of them shows whether it has learned the words one by one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.images import Images, load_images
from fromnoise.data.scene_captions import CHANCES, COLOURS, PLACES, RELATIONS, SIZES, Scene, Thing, describe
from fromnoise.errors import UserError

if TYPE_CHECKING:
    from fromnoise.train.config import DataConfig

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

# lengths in pixels of a picture of 64 x 64
LENGTHS_FOR = 64
HEIGHTS = {"small": (17.0, 20.0), "large": (26.0, 30.0)}
LARGE_OF_TWO = 28.0  # the tallest of two digits, so that both fit
WIDEST = 26.0
CENTRES = (17.0, 32.0, 47.0)  # of a place, from the top or from the left
JITTER = 2.0  # of a centre, either way
GAP = 4.0  # between two digits, at least

INK = 0.4  # where the edge of a digit is, between no ink, 0, and full ink, 1


def is_unseen(digit: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """Which combinations are never drawn for training, given the places in COLOURS; all of one shape.

    Of each two of the three, every combination is drawn.
    """
    return (digit + 3 * colour + 7 * background) % 10 == 0


def _combinations(kind: Literal["seen", "unseen", "all"]) -> Tensor:
    """Which digits and colours go with each background ``(8, K, 2)``; K is 63, 7 or 70."""
    background, digit, colour = torch.meshgrid(torch.arange(8), torch.arange(10), torch.arange(8), indexing="ij")
    unseen = is_unseen(digit, colour, background)
    kept = {"seen": ~unseen, "unseen": unseen, "all": torch.ones_like(unseen)}[kind] & (colour != background)
    return torch.stack([digit[kept], colour[kept]], 1).view(8, -1, 2)


@dataclass(frozen=True)
class _Attributes:
    """Of B scenes, as places in the lists of names; what one digit has no use for is drawn all the same."""

    two: Tensor  # (B,) bool
    digits: Tensor  # (B, 2)
    colours: Tensor  # (B, 2)
    sizes: Tensor  # (B, 2)
    places: Tensor  # (B,)
    relations: Tensor  # (B,)
    background: Tensor  # (B,)

    @classmethod
    def drawn(cls, count: int, combinations: Tensor, generator: torch.Generator) -> "_Attributes":
        def integers(end: int, *shape: int) -> Tensor:
            return torch.randint(end, (count, *shape), generator=generator)

        background = integers(8)
        things = combinations[background[:, None], integers(combinations.shape[1], 2)]  # (B, 2, 2)
        two, sizes, places, relations = integers(2) == 1, integers(2, 2), integers(9), integers(4)
        return cls(two, things[..., 0], things[..., 1], sizes, places, relations, background)

    def scenes(self, generator: torch.Generator, *, everything: bool = False) -> list[Scene]:
        """The scenes, each with a caption."""
        chances = torch.rand(len(self.two), CHANCES, generator=generator, dtype=torch.float64).tolist()
        columns = (self.two, self.digits, self.colours, self.sizes, self.places, self.relations, self.background)
        scenes = []
        for row, (two, digits, colours, sizes, place, relation, background) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            parts = zip(digits, sizes, colours, strict=True)
            things = tuple(Thing(digit, SIZES[size], COLOURS[colour]) for digit, size, colour in parts)
            where = RELATIONS[relation] if two else PLACES[place]
            scene = Scene(things if two else things[:1], where, COLOURS[background])
            scenes.append(describe(scene, chances[row], everything=everything))
        return scenes


class Scenes:
    """Scenes of the given digits; those that are held out show all combinations of attributes."""

    rows: int | None = None

    def __init__(self, digits: Images, size: int = LENGTHS_FOR, held_out: bool = False) -> None:
        """Looks for the ink of each digit.

        Raises:
            UserError: the classes are not the ten digits, or there is none of some digit.
        """
        names = tuple(map(str, range(10)))
        if digits.labels is None or digits.class_names != names or digits.pixels.shape[1] != 1:
            raise UserError("scenes are made of grey digits of the classes 0 to 9: give --data.digits as MNIST")
        self.digits, self.size, self.held_out = digits, size, held_out
        self.by_digit = digits.labels.argsort(stable=True)  # (N,)
        self.counts = digits.labels.bincount(minlength=10)  # (10,)
        if missing := (self.counts == 0).nonzero().flatten().tolist():
            raise UserError(f"scenes need every digit, and there is no {missing[0]}: give --data.digits as MNIST")
        self.combinations = _combinations("all" if held_out else "seen")
        self.edges = ink_edges(digits.pixels[:, 0], 255 * INK)  # (N, 2, 2)

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Drawn, list[str]]:
        """What ``len(indices)`` pictures are made from, and their captions, see `Captioned`."""
        drawn, scenes = self.draw_scenes(len(indices), generator)
        return drawn, [scene.caption for scene in scenes]

    def draw_scenes(self, count: int, generator: torch.Generator) -> tuple[Drawn, list[Scene]]:
        """What so many pictures are made from, and what each shows."""
        attributes = _Attributes.drawn(count, self.combinations, generator)
        first = self.counts.cumsum(0) - self.counts
        chosen = torch.rand(count, 2, generator=generator, dtype=torch.float64) * self.counts[attributes.digits]
        rows = self.by_digit[first[attributes.digits] + chosen.long()]  # (B, 2)
        digits = self.digits.pixels[rows, 0]  # (B, 2, h, w)
        digits[~attributes.two, 1] = 0
        edges = self.edges[rows]  # (B, 2, 2, 2)
        zoom, centre = self._placed(attributes, edges[..., 1] - edges[..., 0], generator)
        colours = torch.cat([RGB[attributes.colours], RGB[attributes.background][:, None]], 1)  # (B, 3, 3)
        colours += COLOUR_JITTER * (2 * torch.rand(colours.shape, generator=generator) - 1)
        colours = colours.clamp(0, 255) / 127.5 - 1
        drawn = {"digits": digits, "zoom": zoom, "from": edges.mean(-1), "to": centre, "colours": colours}
        return drawn, attributes.scenes(generator)

    def _placed(self, attributes: _Attributes, ink: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """How much larger each digit gets, and where its middle goes, given the height and width of its ink.

        All three are ``(B, 2, 2)``, each digit's vertical length first.
        """
        two, across = attributes.two, attributes.relations < 2  # across: left of, right of
        low, high = torch.tensor(list(HEIGHTS.values())).T[:, attributes.sizes]  # (B, 2) each
        high = torch.where(two[:, None], high.clamp(max=LARGE_OF_TWO), high)
        height = low + (high - low) * torch.rand(low.shape, generator=generator)
        vertical = height / ink[..., 0]
        zoom = torch.stack([vertical, torch.minimum(vertical, WIDEST / ink[..., 1])], -1)  # (B, 2, 2)

        jitter = JITTER * (2 * torch.rand(zoom.shape, generator=generator) - 1)
        cell = torch.stack([attributes.places // 3, attributes.places % 3], -1)  # (B, 2)
        single = torch.tensor(CENTRES)[cell][:, None] + jitter  # (B, 2, 2)

        axis = across.long()
        length = (zoom * ink)[torch.arange(len(two)), :, axis].sum(1)  # (B,) of both digits, where they follow
        apart = (CENTRES[2] - CENTRES[0] + jitter[:, 1, 0]).maximum(length / 2 + GAP)  # (B,)
        middle = CENTRES[1] + jitter[:, 0, 0] / 2
        sign = torch.where(attributes.relations % 2 == 0, -1, 1)  # of the first digit: above and left of are even
        along = middle[:, None] + (sign * apart / 2)[:, None] * torch.tensor([1, -1])  # (B, 2)
        beside = CENTRES[1] + jitter[..., 1]  # (B, 2)
        rows_and_columns = [torch.where(across[:, None], beside, along), torch.where(across[:, None], along, beside)]
        centre = torch.where(two[:, None, None], torch.stack(rows_and_columns, -1), single)
        return zoom * self.size / LENGTHS_FOR, centre * self.size / LENGTHS_FOR

    def images(self, drawn: Drawn) -> Tensor:
        """The pictures ``(B, 3, size, size)`` in [-1, 1], on the device of ``drawn``."""
        digits = drawn["digits"].float().flatten(0, 1) / 255  # (2B, h, w)
        zoom, source, target = (drawn[name].flatten(0, 1) for name in ("zoom", "from", "to"))
        with torch.autocast(digits.device.type, enabled=False):  # products of matrices would be in bf16
            ink = resample(digits, zoom, source, target, self.size)  # (2B, size, size)
            coverage = ink.mul_(1.5).add_(0.5 - 1.5 * INK).clamp_(0, 1).view(-1, 2, self.size**2)  # at an edge 1/2
            background = drawn["colours"][:, 2:].mT  # (B, 3, 1)
            contrast = drawn["colours"][:, :2].mT - background  # (B, 3, 2)
            # no pixel is covered by both
            images = torch.baddbmm(background, contrast, coverage).clamp_(-1, 1)  # (B, 3, size * size)
        return images.unflatten(2, (self.size, self.size))


def ink_edges(ink: Tensor, level: float) -> Tensor:
    """Where the ink of digits ``(N, h, w)`` begins and ends, in pixels ``(N, 2, 2)``: by rows, then by columns.

    Between two pixels, ink is interpolated; an edge is where it is ``level``. Without ink, the edges mean nothing.
    """
    edges = []
    for other in (2, 1):
        most = torch.nn.functional.pad(ink.amax(other).float(), (1, 1))  # (N, length + 2)
        for profile, backwards in ((most, False), (most.flip(1), True)):
            first = (profile >= level).int().argmax(1, keepdim=True).clamp(min=1)  # (N, 1)
            inside, outside = profile.gather(1, first)[:, 0], profile.gather(1, first - 1)[:, 0]
            # the middle of pixel i lies at i + 0.5, and the padding is one pixel
            at = first[:, 0] - 0.5 - (inside - level) / (inside - outside).clamp(min=1e-6)
            edges.append(profile.shape[1] - 2 - at if backwards else at)
    return torch.stack(edges, 1).unflatten(1, (2, 2))


def resample(images: Tensor, zoom: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
    """Grey images ``(N, h, w)`` drawn larger or smaller onto a square ``(N, size, size)``, empty elsewhere.

    The point ``source`` of an image comes to lie at ``target``, both ``(N, 2)``, row and column in pixels, and lengths
    become ``zoom`` ``(N, 2)`` times what they were. Pixels are interpolated linearly, and averaged where they get
    smaller.
    """
    weights = []
    to = torch.arange(size, device=images.device) + 0.5  # (size,)
    for axis in (0, 1):
        of = torch.arange(images.shape[1 + axis], device=images.device) + 0.5  # (h,) or (w,)
        at = (to - target[:, axis, None]) / zoom[:, axis, None] + source[:, axis, None]  # (N, size) in the image
        sharp = zoom[:, axis, None, None].clamp(max=1)  # 1 over how far a pixel reaches
        distance = (at[..., None] * sharp**2 - of * sharp**2).abs_()  # (N, size, h or w)
        weights.append((sharp - distance).clamp_(min=0))
    return weights[0] @ images @ weights[1].mT


def prompts(kind: Literal["seen", "unseen", "two"], count: int, seed: int) -> list[Scene]:
    """Scenes to ask a model for, each with a caption that names all of its attributes.

    Args:
        kind: one digit in a combination of digit, colour and background that training draws, or one that it never
            draws; or two digits, both in combinations that it draws.
        count: how many.
        seed: decides everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    combinations = _combinations("unseen" if kind == "unseen" else "seen")
    attributes = _Attributes.drawn(count, combinations, generator)
    attributes.two.fill_(kind == "two")
    return attributes.scenes(generator, everything=True)


def load_scenes(config: "DataConfig") -> tuple[Scenes, Scenes]:
    """The scenes of training, and those that are held out, which are made of the test split's digits.

    Raises:
        UserError: there are no such digits.
    """
    size = 8 if config.digits == "digits" else 28
    train, test = (
        load_images(config.digits, split, channels=1, size=size, labelled=True, resize=config.resize)
        for split in ("train", "test")
    )
    return Scenes(train, config.size), Scenes(test, config.size, held_out=True)
