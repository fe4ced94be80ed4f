"""Things in scenes are told by a classifier that is trained for them; all else is measured on the pixels."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from runs import BRIEF, assert_same_run
from small_things import draw_cutouts
from test_true_scenes import save_pipeline, save_untrained_clip

from fromnoise.cli import main
from fromnoise.data.cutouts import Cutouts, Named, load_folder
from fromnoise.data.images import to_pixels
from fromnoise.data.scene_captions import Scene
from fromnoise.data.scenes import Scenes
from fromnoise.errors import UserError
from fromnoise.evaluate import cutout_reader
from fromnoise.evaluate.cutout_reader import FILE, CutoutReader, classifier_of, open_cutout_reader, vocabulary_of
from fromnoise.evaluate.scene_reader import EVERYTHING, OPPOSITE, matches, read_scenes
from fromnoise.train.config import DataConfig, TrainingConfig, dump_config
from fromnoise.train.run import train
from fromnoise.train.tasks import reader
from fromnoise.train.tasks.reader import ReaderTask


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    return draw_cutouts(tmp_path_factory.mktemp("things") / "cutouts")


@pytest.fixture(scope="module")
def things(cutouts) -> Cutouts:
    return load_folder(cutouts, 64)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """A network that learns in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutout_reader, "WIDTHS", (8, 16))
        yield


@pytest.fixture(scope="module")
def run(cutouts, tmp_path_factory):
    data = DataConfig(source="scenes", things=str(cutouts), channels=3, size=64)
    config = TrainingConfig(name="reader", task="reader", data=data).override(
        {"train.steps": 200, "train.batch_size": 32, "train.learning_rate": 2e-2, "train.ema_decay": 0.9}
        | {"train.warmup_steps": 10, "train.device": "cpu", "train.dtype": "fp32", "train.compile": "no"}
    )
    return train(config, tmp_path_factory.mktemp("reader") / "run")


def normal(scene: Scene) -> Scene:
    """The left or upper one of two things first, as it is read."""
    swapped = scene.where in ("right of", "below")
    where, things = (OPPOSITE[scene.where], scene.things[::-1]) if swapped else (scene.where, scene.things)
    return Scene(things, where, scene.background)


def test_a_trained_reader_reads_true_scenes(run, things) -> None:
    opened = open_cutout_reader(things, run)
    drawn, told = Scenes(things, held_out=True).draw_scenes(150, torch.Generator().manual_seed(3))
    right = []
    for scene, seen in zip(told, read_scenes(to_pixels(Scenes(things).images(drawn)), opened), strict=True):
        scene = normal(scene)
        assert (seen.where, seen.background) == (scene.where, scene.background)
        assert [thing.size for thing in seen.things] == [thing.size for thing in scene.things]
        right += [a == b for a, b in zip(seen.things, scene.things, strict=True)]
    assert sum(right) > 0.9 * len(right)
    assert float((run / "README.md").read_text().split("things in new scenes read right: ")[1].split("%")[0]) > 90


