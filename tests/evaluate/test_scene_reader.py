"""The reader sees what a picture of a scene shows, and what is wrong is noticed."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_scenes import small_digits
from torch import Tensor

from fromnoise.data.captions import Drawn
from fromnoise.data.digits import Digits
from fromnoise.data.images import to_pixels
from fromnoise.data.resampling import ink_edges
from fromnoise.data.scene_captions import COLOURS, PLACES, RELATIONS, Digit, Scene
from fromnoise.data.scenes import Scenes
from fromnoise.data.things import RGB
from fromnoise.evaluate.classifier import open_classifier
from fromnoise.evaluate.scene_reader import EVERYTHING, OPPOSITE, DigitReader, cut_out, matches, read_scenes

ONE = Scene((Digit(7, "large", "red"),), "top left", "blue")
TWO = Scene((Digit(3, "small", "white"), Digit(9, "large", "green")), "left of", "black")


@pytest.fixture(scope="module")
def reader() -> DigitReader:
    return DigitReader(open_classifier()[0])


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(Digits(small_digits()), held_out=True)


@pytest.fixture(scope="module")
def drawn(scenes: Scenes) -> tuple[Drawn, list[Scene]]:
    return scenes.draw_scenes(100, torch.Generator().manual_seed(0))


def full(scene: Scene) -> Scene:
    """The same, with everything named."""
    return replace(scene, named=frozenset(scene.attributes))


def normal(scene: Scene) -> Scene:
    """As it is read: without a caption, the left or upper one of two digits first."""
    scene = Scene(scene.things, scene.where, scene.background)
    swapped = scene.where in ("right of", "below")
    return replace(scene, things=scene.things[::-1], where=OPPOSITE[scene.where]) if swapped else scene


def read(scenes: Scenes, drawn: Drawn, reader: DigitReader) -> list[Scene]:
    return read_scenes(to_pixels(scenes.images(drawn)), reader)


def without_digits(scene: Scene) -> Scene:
    """What is measured, not judged."""
    return replace(normal(scene), things=tuple(replace(thing, digit=0) for thing in normal(scene).things))


def test_everything_that_is_measured_is_read_right(
    scenes: Scenes, drawn: tuple[Drawn, list[Scene]], reader: DigitReader
) -> None:
    found = read(scenes, drawn[0], reader)
    for scene, seen in zip(drawn[1], found, strict=True):
        assert without_digits(seen) == without_digits(scene)
        right = matches(full(scene), seen)
        assert all(ok for name, ok in right.items() if "digit" not in name and name != EVERYTHING)
    pairs = [
        (a.digit, b.digit)
        for scene, seen in zip(drawn[1], found, strict=True)
        for a, b in zip(normal(scene).things, seen.things, strict=True)
    ]
    assert sum(a == b for a, b in pairs) > 0.9 * len(pairs)  # it learned from MNIST's digits, not from these


def test_it_reads_digits_of_any_resolution(scenes: Scenes, reader: DigitReader) -> None:
    pixels = small_digits().pixels.repeat_interleave(3, 2).repeat_interleave(3, 3)
    framed = Scenes(Digits(replace(small_digits(), pixels=F.pad(pixels, (2, 2, 2, 2)))), held_out=True)
    drawn, described = framed.draw_scenes(30, torch.Generator().manual_seed(2))
    for scene, seen in zip(described, read(framed, drawn, reader), strict=True):
        assert without_digits(seen) == without_digits(scene)


def of_kind(drawn: tuple[Drawn, list[Scene]], count: int, number: int = 8) -> tuple[Drawn, list[Scene]]:
    """The first scenes of one digit, or of two."""
    rows = [row for row, scene in enumerate(drawn[1]) if len(scene.things) == count][:number]
    return {name: value[rows] for name, value in drawn[0].items()}, [drawn[1][row] for row in rows]


def test_each_attribute_is_read_from_the_picture_alone(
    scenes: Scenes, drawn: tuple[Drawn, list[Scene]], reader: DigitReader
) -> None:
    ones, before = of_kind(drawn, 1)
    seen = [scene.attributes for scene in read(scenes, ones, reader)]

    def changed(**values: Tensor) -> list[set[str]]:
        after = [scene.attributes for scene in read(scenes, ones | values, reader)]
        return [{name for name in old if old[name] != new[name]} for old, new in zip(seen, after, strict=True)]

    colours = ones["colours"].clone()
    others = [COLOURS[(COLOURS.index(scene.things[0].colour) + 1) % 8] for scene in before]
    others = [COLOURS[(COLOURS.index(o) + (o == s.background)) % 8] for o, s in zip(others, before, strict=True)]
    colours[:, 0] = RGB[[COLOURS.index(name) for name in others]] / 127.5 - 1
    assert changed(colours=colours) == [{"colour"}] * len(before)

    colours = ones["colours"].clone()
    free = [next(c for c in COLOURS if c not in (scene.background, scene.things[0].colour)) for scene in before]
    colours[:, 2] = RGB[[COLOURS.index(name) for name in free]] / 127.5 - 1
    assert changed(colours=colours) == [{"background"}] * len(before)

    factor = torch.tensor([1.5 if scene.things[0].size == "small" else 1 / 1.5 for scene in before])
    assert all(names - {"digit"} == {"size"} for names in changed(zoom=ones["zoom"] * factor[:, None, None]))

    centres = Digits.lengths.centres
    cells = [(PLACES.index(scene.where) + 4) % 9 for scene in before]
    to = ones["to"].clone()
    to[:, 0] = torch.tensor([[centres[cell // 3], centres[cell % 3]] for cell in cells])
    assert all(names - {"digit"} == {"place"} for names in changed(to=to))

    things = Digits(small_digits())
    digits = things.pixels[things.by_digit[things.counts.cumsum(0) - 1]]  # one of each
    chosen = torch.stack([digits[(scene.things[0].digit + 1) % 10] for scene in before])
    different = torch.stack([chosen, torch.zeros_like(chosen)], 1)
    assert all("digit" in names for names in changed(cutouts=different))


def test_the_relation_is_read_from_where_the_digits_are(
    scenes: Scenes, drawn: tuple[Drawn, list[Scene]], reader: DigitReader
) -> None:
    twos, before = of_kind(drawn, 2, 12)
    assert {scene.where for scene in before} == {*RELATIONS}
    turned = twos | {"to": twos["to"].flip(2)}  # rows become columns
    right = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}
    for scene, seen in zip(before, read(scenes, turned | {"zoom": twos["zoom"] * 0.9}, reader), strict=True):
        assert without_digits(seen).where == normal(replace(scene, where=right[scene.where])).where
        assert not matches(full(scene), seen)["relation"]
    swapped = twos | {"to": twos["to"].flip(1)}
    for scene, seen in zip(before, read(scenes, swapped | {"zoom": twos["zoom"] * 0.9}, reader), strict=True):
        assert not matches(full(scene), seen)[EVERYTHING]


def test_nothing_and_specks_are_no_digits(
    scenes: Scenes, drawn: tuple[Drawn, list[Scene]], reader: DigitReader
) -> None:
    empty = torch.full((1, 3, 64, 64), 10, dtype=torch.uint8)
    assert read_scenes(empty, reader) == [Scene((), "", "black")]
    assert read_scenes(empty[:0], reader) == []
    ones, _ = of_kind(drawn, 1)
    pixels = to_pixels(scenes.images(ones))
    specked = pixels.clone()
    specked[:, :, ::60, 3:5] = 255 - specked[:, :, ::60, 3:5]
    assert read_scenes(specked, reader) == read_scenes(pixels, reader)


def test_a_digit_in_pieces_is_one_digit(reader: DigitReader) -> None:
    pixels = torch.full((2, 3, 64, 64), 250, dtype=torch.uint8)
    pixels[:, :, 18:46, 24:40] = 10
    pixels[0, :, 26:29] = 250  # a free row
    pixels[1, :, :, 31:34] = 250  # a free column
    for scene in read_scenes(pixels, reader):
        assert [(thing.size, thing.colour) for thing in scene.things] == [("large", "black")]
        assert (scene.where, scene.background) == ("middle", "white")


def test_cut_out_digits_are_like_those_of_mnist() -> None:
    coverage = torch.zeros(1, 64, 64)
    coverage[0, 20:50, 40:44] = 1
    coverage[0, 46:50, 34:44] = 1
    cut = cut_out(coverage, ink_edges(coverage, 0.5))[0, 0].float() / 255
    (top, bottom), (left, right) = ink_edges(cut[None], 0.5)[0].tolist()
    assert bottom - top == pytest.approx(20, abs=0.5)
    assert right - left == pytest.approx(20 * 10 / 30, abs=0.5)
    at = torch.arange(28) + 0.5
    assert [(cut.sum(1) @ at / cut.sum()).item(), (cut.sum(0) @ at / cut.sum()).item()] == pytest.approx(
        [14, 14], abs=0.1
    )


WRONG = {
    "digit": replace(ONE, things=(Digit(1, "large", "red"),)),
    "size": replace(ONE, things=(Digit(7, "small", "red"),)),
    "colour": replace(ONE, things=(Digit(7, "large", "orange"),)),
    "place": replace(ONE, where="top"),
    "background": replace(ONE, background="green"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_noticed_if_it_was_named(name: str) -> None:
    right = matches(full(ONE), WRONG[name])
    assert {key for key, ok in right.items() if not ok} == {name, EVERYTHING}
    assert all(matches(full(ONE), ONE).values())
    unnamed = replace(ONE, named=frozenset(ONE.attributes) - {name})
    assert matches(unnamed, WRONG[name])[EVERYTHING]
    assert name not in matches(unnamed, WRONG[name])


def test_of_two_digits_either_may_be_read_first() -> None:
    other = Scene(TWO.things[::-1], "right of", "black")
    assert all(matches(full(TWO), other).values())
    assert all(matches(full(other), TWO).values())
    mixed = replace(TWO, things=(Digit(3, "small", "green"), Digit(9, "large", "white")))
    assert {name for name, ok in matches(full(TWO), mixed).items() if not ok} == {"colour", "second colour", EVERYTHING}
    reversed_ = replace(TWO, where="right of")
    assert not matches(full(TWO), reversed_)[EVERYTHING]
    assert matches(replace(TWO, named=frozenset(TWO.attributes) - {"relation"}), reversed_)[EVERYTHING]


def test_one_digit_too_many_or_too_few_is_noticed() -> None:
    for asked, seen in ((ONE, TWO), (TWO, ONE), (ONE, Scene((), "", "blue"))):
        right = matches(full(asked), seen)
        assert not right["count"]
        assert not right[EVERYTHING]
    assert not matches(replace(ONE, named=frozenset()), TWO)[EVERYTHING]
