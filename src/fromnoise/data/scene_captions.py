"""What a scene shows, in plain values, and how English says it.

A caption says nothing that is not so, but it may leave something out: `Scene.named` lists what it names.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

Value = TypeVar("Value")

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
"""of one thing, row by row"""
RELATIONS = ("left of", "right of", "above", "below")
"""of the first thing to the second"""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNONYMS = {"small": ("small", "little"), "large": ("large", "big")}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
EDGE_PHRASES = {
    "top": ("at the top", "in the top middle"),
    "left": ("on the left", "at the left"),
    "middle": ("in the middle", "in the center"),
    "right": ("on the right", "at the right"),
    "bottom": ("at the bottom", "in the bottom middle"),
}
AN = ("orange", "eight", "8")

FULL = 0.5  # this part of the captions names everything
LEFT_OUT = 0.3  # how often one of the others leaves an attribute out
CHANCES = 24  # random numbers that suffice for a caption


class Thing(Protocol):
    """A thing in a scene, in plain values."""

    noun: ClassVar[str]
    """the attribute that every caption names: what it is"""

    @property
    def size(self) -> str:
        """One of SIZES."""

    @property
    def attributes(self) -> dict[str, str | int]:
        """Everything that a caption can name of it: a name and a value for each."""

    def words(self, named: Collection[str], choose: "Chances", terse: bool, alone: bool) -> str:
        """The thing in English, with those of its attributes that are ``named``; tersely without an article.

        What is said of the only thing may be no more than a word that tells it from others.
        """


@dataclass(frozen=True)
class Digit:
    """A digit in a scene, see `Thing`."""

    digit: int
    size: str  # one of SIZES
    colour: str  # one of COLOURS

    noun: ClassVar[str] = "digit"

    @property
    def attributes(self) -> dict[str, str | int]:
        return {"digit": self.digit, "size": self.size, "colour": self.colour}

    def words(self, named: Collection[str], choose: "Chances", terse: bool, alone: bool) -> str:
        """``a large red seven``, or tersely ``large 7 in red``."""
        size = choose.one(SYNONYMS[self.size]) if "size" in named else ""
        colour = self.colour if "colour" in named else ""
        if terse:
            digit = str(self.digit) if choose.happens(0.75) else DIGITS[self.digit]
            if choose.happens(0.5):
                return join([size, colour, digit])
            return join([size, digit, f"in {colour}" if colour else ""])
        digit = choose.one((DIGITS[self.digit], str(self.digit)))
        kind = choose.one(("digit", "number")) if choose.happens(0.1) else ""
        words = join([size, colour, kind, digit])
        return f"{'an' if words.split()[0] in AN else 'a'} {words}"


@dataclass(frozen=True)
class Scene:
    """One thing at a place, or two, of which the first stands in a relation to the second."""

    things: tuple[Thing, ...]
    where: str  # one of PLACES or of RELATIONS
    background: str  # one of COLOURS
    named: frozenset[str] = frozenset()  # keys of `attributes`
    caption: str = ""

    @property
    def attributes(self) -> dict[str, str | int]:
        """Everything that a caption can name: a name and a value for each.

        Of one digit these are ``digit``, ``size``, ``colour``, ``place`` and ``background``. Of two, they are
        ``relation`` instead of the place, and ``second digit``, ``second size`` and ``second colour`` too.
        """
        found: dict[str, str | int] = {}
        for prefix, thing in zip(("", "second "), self.things, strict=False):
            found |= {f"{prefix}{name}": value for name, value in thing.attributes.items()}
        return found | {"place" if len(self.things) == 1 else "relation": self.where, "background": self.background}


class Chances:
    """Choices by random numbers in [0, 1) that are used one after the other."""

    def __init__(self, numbers: Iterable[float]) -> None:
        self.numbers = iter(numbers)

    def one(self, of: Sequence[Value]) -> Value:
        """One of several, each as likely as the others."""
        return of[int(next(self.numbers) * len(of))]

    def happens(self, probability: float) -> bool:
        return next(self.numbers) < probability


def describe(scene: Scene, chances: Iterable[float], *, everything: bool = False) -> Scene:
    """The scene with a caption and with what that names: what the things are always, ``everything`` if so asked.

    Args:
        scene: what is to be said.
        chances: `CHANCES` random numbers in [0, 1), which choose the words.
        everything: whether nothing is left out.
    """
    choose, names = Chances(chances), scene.attributes
    full = choose.happens(FULL) or everything
    always = {f"{prefix}{thing.noun}" for prefix, thing in zip(("", "second "), scene.things, strict=False)}
    left_out = {name for name in names if not full and name not in always and choose.happens(LEFT_OUT)}
    named = frozenset(names.keys() - left_out)
    caption = (_one if len(scene.things) == 1 else _two)(scene, named, choose)
    return Scene(scene.things, scene.where, scene.background, named, caption)


def _one(scene: Scene, named: frozenset[str], choose: Chances) -> str:
    """A caption of one thing."""
    terse = choose.happens(0.25)
    thing = scene.things[0].words(named, choose, terse, True)
    if terse:  # 7 in red, bottom right, on black
        place = scene.where if "place" in named else ""
        ground = choose.one((f"on {scene.background}", f"{scene.background} background"))
        return join([thing, place, ground if "background" in named else ""], ", ")
    place, ground = _place(scene.where, choose) if "place" in named else "", _ground(scene, named, choose)
    match choose.one(("place", "place", "ground", "first")):
        case "place":  # a large red seven in the top left corner on a blue background
            return join([thing, place, ground])
        case "ground":  # a large red seven on a blue background, top left
            return join([join([thing, ground]), choose.one((place, scene.where)) if place else ""], ", ")
        case _:  # on a blue background, a large red seven in the top left corner
            return join([ground, join([thing, place])], ", ")


def _two(scene: Scene, named: frozenset[str], choose: Chances) -> str:
    """A caption of two things."""
    terse = choose.happens(0.25)
    of_second = [name.removeprefix("second ") for name in named if name.startswith("second ")]
    first, second = (
        thing.words(names, choose, terse, False) for thing, names in zip(scene.things, (named, of_second), strict=True)
    )
    relation = choose.one(RELATION_PHRASES[scene.where]) if "relation" in named else "and"
    both, ground = f"{first} {relation} {second}", _ground(scene, named, choose)
    if terse:  # 7 in red above 3 in white, on black
        return join([both, f"on {scene.background}" if ground else ""], ", ")
    if choose.happens(0.25):  # on a blue background, a small white three left of a green nine
        return join([ground, both], ", ")
    return join([both, ground])


def _place(place: str, choose: Chances) -> str:
    """``in the top left corner``, ``on the left``, ``in the middle``."""
    if place in EDGE_PHRASES:
        return choose.one(EDGE_PHRASES[place])
    other = place.replace("top", "upper").replace("bottom", "lower")
    return choose.one((f"in the {place} corner", f"at the {place}", f"in the {place}", f"in the {other} corner"))


def _ground(scene: Scene, named: frozenset[str], choose: Chances) -> str:
    """``on a blue background``, or nothing where the background is not named."""
    colour = scene.background
    article = "an" if colour in AN else "a"
    phrases = (f"on {article} {colour} background", f"on {colour}", f"against {article} {colour} background")
    return choose.one(phrases) if "background" in named else ""


def join(parts: Iterable[str], between: str = " ") -> str:
    """Those parts that are not empty."""
    return between.join(part for part in parts if part)
