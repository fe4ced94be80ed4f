"""What a model of scenes is measured by: true scenes score what the reader makes of them, and wrong ones nothing."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_scenes import prompts

from fromnoise.data.cutouts import Named
from fromnoise.data.digits import Digits
from fromnoise.data.scene_captions import Scene
from fromnoise.evaluate.prompts import (
    KINDS,
    Asked,
    measure_clip,
    measure_prompts,
    measure_reconstruction,
    measure_sharpness,
)
from fromnoise.evaluate.scene_reader import EVERYTHING
from fromnoise.evaluate.true_scenes import TrueScenes
from fromnoise.models.space import Pixels
from fromnoise.train.config import DataConfig

CPU = torch.device("cpu")
N = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Scenes of 64 pixels, of scikit-learn's digits."""
    return TrueScenes(
        DataConfig(source="scenes", digits="digits", channels=3, size=64), tmp_path_factory.mktemp("none")
    )


@pytest.fixture(scope="module")
def sets(source):
    """Some scenes of each kind, drawn as they are."""
    asked = {kind: prompts(kind, N, seed=3) for kind in Digits.kinds}
    return {kind: Asked(scenes, *[source.painted(scenes, 0)] * 2) for kind, scenes in asked.items()}


def without_digits(figures):
    return {name: value for name, value in figures.items() if not name.endswith("digit")}


def test_true_scenes_score_the_readers_own_figure(source, sets):
    measured = measure_prompts(source.read, sets)
    assert list(measured) == ["prompts_seen", "prompts_unseen", "prompts_two"]
    for kind, found in zip(Digits.kinds, measured.values(), strict=True):
        true = found.details["true"]
        assert found.value == true["together"] > 0.5
        assert found.details["attributes"] == true["attributes"]
        assert set(without_digits(true["attributes"]).values()) == {1}
        assert found.details["standard_error"] == pytest.approx(math.sqrt(found.value * (1 - found.value) / N))
        assert (
            f"of {N} {KINDS[kind].format(noun='digit')}" in found.meaning
            and f"of true scenes {found.value:.2%}" in found.meaning
        )
    assert {"place"} < set(measured["prompts_seen"].details["attributes"])
    assert {"relation", "second digit"} < set(measured["prompts_two"].details["attributes"])


def test_wrong_colours_score_nothing(source, sets):
    """All else is still right."""
    asked = sets["seen"]
    swapped = [
        replace(scene, background=scene.things[0].colour, things=(replace(scene.things[0], colour=scene.background),))
        for scene in asked.scenes
    ]
    found = measure_prompts(source.read, {"seen": replace(asked, drawn=source.painted(swapped, 0))})["prompts_seen"]
    attributes = found.details["attributes"]
    assert (found.value, attributes["colour"], attributes["background"]) == (0, 0, 0)
    assert attributes["place"] == attributes["size"] == 1
    assert found.details["true"]["together"] > 0.5


def test_only_all_together_counts():
    """A picture in four has something wrong, each time something else; one attribute is named by half of them."""
    answers = [
        {"digit": True, "colour": True, EVERYTHING: True},
        {"digit": False, EVERYTHING: False},
        {"digit": True, "colour": False, EVERYTHING: False},
        {"digit": True, EVERYTHING: True},
    ]
    scenes, nothing = prompts("seen", 4, seed=0), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    found = measure_prompts(lambda pixels, asked: answers, {"unseen": Asked(scenes, nothing, nothing)})
    details = found["prompts_unseen"].details
    assert found["prompts_unseen"].value == 0.5
    assert details["attributes"] == {"digit": 0.75, "colour": 0.5}
    assert details["standard_error"] == 0.25


def blurred(pixels):
    """Each pixel becomes the mean of the nine around it."""
    padded = F.pad(pixels.float(), (1, 1, 1, 1), "replicate")
    return F.avg_pool2d(padded, 3, stride=1).round().to(torch.uint8)


def test_the_same_pictures_are_as_sharp_and_blurred_ones_are_not(sets):
    same = measure_sharpness(sets)
    assert list(same) == ["sharpness"]
    assert same["sharpness"].value == 1
    assert same["sharpness"].details["images"] == len(Digits.kinds) * N
    soft = {kind: replace(asked, drawn=blurred(asked.true)) for kind, asked in sets.items()}
    softer = {kind: replace(asked, drawn=blurred(asked.drawn)) for kind, asked in soft.items()}
    assert 0 < measure_sharpness(softer)["sharpness"].value < measure_sharpness(soft)["sharpness"].value < 0.7
    assert measure_sharpness({"seen": soft["seen"], "two": sets["two"]})["sharpness"].value > 0.6, (
        "of all sets together"
    )
    swapped = {kind: Asked(asked.scenes, asked.drawn, asked.true) for kind, asked in soft.items()}
    assert measure_sharpness(swapped)["sharpness"].value > 1 / 0.7


def test_other_true_pictures_of_the_same_scenes_are_about_as_sharp(source):
    """Digits, places, lengths and colours are drawn anew, within what the scenes say of them."""
    scenes = prompts("seen", 150, seed=3)
    found = measure_sharpness({"seen": Asked(scenes, source.painted(scenes, 0), source.painted(scenes, 1))})[
        "sharpness"
    ]
    assert 0 < abs(found.value - 1) < 3 * found.details["standard_error"] < 0.2


