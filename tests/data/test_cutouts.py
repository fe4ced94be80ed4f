"""Scenes of cut-out things: composited at their edges, whole, where they belong, and named in good English."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw
from small_scenes import small_digits
from small_things import build_font, draw_cutouts
from torch import Tensor

from fromnoise.data import emoji
from fromnoise.data.captions import load_captioned
from fromnoise.data.cutouts import Cutouts, Named, Names, cut_out, is_composed, is_unseen, load_folder
from fromnoise.data.digits import Digits
from fromnoise.data.scene_captions import COLOURS, RELATIONS, SIZES, Scene
from fromnoise.data.scenes import Scenes
from fromnoise.data.things import RGB
from fromnoise.errors import UserError
from fromnoise.train.config import DataConfig


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Cutouts:
    return load_folder(draw_cutouts(tmp_path_factory.mktemp("things") / "cutouts"), 64)


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    return build_font(tmp_path_factory.mktemp("font") / "tiny.ttf")


@pytest.fixture
def glyphs(font, small_names) -> Cutouts:
    return emoji.emoji_things.__wrapped__(font, 64)


def test_a_cut_out_lies_whole_in_the_middle() -> None:
    picture = Image.new("RGBA", (100, 60))
    ImageDraw.Draw(picture).rectangle((70, 5, 99, 24), fill=(250, 10, 20, 255))  # it touches the edge
    cut = cut_out(picture, 48)
    assert cut is not None and cut.shape == (4, 48, 48)
    rows, columns = ((cut[3] > 127).any(axis).nonzero().flatten() for axis in (1, 0))
    assert (rows[0] + rows[-1], columns[0] + columns[-1]) == (47, 47)
    assert len(columns) == 42 and abs(len(rows) - 42 * 2 / 3) <= 1
    assert cut[:, 24, 24].tolist() == [250, 10, 20, 255]
    assert cut_out(Image.new("RGBA", (9, 9)), 48) is None


def test_what_is_half_transparent_is_half_of_each_colour() -> None:
    pixels = torch.zeros(1, 4, 48, 48, dtype=torch.uint8)
    pixels[:, :, 4:44, 4:44] = torch.tensor([100, 0, 20, 128], dtype=torch.uint8)[:, None, None]  # (200, 0, 40) at half
    scenes = Scenes(Cutouts(pixels, [Names(("veil",))]), held_out=True)
    veil = Scene((Named("veil", "large"),), "middle", "green")
    drawn = scenes.paint([veil], seeded())
    drawn["colours"][:] = RGB[1] / 127.5 - 1
    middle = (scenes.images(drawn)[0, :, 32, 32] + 1) * 127.5
    assert middle.tolist() == pytest.approx([100 + 15 * 127 / 128, 150 / 2, 20 + 30], abs=1.5)


def test_resampling_leaves_no_pattern(things: Cutouts) -> None:
    """What has one colour keeps it at every size; weights that are only about 1 in all would show a grid."""
    drawn, told = Scenes(things).draw_scenes(40, seeded())
    images = Scenes(things).images(drawn)
    for image, scene, centre, number in zip(images, told, drawn["to"], range(40), strict=True):
        if len(scene.things) == 1:
            row, column = (centre[0] - 1).round().int().tolist()
            inner = image[:, row - 1 : row + 2, column - 1 : column + 2]
            assert (inner - inner[:, 1:2, 1:2]).abs().max() < 0.02, (number, scene)


def test_pictures_are_painted_where_what_they_are_made_from_is(things: Cutouts, monkeypatch) -> None:
    """On a device that computes nothing, which would refuse whatever lies elsewhere."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    for scenes in (Scenes(things), Scenes(Digits(small_digits()))):
        drawn, _ = scenes.draw(torch.arange(3), seeded())
        images = scenes.images({name: values.to("meta") for name, values in drawn.items()})
        assert (images.shape, images.device.type) == ((3, 3, 64, 64), "meta")


def extent(image: Tensor, background: str) -> tuple[Tensor, Tensor]:
    far = ((image + 1) * 127.5 - RGB[COLOURS.index(background)][:, None, None]).norm(dim=0) > 40
    return far.any(1).nonzero().flatten(), far.any(0).nonzero().flatten()


def test_things_have_the_size_and_the_place_that_is_said(things: Cutouts) -> None:
    drawn, told = Scenes(things).draw_scenes(150, seeded(1))
    for image, scene in zip(Scenes(things).images(drawn), told, strict=True):
        rows, columns = extent(image, scene.background)
        assert min(rows[0], columns[0]) >= 0 and max(rows[-1], columns[-1]) <= 63
        if len(scene.things) == 2:
            along = columns if scene.where in ("left of", "right of") else rows
            assert (along.diff() > 1).any(), "they are apart"
            continue
        longer = max(len(rows), len(columns))
        low, high = {"small": (17, 24), "large": (27, 36)}[scene.things[0].size]
        assert low <= longer <= high
        words = [(rows, "top", "bottom"), (columns, "left", "right")]
        for taken, before, after in words:
            middle = (taken[0] + taken[-1] + 1) / 2
            assert (before in scene.where) == (middle < 26) and (after in scene.where) == (middle > 38)


