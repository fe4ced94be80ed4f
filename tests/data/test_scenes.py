"""Scenes show what their captions say, keep some combinations for evaluation, and depend on their seed alone."""

import hashlib
import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from small_scenes import prompts, small_digits
from torch import Tensor

from fromnoise.data.captions import load_captioned
from fromnoise.data.digits import Digits
from fromnoise.data.images import Images, load_images
from fromnoise.data.resampling import ink_edges, resample
from fromnoise.data.scene_captions import COLOURS, DIGITS, RELATIONS, Scene
from fromnoise.data.scenes import Scenes, load_held_out, load_scenes
from fromnoise.data.things import RGB
from fromnoise.errors import UserError
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import DataConfig

COLOUR = "|".join(COLOURS)
NUMBERS = {*DIGITS, *"0123456789"}
SAME = {"little": "small", "big": "large", "upper": "top", "lower": "bottom", "center": "middle"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> Images:
    return small_digits()


@pytest.fixture(scope="module")
def scenes(digits: Images) -> Scenes:
    return Scenes(Digits(digits))


def said(caption: str) -> dict[str, list[str] | str]:
    """What a caption says, as its words and their order tell it."""
    words = [SAME.get(word, word) for word in re.findall(r"\w+", caption)]
    text = " ".join(words)
    grounds = re.findall(rf"(?:on|against) (?:an? )?({COLOUR})\b|({COLOUR}) background", text)
    ground = "".join(grounds[0]) if grounds else ""
    colours = [word for word in words if word in COLOURS]
    if ground and text.startswith(("on ", "against ")):
        colours.pop(0)
    elif ground:
        assert colours.pop() == ground
    relation = re.search("left of|right of|above|over|below|under", text)
    place = " ".join(word for word in words if word in ("top", "bottom", "left", "right", "middle"))
    where = {"over": "above", "under": "below"}.get(relation[0], relation[0]) if relation else place
    return {
        "digits": [str(DIGITS.index(word)) if word in DIGITS else word for word in words if word in NUMBERS],
        "sizes": [word for word in words if word in ("small", "large")],
        "colours": colours,
        "background": ground,
        "where": {"top middle": "top", "bottom middle": "bottom"}.get(where, where),
    }


def meant(scene: Scene) -> dict[str, list[str] | str]:
    """What is named, in the order of the digits."""

    def named(name: str) -> list[str]:
        keys = [f"{prefix}{name}" for prefix in ("", "second ")]
        return [str(scene.attributes[key]) for key in keys if key in scene.named]

    return {
        "digits": named("digit"),
        "sizes": named("size"),
        "colours": named("colour"),
        "background": scene.background if "background" in scene.named else "",
        "where": scene.where if {"place", "relation"} & scene.named else "",
    }


def test_captions_say_what_is_named_and_nothing_else(scenes: Scenes) -> None:
    _, drawn = scenes.draw_scenes(3000, seeded())
    for scene in drawn:
        assert said(scene.caption) == meant(scene), scene.caption
        assert not re.search(r"\ba (orange|eight|8)|\ban (?!orange|eight|8)|  |^ | $| ,|,,", scene.caption)
    for kind in (1, 2):
        these = [scene for scene in drawn if len(scene.things) == kind]
        assert 1400 < len(these) < 1600
        assert len({scene.caption for scene in these}) > 1200
        full = sum(scene.named == scene.attributes.keys() for scene in these)
        assert 0.5 < full / len(these) < 0.75
        for name in these[0].attributes:
            out = sum(name not in scene.named for scene in these) / len(these)
            assert out == 0 if "digit" in name else 0.1 < out < 0.2


def combinations(drawn: list[Scene]) -> set[tuple[int, str, str]]:
    return {(thing.digit, thing.colour, scene.background) for scene in drawn for thing in scene.things}


EVERY = {(digit, colour, ground) for digit, colour, ground in product(range(10), COLOURS, COLOURS) if colour != ground}


def test_training_never_draws_what_is_kept_for_evaluation(scenes: Scenes) -> None:
    unseen = combinations(prompts("unseen", 800, 1))
    assert len(unseen) == len(EVERY) / 10
    assert {(3, "red", "green"), (7, "blue", "green"), (0, "red", "black")} - unseen == {(0, "red", "black")}
    _, drawn = scenes.draw_scenes(20_000, seeded())
    assert combinations(drawn) == EVERY - unseen
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pairs = {(triple[one], triple[other]) for triple in EVERY}
        assert {(triple[one], triple[other]) for triple in EVERY - unseen} == pairs


def test_held_out_scenes_show_every_combination(digits: Images) -> None:
    _, drawn = Scenes(Digits(digits), held_out=True).draw_scenes(5000, seeded())
    assert combinations(drawn) == EVERY


def test_prompts_name_everything_and_are_of_the_kind_that_was_asked_for() -> None:
    unseen = combinations(prompts("unseen", 800, 1))
    for kind in ("seen", "unseen", "two"):
        asked = prompts(kind, 200, 3)
        assert asked == prompts(kind, 200, 3)
        assert asked != prompts(kind, 200, 4)
        assert all(scene.named == scene.attributes.keys() and said(scene.caption) == meant(scene) for scene in asked)
        assert {len(scene.things) for scene in asked} == {2 if kind == "two" else 1}
        assert combinations(asked) <= unseen if kind == "unseen" else not combinations(asked) & unseen
        assert {scene.where in RELATIONS for scene in asked} == {kind == "two"}


def test_a_seed_decides_everything(scenes: Scenes) -> None:
    drawn, captions = scenes.draw(torch.arange(20), seeded(5))
    same, same_captions = scenes.draw(torch.arange(100, 120), seeded(5))
    assert captions == same_captions
    assert all(torch.equal(drawn[name], same[name]) for name in drawn)
    others, other_captions = scenes.draw(torch.arange(20), seeded(6))
    assert captions != other_captions
    assert not torch.equal(drawn["cutouts"], others["cutouts"])


def digest(drawn: dict[str, Tensor]) -> str:
    together = hashlib.sha256()
    for name in sorted(drawn):
        together.update(drawn[name].contiguous().numpy().tobytes())
    return together.hexdigest()[:16]


def test_the_scenes_of_a_seed_have_the_bits_that_models_were_trained_on(digits: Images) -> None:
    """Noted when the model that ships was trained: another order of the draws would change its losses."""
    train = Scenes(Digits(load_images("digits", "train", channels=1, size=8, labelled=True)))
    held_out = Scenes(Digits(digits), held_out=True)
    noted = {
        (train, 0): ("b361e9bdb2c54ebb", "52d4c4726e89e9c9", -27992.1115),
        (train, 5): ("688219f068154479", "33366dccbaf0fe37", 28543.0514),
        (held_out, 0): ("c5db815fad4af023", "ffa42d3ddbef0618", -28598.2765),
        (held_out, 5): ("01debd6192df4aab", "7a95651745b3b348", 22237.8457),
    }
    for (scenes, seed), (of_drawn, of_captions, total) in noted.items():
        drawn, captions = scenes.draw(torch.arange(200), seeded(seed))
        assert digest(drawn) == of_drawn
        assert hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16] == of_captions
        assert scenes.images(drawn).double().sum().item() == pytest.approx(total, abs=0.1)
    assert DataRecord.of_captioned(train) == DataRecord(0, 1415253912, 2457050032, None)
    asked = [scene for kind in Digits.kinds for scene in train.prompts(kind, 50, 3)]
    assert hashlib.sha256("\n".join(scene.caption for scene in asked).encode()).hexdigest()[:16] == "05f01fbe9b97bc89"
    assert digest(train.paint(asked, seeded(1))) == "f268f788032878ad"