def test_a_step_needs_nothing_from_another_device(cutouts, monkeypatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    data = DataConfig(source="scenes", things=str(cutouts), channels=3, size=64)
    task = ReaderTask(TrainingConfig(task="reader", data=data), "scenes")
    batch = {name: values.to("meta") for name, values in task.batch(torch.arange(4), 0, 0).items()}
    assert task.loss(task.network.to("meta"), batch).shape == (4,)
    with pytest.raises(UserError, match=r"give data\.things"):
        ReaderTask(TrainingConfig(task="reader", data=DataConfig(source="scenes", digits="digits")), "scenes")


def test_a_run_that_was_stopped_ends_with_the_same_bits(cutouts, tmp_path) -> None:
    data = DataConfig(source="scenes", things=str(cutouts), channels=3, size=64)
    config = TrainingConfig(name="reader", task="reader", data=data)
    config = config.override({f"train.{key}": value for key, value in BRIEF.items()})
    whole = train(config, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    (stopped / "README.md").unlink()
    shutil.rmtree(stopped / "checkpoints/step-00000004")
    assert_same_run(train(config, stopped, resume=True), whole)


def test_what_is_wrong_is_noticed() -> None:
    asked = Scene((Named("owl", "large", "dark"),), "top", "red")
    asked = replace(asked, named=frozenset(asked.attributes))
    assert matches(asked, asked)[EVERYTHING]
    for wrong in ({"thing": "cat"}, {"size": "small"}, {"tone": "light"}, {"tone": ""}):
        seen = replace(asked, things=(replace(asked.things[0], **wrong),))
        assert {name for name, ok in matches(asked, seen).items() if not ok} == {*wrong, EVERYTHING}


def test_a_look_that_a_thing_has_not_is_never_read(things) -> None:
    pixels = things.pixels[:3]
    toned = Cutouts(pixels, things.names[:2], torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), ("", "dark"))
    logits = torch.tensor([[1.0, 0, 0, 9], [0, 1, 0, 9], [0, 1, 9, 0]])
    numbers, looks = cutout_reader.read_logits(toned, logits)
    assert (numbers.tolist(), looks.tolist()) == ([0, 1, 1], [1, 0, 0])


def test_looks_are_judged_where_there_are_several(things, cutouts, monkeypatch) -> None:
    """By a network that knows nothing and says the first look of everything."""

    class Same(torch.nn.Linear):
        def forward(self, seen):
            return torch.zeros(len(seen), 14)

    config = TrainingConfig(task="reader", data=DataConfig(source="scenes", things=str(cutouts), channels=3, size=64))
    assert "look_accuracy" not in ReaderTask(config, "scenes").validate(Same(1, 1))
    numbers = torch.tensor([0, *range(12)])
    looks = torch.tensor([1, *[0] * 12])
    toned = Cutouts(things.pixels[numbers], things.names, numbers, looks, ("", "dark"))
    monkeypatch.setattr(reader, "load_things", lambda config: toned)
    assert 0.2 < ReaderTask(config, "scenes").validate(Same(1, 1))["look_accuracy"] < 0.8


def test_pictures_without_things_are_read(things) -> None:
    untrained = CutoutReader(things, classifier_of(things).eval())
    empty = torch.full((1, 3, 64, 64), 10, dtype=torch.uint8)
    assert read_scenes(empty, untrained) == [Scene((), "", "black")]


def test_a_classifier_that_is_missing_or_of_other_things(run, things, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    how = r"fromnoise train emoji-classifier makes one, with the model's --data\.things and --data\.font"
    with pytest.raises(UserError, match=f"there is none in runs/emoji-classifier, and no .*: {how}"):
        open_cutout_reader(things, tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"holds no classifier: {how}"):
        open_cutout_reader(things, tmp_path)
    fewer = Cutouts(things.pixels[:5], things.names[:5])
    with pytest.raises(UserError, match=f"knows other things than the model's scenes: {how}"):
        open_cutout_reader(fewer, run)


def test_a_model_of_things_is_evaluated(cutouts, tmp_path, capsys) -> None:
    """By the same command and metrics as one of digits."""
    folder = save_pipeline(tmp_path / "sd")
    data = DataConfig(source="scenes", things=str(cutouts), channels=3, size=32)
    (folder / "training.toml").write_text(dump_config(TrainingConfig(name="mini", data=data)))
    save_untrained_clip(tmp_path / "parts")
    (tmp_path / "parts/clip").rename(folder / "clip")
    things = load_folder(cutouts, 32)
    safetensors.torch.save_file(classifier_of(things).state_dict(), folder / FILE, {"things": vocabulary_of(things)})
    out = tmp_path / "figures.json"
    words = ["evaluate", str(folder), "--metrics", "prompts,sharpness,reconstruction,clip", "--n", "2", "--steps", "1"]
    assert main([*words, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record["metrics"]) == [
        "prompts_seen",
        "prompts_unseen",
        "prompts_two",
        "sharpness",
        "reconstruction",
        "psnr",
        "clip",
    ]
    assert {"thing", "size", "place", "background"} < set(record["metrics"]["prompts_seen"]["details"]["attributes"])
    assert record["reference"]["size"] == 12 and record["reference"]["name"] == "cutouts"
    assert "prompts for one thing" in capsys.readouterr().out
