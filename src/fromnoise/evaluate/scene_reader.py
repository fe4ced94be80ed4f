"""Reads what a picture of a scene shows, without knowing what was asked for, and compares it with what was.

Colours, sizes, places and relations are measured on the pixels, and a `ThingReader` says what the things are. Digits
are cut out, brought into the form of MNIST's images and judged by the classifier that ships.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.data.digits import WIDEST, Digits
from fromnoise.data.images import to_pixels
from fromnoise.data.resampling import ink_edges, resample
from fromnoise.data.scene_captions import COLOURS, PLACES, Digit, Scene, Thing
from fromnoise.data.things import LENGTHS_FOR, RGB, Lengths
from fromnoise.evaluate.classifier import SHAPE, judge
from fromnoise.nn.classifier import Classifier

FAR = 45.0  # in 0..255: how far from the background's colour a pixel is no background
SPECK = 6  # so many pixels in a square of 7 x 7, or they are a speck
STRONGEST = 5  # of a digit's pixels show its colour
EDGE = 0.5  # how much a pixel at the edge of a digit is covered
MNIST_BOX = 20.0  # the longer side of the ink in MNIST's images
BATCH = 100  # so many pictures are read at a time
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EVERYTHING = "everything"
"""the key of `matches` that says whether all others hold"""


@dataclass(frozen=True)
class _Parts:
    """The things that were found in N pictures, T of them in all."""

    picture: Tensor  # (T,) which picture
    masks: Tensor  # (T, S, S) bool, where its pixels are
    axes: list[str]  # for each picture, along which axis two things follow: rows, columns; or nothing


@dataclass(frozen=True)
class Seen:
    """T things that were found in pictures."""

    edges: Tensor  # (T, 2, 2) where each begins and ends, see `ink_edges`
    length: Tensor  # (T,) by which its size is told
    thing: Callable[[int, str], Thing]  # one of them, by its place among them and its size, in plain values


class ThingReader(Protocol):
    """Who says what a thing in a picture is."""

    @property
    def lengths(self) -> Lengths:
        """How large things are, and where they stand."""

    @property
    def longest(self) -> dict[str, float]:
        """What one thing covers at most in rows and in columns, of a picture of 64 x 64."""

    def look(self, images: Tensor, background: Tensor, masks: Tensor) -> Seen:
        """What is seen in pictures ``(T, 3, S, S)`` in 0..255, on backgrounds ``(T, 3)``, where there is something.

        That is ``masks``, bool ``(T, S, S)``.
        """


@dataclass(frozen=True)
class DigitReader:
    """Reads digits in one colour; see `ThingReader`."""

    classifier: Classifier

    lengths: ClassVar[Lengths] = Digits.lengths
    longest: ClassVar[dict[str, float]] = {"rows": Digits.lengths.large[1] + 4, "columns": WIDEST + 2}

    def look(self, images: Tensor, background: Tensor, masks: Tensor) -> Seen:
        colours, coverage = _ink(images, background, masks)
        edges = ink_edges(coverage, EDGE)  # (T, 2, 2)
        digits = judge(self.classifier, cut_out(coverage, edges)).digits.tolist()
        height = edges[:, 0, 1] - edges[:, 0, 0]
        return Seen(edges, height, lambda part, size: Digit(digits[part], size, nearest_colour(colours[part])))


@torch.inference_mode()
def read_scenes(pixels: Tensor, reader: ThingReader) -> list[Scene]:
    """What pictures ``(N, 3, S, S)``, uint8, show: scenes without captions, of none, one or two things.

    Of two things the first is the left or the upper one.
    """
    return [scene for part in pixels.split(BATCH) for scene in _read(part, reader)]


def _read(pixels: Tensor, reader: ThingReader) -> list[Scene]:
    """What a few pictures show."""
    scale = pixels.shape[-1] / LENGTHS_FOR
    images = pixels.float()  # (N, 3, S, S)
    borders = torch.cat([images[..., :2, :].flatten(2), images[..., -2:, :].flatten(2)], 2)
    sides = torch.cat([images[..., :2].flatten(2), images[..., -2:].flatten(2)], 2)
    background = torch.cat([borders, sides], 2).median(2).values  # (N, 3)
    parts = _parts(_foreground(images, background), {axis: scale * most for axis, most in reader.longest.items()})

    seen, lengths = reader.look(images[parts.picture], background[parts.picture], parts.masks), reader.lengths
    largest_small = scale * (lengths.small[1] + lengths.large[0]) / 2
    centres = seen.edges.mean(2) / scale  # (T, 2)
    cells = (centres[..., None] - torch.tensor(lengths.centres)).abs().argmin(2).tolist()  # (T, 2)

    things: list[list[tuple[Thing, str]]] = [[] for _ in pixels]
    for part, picture in enumerate(parts.picture.tolist()):
        size = "small" if seen.length[part] < largest_small else "large"
        row, column = cells[part]
        things[picture].append((seen.thing(part, size), PLACES[3 * row + column]))
    scenes = []
    for picture, found in enumerate(things):
        where = {"rows": "above", "columns": "left of", "": found[0][1] if found else ""}[parts.axes[picture]]
        scenes.append(Scene(tuple(thing for thing, _ in found), where, nearest_colour(background[picture])))
    return scenes


def matches(scene: Scene, read: Scene) -> dict[str, bool]:
    """Which of the attributes that a scene's caption names are right in what was read, by the names of `attributes`.

    ``count`` says whether there are as many things, and `EVERYTHING` whether all of it is right. Of two things it does
    not matter which was read first.
    """
    orders = [read]
    if len(read.things) == 2:
        orders.append(replace(read, things=read.things[::-1], where=OPPOSITE[read.where]))
    right = []
    for order in orders:
        found = {name: order.attributes.get(name) == scene.attributes[name] for name in sorted(scene.named)}
        right.append({"count": len(scene.things) == len(read.things)} | found)
    best = max(right, key=lambda found: sum(found.values()))
    return best | {EVERYTHING: all(best.values())}


def cut_out(coverage: Tensor, edges: Tensor) -> Tensor:
    """Digits as MNIST has them, uint8 ``(T, 1, 28, 28)``: as large as its own, the centre of mass in the middle.

    Args:
        coverage: how much of each pixel is digit ``(T, S, S)``, in [0, 1].
        edges: of the ink, see `ink_edges`, ``(T, 2, 2)``.
    """
    zoom = MNIST_BOX / (edges[..., 1] - edges[..., 0]).amax(1).clamp(min=1)  # (T,)
    at = torch.arange(coverage.shape[-1]) + 0.5  # (S,)
    mass = coverage.sum((1, 2)).clamp(min=1e-6)  # (T,)
    middle = torch.stack([coverage.sum(2) @ at, coverage.sum(1) @ at], 1) / mass[:, None]  # (T, 2)
    target = torch.full_like(middle, SHAPE[1] / 2)
    cut = resample(coverage, zoom[:, None].expand(-1, 2), middle, target, SHAPE[1])  # (T, 28, 28)
    return to_pixels(2 * cut[:, None] - 1)


def nearest_colour(colour: Tensor) -> str:
    """The nearest of the colours that have a name."""
    return COLOURS[int(_length(RGB - colour).argmin())]


def _length(colours: Tensor) -> Tensor:
    """Of vectors of red, green and blue ``(N, 3, ...)``: ``(N, ...)``."""
    return colours.square().sum(1).sqrt()


def _foreground(images: Tensor, background: Tensor) -> Tensor:
    """Which pixels ``(N, S, S)`` are far from the background ``(N, 3)`` and no speck."""
    far = _length(images - background[..., None, None]) > FAR
    around = F.avg_pool2d(far[:, None].float(), 7, 1, 3)[:, 0] * 49
    return far & (around > SPECK - 0.5)


def _parts(foreground: Tensor, longest: dict[str, float]) -> _Parts:
    """The things in pictures ``(N, S, S)``: two, where a free row or column parts what is too long for one."""
    picture, masks, axes = [], [], []
    for index, mask in enumerate(foreground):
        rows, columns = mask.any(1), mask.any(0)  # (S,) each
        gaps = {"rows": _gap(rows, longest["rows"]), "columns": _gap(columns, longest["columns"])}
        axis = max(gaps, key=lambda name: gaps[name][1])
        at, width = gaps[axis]
        parts = [mask] if mask.any() else []
        if width:
            first = torch.arange(len(mask)) < at
            first = first[:, None] if axis == "rows" else first[None]
            parts = [mask & first, mask & ~first]
        picture += [index] * len(parts)
        masks += parts
        axes.append(axis if width else "")
    size = foreground.shape[-1]
    return _Parts(torch.tensor(picture, dtype=torch.long), torch.stack(masks) if masks else foreground[:0, :size], axes)


def _gap(taken: Tensor, longest: float) -> tuple[int, int]:
    """Where the free places between the taken ones ``(S,)`` lie, and how many; of several gaps, the most central one.

    None are found in what is not longer than one thing.
    """
    places = taken.nonzero().flatten()
    if len(places) < 2 or int(places[-1] - places[0]) + 1 <= longest:
        return 0, 0
    begin, steps = places[:-1], places.diff()
    if not (steps > 1).any():
        return 0, 0
    off = (begin + steps / 2 - len(taken) / 2).abs().masked_fill(steps == 1, torch.inf)
    best = int(off.argmin())
    return int(begin[best]) + 1, int(steps[best]) - 1


def _ink(images: Tensor, background: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The colour ``(T, 3)`` of each digit, and how much of each pixel ``(T, S, S)`` it covers.

    The colour is that of the pixels which differ most from the background.
    """
    contrast = images - background[..., None, None]  # (T, 3, S, S)
    distance = _length(contrast) * masks  # (T, S, S)
    strongest = distance.flatten(1).topk(STRONGEST, 1).values[:, -1, None, None]  # (T, 1, 1)
    strong = (distance >= 0.9 * strongest).float()
    ink = torch.einsum("tchw,thw->tc", contrast, strong) / strong.sum((1, 2))[:, None]  # (T, 3)
    near = F.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0]  # with the pixels at the edges, hardly covered
    coverage = torch.einsum("tchw,tc->thw", contrast, ink) / ink.square().sum(1).clamp(min=1e-6)[:, None, None]
    return background + ink, coverage.clamp(0, 1) * near
