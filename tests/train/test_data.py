"""Other data than the preset's: what is trained on is what is recorded, named and compared with."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY

from fromnoise.errors import UserError
from fromnoise.evaluate.reference import reference_of
from fromnoise.models import open_model
from fromnoise.models.conditioning import Classes
from fromnoise.models.space import Pixels
from fromnoise.train.config import load_config
from fromnoise.train.run import train
from fromnoise.train.tasks.classifier import ClassifierTask
from fromnoise.train.tasks.denoising import NOISE_BANDS, DenoisingTask

QUICK = {"train.steps": 2, "train.device": "cpu", "train.dtype": "fp32", "train.compile": "no"}
QUICK |= {"network.channels": (16, 16), "network.head_dim": 8, "network.layers_per_block": 1}
QUICK |= {"train.validate_every": 2, "train.preview_every": 9, "train.checkpoint_every": 2}


def pictures(folder, counts, size=(8, 8)):
    """So many images of noise in each subfolder."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, size[::-1], np.uint8)).save(folder / name / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize("held_out", [1, 2, 3, 4, 5])
def test_few_held_out_images_have_a_loss(tmp_path, held_out):
    source = pictures(tmp_path, {"train": 3, "test": held_out})
    task = DenoisingTask(load_config(str(TINY)).override({"data.conditional": False}), source)
    found = task.validate(task.network.eval())
    assert len(found["validation_loss_by_noise"]) == NOISE_BANDS
    assert all(map(math.isfinite, [found["validation_loss"], *found["validation_loss_by_noise"]]))


def test_a_class_among_the_held_out_images_alone(tmp_path, capfd):
    source = pictures(tmp_path, {"train/cat": 3, "train/dog": 3, "test/bird": 2, "test/dog": 1})
    task = DenoisingTask(load_config(str(TINY)), source)
    assert task.data.class_names == ("bird", "cat", "dog") and task.data.images.labels.unique().tolist() == [1, 2]
    assert math.isfinite(task.validate(task.network.eval())["validation_loss"])
    assert "class bird has no image to train on\n" in capfd.readouterr().err


def test_other_data_is_recorded_named_and_compared_with(tmp_path, monkeypatch):
    pictures(tmp_path / "birds", {"kite": 12, "owl": 12}, (12, 9))
    monkeypatch.chdir(tmp_path)
    run = train(load_config("digits").override(QUICK), tmp_path / "run", data="birds")
    card, recorded = (run / "README.md").read_text(), load_config(str(run / "training.toml"))
    assert "- data: birds, 23 images of 8x8\n" in card
    assert "- classes: kite, owl, and none\n" in card
    assert "- licence of the data: not stated\n" in card
    assert (
        "- changed to fit: 23 of 23 images resized, the shorter side to 8 pixels, and cropped to the middle\n" in card
    )
    assert not any(word in card + (run / "training.toml").read_text() for word in ("Alpaydin", "Tiny", "in a minute"))
    assert recorded.expect == {}
    monkeypatch.chdir(tmp_path / "run")
    reference = reference_of(open_model(run), str(run))
    assert reference.name == "birds" and len(reference.images) == 1
    resumed = train(recorded.override({"train.steps": 2}), run, resume=True)
    assert (resumed / "README.md").read_text().count("birds") == card.count("birds")


def test_what_is_said_of_data_goes_with_it(tmp_path, monkeypatch):
    preset = load_config("mnist")
    (tmp_path / "ylecun" / "mnist").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for copy in ("ylecun/mnist", str(tmp_path / "ylecun" / "mnist")):
        assert preset.trained_on(copy) == preset
    (tmp_path / "scenes").mkdir()
    for own in ("scenes", "digits"):  # no hub id, of which a folder of the name could be a copy
        (tmp_path / own).mkdir(exist_ok=True)
        other = load_config("mini-sd-clip" if own == "scenes" else "digits").trained_on(f"./{own}")
        assert (other.data.source, other.data.licence, other.expect) == (str(tmp_path / own), "", {})
        assert load_config("mini-sd-clip").trained_on(own).data.source == own
    assert preset.override({"data.source": "a/b"}).data.licence == ""
    assert preset.trained_on("a/b").override({"data.licence": "mine"}).data.licence == "mine"
    assert preset.override({"train.steps": 5}).data == preset.data
    assert preset.trained_on("~nobody-is-called-so/x").data.source == "~nobody-is-called-so/x"
    for nothing in ("", " ", "\udcff"):
        with pytest.raises(UserError, match="--data is empty, or no UTF-8"):
            preset.trained_on(nothing)


def test_classes_are_compared_by_name(tmp_path):
    """Of the same images: the model's numbers, whatever the order of its names."""
    source = pictures(tmp_path / "data", {f"{split}/{name}": 4 for split in ("train", "test") for name in ("a", "b")})
    (tmp_path / "training.toml").write_text(f"[data]\nsource = {source!r}\nsize = 8\n")

    def images(*names):
        model = SimpleNamespace(space=Pixels((1, 8, 8)), conditioner=Classes(names))
        return reference_of(model, str(tmp_path)).images

    theirs, mapped = images("a", "b"), images("x", "b", "a")
    assert torch.equal(mapped.pixels, theirs.pixels) and torch.equal(mapped.labels, 2 - theirs.labels)
    with pytest.raises(UserError, match="there is no class a among b, x: give data with these classes"):
        images("b", "x")


def test_the_classifier_takes_digits_for_what_they_are(tmp_path):
    source = pictures(tmp_path, {"3": 20, "7": 20})
    task = ClassifierTask(load_config(str(TINY.with_name("tiny-classifier.toml"))), source)
    assert task.images.labels.unique().tolist() == [3, 7]
    with pytest.raises(UserError, match="grey digits, 0 to 9"):
        ClassifierTask(
            load_config(str(TINY.with_name("tiny-classifier.toml"))), pictures(tmp_path / "x", {"a": 9, "b": 9})
        )
