"""The figure of the nearest training picture: what is cut out, what training showed, and what is nearest."""

import json

import pytest
import torch
from PIL import Image
from small_things import draw_cutouts

from bridge import BOOK
from figures import nearest_emoji
from fromnoise.data.cutouts import Cutouts, is_composed, is_unseen, load_folder
from fromnoise.data.scene_captions import COLOURS
from fromnoise.data.scenes import Scenes
from fromnoise.data.things import RGB

FIGURES = BOOK / "figures"
PLACE, LENGTH = torch.tensor([30.0, 28.0]), torch.tensor(30.0)


@pytest.fixture
def things(tmp_path):
    """Twelve things in three looks: as they are, upside down, and turned by half."""
    plain = load_folder(draw_cutouts(tmp_path / "cutouts"), 64)
    pixels = torch.cat([plain.pixels, plain.pixels.flip(2), plain.pixels.flip(3) // 2])
    looks = torch.arange(3).repeat_interleave(12)
    return Cutouts(pixels, plain.names, torch.arange(12).repeat(3), looks, ("", "light", "dark"))


def test_a_thing_is_cut_out_wherever_it_is(things):
    rows, white = torch.tensor([0, 1]), RGB[COLOURS.index("white")]
    small = nearest_emoji.painted_like(things, rows, white, torch.tensor([20.0, 22.0]), torch.tensor(20.0))
    large = nearest_emoji.painted_like(things, rows, white, torch.tensor([40.0, 30.0]), torch.tensor(32.0))
    small, large = nearest_emoji.cut_out(small), nearest_emoji.cut_out(large)
    assert (small.centre - torch.tensor([20.0, 22.0])).abs().max() < 1
    assert (large.length - 32).abs().max() < 2
    assert torch.equal(small.background, white.expand(2, 3))
    first, second = (nearest_emoji.distances(small.images[i], large.images) for i in range(2))  # (2,) each
    assert first[0] < first[1] / 2 and second[1] < second[0] / 2


def test_a_picture_without_a_thing_is_refused():
    with pytest.raises(ValueError, match="nothing but a background"):
        nearest_emoji.cut_out(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_what_training_showed_has_all_that_it_draws_and_nothing_that_was_kept_out(things):
    _, scenes = Scenes(things).draw_scenes(4000, torch.Generator().manual_seed(0))
    for background, colour in enumerate(COLOURS):
        shown = set(nearest_emoji.shown_on(things, background).tolist())
        told = {things.numbers(thing) for scene in scenes if scene.background == colour for thing in scene.things}
        assert shown == {int(things.row[numbers]) for numbers in told}
        for number, look in told:
            assert not is_unseen(torch.tensor(number), torch.tensor(background))
            assert not is_composed(torch.tensor(number), torch.tensor(look))


def test_what_is_drawn_as_asked_is_nearest_to_that_and_a_copy_is_nearest_to_what_it_copies(things, monkeypatch):
    monkeypatch.setattr(nearest_emoji, "FEW", 1)
    scene = Scenes(things, held_out=True).prompts("composed", 1, seed=0)[0]
    background = COLOURS.index(scene.background)
    asked = things.row[things.numbers(scene.things[0])]
    copied = nearest_emoji.shown_on(things, background)[2]
    pictures = nearest_emoji.painted_like(things, torch.stack([asked, copied]), RGB[background], PLACE, LENGTH)
    parts = nearest_emoji.cut_out(pictures)
    as_asked, copy = (nearest_emoji.compare(things, scene, parts, place) for place in range(2))
    assert as_asked.to_asked < 3 < as_asked.to_other
    assert copy.to_other < 3 < copy.to_asked
    (number,), _ = (things.row == copied).nonzero(as_tuple=True)
    assert copy.name.startswith(things.names[int(number)].names[0])


def test_the_figure_and_its_numbers_belong_together():
    told = json.loads((FIGURES / "nearest-emoji.json").read_text(encoding="utf-8"))
    assert {kind: found["prompts"] for kind, found in told["kinds"].items()} == nearest_emoji.PROMPTS
    assert len(told["columns"]) == sum(nearest_emoji.COLUMNS.values())
    for kind in told["kinds"].values():
        assert 0 <= kind["nearer_to_asked"] <= kind["prompts"]
    with Image.open(FIGURES / "nearest-emoji.png") as figure:
        assert figure.width > figure.height > 400
    assert (FIGURES / "nearest-emoji.png").stat().st_size < 200_000