def test_a_step_that_is_spread_over_pixels_is_so_much_less_sharp():
    """Over five of them: five differences of a fifth have a fifth of the square. The error is that of a ratio."""
    step, ramp, low = torch.zeros(3, 1, 3, 8, 10, dtype=torch.uint8)
    step[..., 5:], low[..., 5:] = 255, 51
    ramp[..., 2:] = torch.tensor([51, 102, 153, 204, 255, 255, 255, 255], dtype=torch.uint8)
    scenes = prompts("seen", 2, seed=0)
    two = Asked(scenes, torch.cat([step, step]), torch.cat([ramp, ramp]))
    found = measure_sharpness({"seen": two, "two": two})["sharpness"]
    assert (found.value, found.details["standard_error"]) == (pytest.approx(0.2, 1e-5), pytest.approx(0, abs=1e-6))
    assert found.details["images"] == 4 and found.meaning.startswith("0.200 +- 0.000")
    uneven = measure_sharpness({"seen": replace(two, drawn=torch.cat([step, low]))})["sharpness"]
    assert (uneven.value, uneven.details["standard_error"]) == (pytest.approx(0.52, 1e-5), pytest.approx(0.48, 1e-5))
    tilted = Asked(scenes, step.mT.expand(2, -1, -1, -1), ramp.mT.expand(2, -1, -1, -1))
    assert measure_sharpness({"seen": tilted})["sharpness"].value == pytest.approx(0.2, 1e-5), "in both directions"


class Changing(Pixels):
    """A space whose decoder changes the pictures in [-1, 1]."""

    def __init__(self, change):
        super().__init__((3, 64, 64))
        object.__setattr__(self, "decode", change)


def test_reconstructions_are_read(source):
    pixels, scenes = source.random(N, seed=1)
    assert {len(scene.things) for scene in scenes} == {1, 2}
    exact = measure_reconstruction(source.read, Changing(lambda x: x), CPU, pixels, scenes)
    assert list(exact) == ["reconstruction", "psnr"]
    assert exact["reconstruction"].value == 1
    read = source.read(pixels, scenes)
    digits = [found[name] for found in read for name in found if name.endswith("digit")]
    assert N < exact["reconstruction"].details["digits"] == sum(digits) <= len(digits)

    white = measure_reconstruction(source.read, Changing(torch.ones_like), CPU, pixels, scenes)
    assert white["reconstruction"].value == 0
    grey = Changing(lambda x: torch.where(x > 0, x - 20 / 255, x + 20 / 255))
    assert measure_reconstruction(source.read, grey, CPU, pixels, scenes)["psnr"].value == pytest.approx(
        20 * math.log10(25.5), abs=0.01
    )


def test_reconstructions_of_what_is_not_read_do_not_count():
    """Of five digits four are read right in the original, and one of them is lost; another comes out of nothing."""
    before = [
        {"digit": True, "size": False},
        {"digit": True, "second digit": True},
        {"digit": False, "second digit": True},
    ]
    after = [
        {"digit": True, "size": False},
        {"digit": False, "second digit": True},
        {"digit": True, "second digit": True},
    ]
    answers = iter([before, after])
    nothing = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    found = measure_reconstruction(
        lambda pixels, scenes: next(answers), Changing(lambda x: x), CPU, nothing, prompts("seen", 3, seed=0)
    )["reconstruction"]
    assert (found.value, found.details["digits"]) == (0.75, 4)


def test_only_things_count_in_reconstructions_of_things():
    """Three are read right before, and one of them after; that everything is right is not another thing."""
    before = [{"thing": True, "tone": True, EVERYTHING: True}, {"thing": True, "second thing": True, EVERYTHING: True}]
    after = [{"thing": True, "tone": False, EVERYTHING: False}, dict.fromkeys(before[1], False)]
    answers, nothing = iter([before, after]), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    scenes = [Scene((Named("owl", "large"),), "top", "red")] * 2
    space = Changing(lambda x: x)
    found = measure_reconstruction(lambda pixels, scenes: next(answers), space, CPU, nothing, scenes)["reconstruction"]
    assert (found.value, found.details["things"]) == (pytest.approx(1 / 3), 3)
    assert found.meaning.startswith("33.33% +- 27.22% of the 3 things that are read right in 2 true scenes")


def test_the_score_of_clip():
    """Each caption points another way; true pictures point there, too, and drawn ones halfway to the next axis."""
    ways = torch.eye(8)

    def embed(pixels, captions):
        return pixels[:, :, 0, 0].float(), ways[[names.index(caption) for caption in captions]]

    scenes = prompts("seen", 8, seed=0)
    names = [scene.caption for scene in scenes]
    true, drawn = ways[..., None, None], (ways + ways.roll(1, 0))[..., None, None]
    parts = {"seen": slice(0, 3), "two": slice(3, 8)}
    found = measure_clip(embed, {kind: Asked(scenes[p], true[p], drawn[p]) for kind, p in parts.items()})["clip"]
    assert found.value == pytest.approx(100 / math.sqrt(2))
    assert found.details["true"] == pytest.approx(100)
    assert found.details["shuffled"] == pytest.approx(0)
    assert found.details["images"] == 8
    assert found.details["kinds"]["two"] == pytest.approx({"drawn": 100 / math.sqrt(2), "true": 100, "shuffled": 0})