def test_pictures_have_the_colours_and_sizes_that_are_drawn(scenes: Scenes) -> None:
    drawn, described = scenes.draw_scenes(60, seeded())
    images = scenes.images(drawn)
    assert images.shape == (60, 3, 64, 64)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    for image, scene, inked, to in zip(images, described, drawn["cutouts"], drawn["to"], strict=True):
        pixels = (image + 1) * 127.5
        ground = RGB[COLOURS.index(scene.background)][:, None, None]
        assert (pixels[:, ::63, ::63] - ground).abs().max() <= 11
        far = (pixels - ground).norm(dim=0) > 50  # (64, 64)
        rows, columns = far.any(1), far.any(0)
        assert inked.flatten(1).any(1).tolist() == [True, len(scene.things) == 2]
        if len(scene.things) == 1:
            low, high = {"small": (15, 22), "large": (24, 33)}[scene.things[0].size]
            assert low <= rows.sum() <= high
            assert columns.sum() <= 27
        else:
            along = columns if scene.where in ("left of", "right of") else rows
            (first_row, first_column), (second_row, second_column) = to.tolist()
            offset = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}[scene.where]
            assert (round((first_row - second_row) / 40), round((first_column - second_column) / 40)) == offset
            parted = along.int().diff().abs().sum() >= 3
            assert parted, scene