def test_training_leaves_out_what_is_kept_for_evaluation(glyphs: Cutouts) -> None:
    def of(kind) -> set[tuple[int, ...]]:
        return {tuple(row) for row in glyphs.combinations(kind).flatten(0, 1).tolist()}

    seen, unseen, composed, every = of("seen"), of("unseen"), of("composed"), of("all")
    assert not seen & unseen and not (seen | unseen) & composed and seen | unseen | composed < every
    assert all(is_unseen(*map(torch.tensor, (number, background))) for number, _, background in unseen)
    assert all(is_composed(*map(torch.tensor, (number, look))) for number, look, _ in composed)
    woman = glyphs.number_of["woman"]
    looks = {look for number, look, _ in seen | composed if number == woman}
    assert looks == {0, 5}, "in the font she has a dark tone alone"
    for number, _, background in seen:
        assert not is_unseen(*map(torch.tensor, (number, background)))
    of_woman = (glyphs.combinations("seen")[..., 0] == woman).flatten(0, 1).float().mean()
    assert 0.5 / len(glyphs.names) < of_woman < 1.5 / len(glyphs.names), "tones do not make her more likely"


def test_nothing_is_hidden_by_its_background() -> None:
    pixels = torch.zeros(2, 4, 48, 48, dtype=torch.uint8)
    pixels[:, 3, 4:44, 4:44] = 255
    pixels[0, :3, 4:44, 4:44] = 245  # white
    pixels[1, 0, 4:44, 4:44] = 215  # red, with a white foot
    pixels[1, :3, 36:44, 4:44] = 245
    visible = Cutouts(pixels, [Names(("sheet",)), Names(("boot",))]).visible
    assert [COLOURS[i] for i in (~visible[0]).nonzero().flatten()] == ["white"]
    assert [COLOURS[i] for i in (~visible[1]).nonzero().flatten()] == ["red", "white"]
    with pytest.raises(UserError, match="too few things"):
        hidden = Cutouts(pixels[:1], [Names(("sheet",))])
        hidden.visible[:] = False
        hidden.combinations("all")


def test_folders_that_hold_no_things_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no cut-out pictures"):
        load_folder(tmp_path, 64)
    Image.new("RGB", (9, 9)).save(tmp_path / "box.png")
    with pytest.raises(UserError, match="box.png has no transparent surroundings"):
        load_folder(tmp_path, 64)
    whole = draw_cutouts(tmp_path / "whole") / "red car.png"
    start = whole.read_bytes().index(b"IDAT")
    cut = whole.read_bytes()[: start + 4] + b"\0" * 9 + whole.read_bytes()[start + 40 :]
    for content in (b"no picture", cut, whole.read_bytes()[:-40]):
        (tmp_path / "box.png").write_bytes(content)
        with pytest.raises(UserError, match="box.png cannot be read as an image: replace or remove it"):
            load_folder(tmp_path, 64)
    (tmp_path / "box.png").unlink()
    folder = draw_cutouts(tmp_path / "more")
    (folder / "red car.png").rename(folder / "green frog.png")
    with pytest.raises(UserError, match="two pictures of one name"):
        load_folder(folder, 64)


def test_cut_outs_are_loaded_by_the_folder(tmp_path) -> None:
    config = DataConfig(source="scenes", things=str(draw_cutouts(tmp_path / "cutouts")), channels=3, size=32)
    train, held_out = load_captioned(config, config.source)
    assert isinstance(train, Scenes) and isinstance(held_out, Scenes) and held_out.held_out
    assert train.things is held_out.things, "they are read once"
    drawn, captions = train.draw(torch.arange(6), seeded())
    assert drawn["cutouts"].shape == (6, 2, 4, 48, 48) and train.images(drawn).shape == (6, 3, 32, 32)
    assert any("green frog" in caption for caption in train.draw(torch.arange(200), seeded())[1])
    with pytest.raises(UserError, match="give digits, emoji, emoji-200 or a folder"):
        load_captioned(replace(config, things="kittens"), "scenes")


def test_glyphs_are_things_with_their_names(glyphs: Cutouts) -> None:
    names = {name.names[0]: name for name in glyphs.names}
    assert set(names) == {
        "jack-o-lantern", "sloth", "turtle", "taco", "pizza", "woman", "woman astronaut", "rocket", "umbrella",
    }  # fmt: skip
    assert names["jack-o-lantern"].names == ("jack-o-lantern", "pumpkin")
    assert names["jack-o-lantern"].keywords == ("celebration", "halloween")
    assert names["sloth"].keywords == ("lazy",), "slow is another's, too"
    assert glyphs.tones == ("", "light", "medium-light", "medium", "medium-dark", "dark")
    assert (glyphs.row >= 0).sum() == len(names) + 2