def test_a_picture_depends_neither_on_its_neighbours_nor_on_how_memory_lies(scenes: Scenes) -> None:
    drawn, _ = scenes.draw(torch.arange(12), seeded(1))
    images = scenes.images(drawn)
    alone = torch.cat([scenes.images({name: value[i : i + 1] for name, value in drawn.items()}) for i in range(12)])
    strided = {name: value.movedim(0, -1).contiguous().movedim(-1, 0) for name, value in drawn.items()}
    torch.testing.assert_close(alone, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(scenes.images(strided), images, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(scenes.images(drawn), images, rtol=0, atol=1e-5)


def test_lengths_grow_with_the_picture(digits: Images, scenes: Scenes) -> None:
    drawn, captions = scenes.draw(torch.arange(8), seeded(2))
    large = Scenes(Digits(digits), size=128)
    larger, same = large.draw(torch.arange(8), seeded(2))
    assert captions == same
    halved = torch.nn.functional.avg_pool2d(large.images(larger), 2)
    assert (halved - scenes.images(drawn)).abs().mean() < 0.01


def test_ink_is_measured_between_pixels() -> None:
    ink = torch.zeros(1, 8, 8)
    ink[0, 2:5, 3] = 1
    ink[0, 5, 3] = 0.5
    rows, columns = ink_edges(ink, 0.5)[0].tolist()
    assert rows == pytest.approx([2, 5.5])  # half of full ink lies at a pixel's edge, and in the middle of the last one
    assert columns == pytest.approx([3, 4])


def placed(image: Tensor, zoom: float, source: tuple[float, float], target: tuple[float, float], size: int) -> Tensor:
    return resample(image[None], torch.full((1, 2), zoom), torch.tensor([source]), torch.tensor([target]), size)[0]


def test_resampling_moves_enlarges_and_averages() -> None:
    image = torch.rand(6, 4, generator=seeded())
    torch.testing.assert_close(placed(image, 1, (0, 0), (1, 2), 8)[1:7, 2:6], image)
    double = placed(image, 2, (3, 2), (6, 4), 12)[:, :8]
    expected = torch.nn.functional.interpolate(image[None, None], scale_factor=2, mode="bilinear")[0, 0]
    torch.testing.assert_close(double[1:-1, 1:-1], expected[1:-1, 1:-1])
    half = placed(torch.ones(16, 16), 0.5, (8, 8), (4, 4), 8)
    torch.testing.assert_close(half[1:-1, 1:-1], torch.ones(6, 6))
    assert placed(torch.eye(16), 0.5, (8, 8), (4, 4), 8).sum() == pytest.approx(16 / 4, abs=0.3)


def test_digits_that_make_no_scenes_are_refused(digits: Images) -> None:
    assert digits.labels is not None
    for wrong in (replace(digits, labels=None), replace(digits, class_names=("a", "b"))):
        with pytest.raises(UserError, match=r"--data\.digits"):
            Digits(wrong)
    some = digits.labels != 4
    with pytest.raises(UserError, match="no 4"):
        Digits(replace(digits, pixels=digits.pixels[some], labels=digits.labels[some]))


def test_scenes_are_loaded_by_name_with_other_digits_held_out() -> None:
    config = DataConfig(source="scenes", digits="digits", size=64, channels=3)
    train, held_out = load_captioned(config, config.source)
    assert isinstance(train, Scenes)
    assert isinstance(held_out, Scenes)
    assert (train.size, train.rows, train.held_out, held_out.held_out) == (64, None, False, True)
    assert (len(train.things.pixels), len(held_out.things.pixels)) == (1500, 297)


def test_given_scenes_are_painted(scenes: Scenes, digits: Images) -> None:
    """What is painted is what was asked for: digits, colours, sizes, places and relations, of one digit and of two."""
    asked = [*prompts("seen", 20, seed=1), *prompts("two", 20, seed=2)]
    drawn = scenes.paint(asked, seeded())
    rows = {pixels.numpy().tobytes(): int(label) for pixels, label in zip(digits.pixels, digits.labels, strict=True)}
    nearest = (255 / 2 * (drawn["colours"] + 1))[:, :, None].sub(RGB).norm(dim=3).argmin(2)  # (B, 3)
    for i, scene in enumerate(asked):
        (row, column), (second_row, second_column) = drawn["to"][i].tolist()
        heights = (drawn["zoom"][i, :, 0] * _ink_heights(drawn["cutouts"][i, :, 0])).tolist()
        for j, thing in enumerate(scene.things):
            assert rows[drawn["cutouts"][i, j].numpy().tobytes()] == thing.digit
            assert COLOURS[nearest[i, j]] == thing.colour
            assert (heights[j] > 23) == (thing.size == "large")
        assert COLOURS[nearest[i, 2]] == scene.background
        if len(scene.things) == 1:
            assert not drawn["cutouts"][i, 1].any()
            words = [("top", "middle", "bottom")[int(row / 22)], ("left", "middle", "right")[int(column / 22)]]
            assert scene.where == " ".join(word for word in words if word != "middle") or words == ["middle", "middle"]
        else:
            along = row - second_row if scene.where in ("above", "below") else column - second_column
            assert (along < 0) == (scene.where in ("above", "left of")) and abs(along) > 20


def _ink_heights(digits: Tensor) -> Tensor:
    """The heights ``(2,)`` of the ink of two digits ``(2, h, w)``, in their own pixels."""
    edges = ink_edges(digits, 0.4 * 255)[:, 0]
    return edges[:, 1] - edges[:, 0]


def test_painting_depends_on_the_generator_alone(scenes: Scenes) -> None:
    asked = prompts("two", 4, seed=0)
    first, again, other = (scenes.images(scenes.paint(asked, seeded(seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_held_out_scenes_alone_are_those_of_both() -> None:
    config = DataConfig(source="scenes", digits="digits", channels=3, size=64)
    both, alone = load_scenes(config)[1], load_held_out(config)
    assert alone.held_out and alone.size == both.size == 64
    assert torch.equal(alone.things.pixels, both.things.pixels)


def test_a_copy_of_the_digits_is_given_by_their_own_option(monkeypatch):
    def unreachable(*args, **options):
        raise UserError("cannot reach the hub for ylecun/mnist: connect, or pass --data DIR with a local copy")

    monkeypatch.setattr("fromnoise.data.scenes.load_images", unreachable)
    with pytest.raises(UserError, match=r"connect, or pass --data\.digits DIR with a local copy"):
        load_scenes(DataConfig(source="scenes"))