def test_all_names_and_keywords_are_words_of_the_captions(glyphs: Cutouts, things: Cutouts) -> None:
    """They are told though a sample of captions may lack some; digits have none that it lacks."""
    assert {"jack-o-lantern", "pumpkin", "halloween", "lazy", "woman astronaut"} <= set(glyphs.texts())
    assert set(glyphs.texts()) == {word for one in glyphs.names for word in (*one.names, *one.keywords)}
    assert set(things.texts()) == {name.names[0] for name in things.names}
    assert set(Scenes(glyphs).texts()) == set(glyphs.texts())
    assert not list(Scenes(Digits(small_digits())).texts())


def test_a_font_without_colours_is_refused(tmp_path, small_names) -> None:
    with pytest.raises(UserError, match="grey.ttf has no emoji in colour: give"):
        emoji.emoji_things.__wrapped__(build_font(tmp_path / "grey.ttf", coloured=False), 64)


def test_prompts_are_composed_where_something_is(glyphs: Cutouts, things: Cutouts) -> None:
    assert glyphs.kinds == ("seen", "unseen", "composed", "two")
    assert things.kinds == ("seen", "unseen", "two")
    toned = Cutouts(things.pixels[:3], things.names[:2], torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), ("", "dark"))
    assert toned.kinds == ("seen", "unseen", "two"), "the first thing is drawn in the first tone in training, too"


def test_captions_of_things_are_english(glyphs: Cutouts) -> None:
    scenes = Scenes(glyphs, held_out=True)
    _, told = scenes.draw_scenes(2000, seeded())
    captions = [scene.caption for scene in told]
    assert not [c for c in captions if re.search(r"\ba [aeio]|\ban [^aeiou]|  |^ | $| ,|,,|\ba (large|small)? ?$", c)]
    text = "\n".join(captions)
    for part in ("pumpkin", "halloween", "with dark skin", "dark skin tone", "an umbrella", "a sloth"):
        assert part in text
    for scene in told:
        for thing in scene.things:
            assert isinstance(thing, Named)
            known = (*thing.words_for.names, *thing.words_for.keywords)
            assert any(name in scene.caption for name in known)
            assert ("dark skin" in scene.caption) <= any("tone" in name for name in scene.named)
        sizes = re.findall(r"\b(small|little|large|big)\b", scene.caption)
        said = [{"little": "small", "big": "large"}.get(size, size) for size in sizes]
        named = [name for name in ("size", "second size") if name in scene.named]
        assert said == [scene.attributes[name] for name in named]
        assert {thing.size for thing in scene.things} <= {*SIZES}
        assert (scene.where in RELATIONS) == (len(scene.things) == 2)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (Names(("owl",)), "an owl"),
        (Names(("unicorn",)), "a unicorn"),
        (Names(("hourglass",)), "an hourglass"),
        (Names(("glasses",), counted=False), "glasses"),
    ],
)
def test_articles(names: Names, words: str) -> None:
    class First:
        def one(self, of):
            return of[0]

        def happens(self, probability):
            return False

    thing = Named(names.names[0], "small", "dark", names)
    assert thing.words((), First(), False, True) == words
    assert thing.words(("tone",), First(), False, True) == f"{words} with dark skin"
    assert thing.words(("size", "tone"), First(), True, True) == f"small {names.names[0]}, dark skin tone"


@pytest.mark.parametrize(
    ("name", "spoken", "counted"),
    [
        ("woman: blond hair", "woman with blond hair", True),
        ("man: bald", "bald man", True),
        ("person: beard", "person with a beard", True),
        ("woman’s boot", "woman's boot", True),
        ("french fries", "french fries", False),
        ("octopus", "octopus", True),
        ("person lifting weights", "person lifting weights", True),
        ("people hugging", "people hugging", False),
        ("glass of milk", "glass of milk", True),
        ("cooked rice", "cooked rice", False),
        ("books", "books", False),
        ("Mrs. Claus", "Mrs. Claus", False),
    ],
)
def test_how_unicodes_names_are_said(name: str, spoken: str, counted: bool) -> None:
    assert emoji._spoken(name) == spoken
    assert emoji._is_counted(spoken) == counted


def test_two_hundred_are_well_known() -> None:
    known = emoji._best_known()
    assert len(known) == 200
    names = [name for one, others in known.items() for name in (one, *others)]
    assert len(set(names)) == len(names)


def test_what_is_well_known_is_among_all() -> None:
    pytest.importorskip("picker")
    every = {one.names.names[0] for one in emoji.all_emoji()}
    assert {emoji._spoken(name) for name in emoji._best_known()} <= every
    assert len(emoji.best_known()) == 200


def test_a_font_and_names_that_are_missing_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(emoji, "PLACES", (str(tmp_path),))
    with pytest.raises(UserError, match=r"no colour font is found.*fonts-noto-color-emoji.*--data\.font"):
        emoji.find_font()
    with pytest.raises(UserError, match="there is no font elsewhere.ttf"):
        emoji.find_font("elsewhere.ttf")
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(b"no font")
    assert emoji.find_font() == tmp_path / "NotoColorEmoji.ttf"
    with pytest.raises(UserError, match="cannot be read as a font"):
        emoji.Glyphs(emoji.find_font())
    monkeypatch.setattr(emoji.resources, "files", lambda name: tmp_path)
    emoji.all_emoji.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'fromnoise\[emoji\]'"):
        emoji.all_emoji()
