"""Which real images a model is compared with, and which of them form the baseline."""

import zlib

import pytest
import torch
from stand_ins import save_noise, untrained

from fromnoise.data.images import load_images
from fromnoise.errors import UserError
from fromnoise.evaluate.reference import RealImages, reference_of

SHAPE, DIGITS = (1, 28, 28), tuple("0123456789")
GREY, COLOUR = untrained(SHAPE), untrained((3, 8, 8))


def rows(pixels):
    """The images as a set, whose order does not matter."""
    return sorted(pixels.flatten(1).tolist())


def test_what_a_model_is_compared_with(tmp_path):
    """The data that are given, or those of its training.toml, whose columns go for both; or MNIST where it can be."""

    def compared(model, *arguments, **options):
        found = reference_of(model, *arguments, **options)
        assert (found.shape, found.class_names) == (model.space.shape, model.conditioner.names)
        return found.source, found.split, {name: value for name, value in found.how.items() if value is not None}

    usual = {"resize": "crop"}
    asked = untrained(SHAPE, classes=10)
    assert compared(GREY, "mnist") == ("ylecun/mnist", "test", usual | {"background": "white"})
    assert compared(asked, "a/b", split="train") == ("ylecun/mnist", "train", usual)
    assert compared(GREY, "mnist", "digits", "train") == ("digits", "train", usual | {"background": "white"})
    assert compared(GREY, "a/b", "digits") == ("digits", "test", usual)
    assert reference_of(COLOUR, "a/b") is None
    how = {"image_column": "photo", "label_column": "kind", "resize": "none", "background": "red"}
    lines = [f"{name} = '{value}'" for name, value in how.items()]
    head = ["[data]", "source = 'here'", "channels = 3", "size = 8", "configuration = 'large'"]
    (tmp_path / "training.toml").write_text("\n".join([*head, *lines]))
    assert compared(COLOUR, str(tmp_path)) == ("here", "test", how | {"configuration": "large"})
    assert compared(COLOUR, str(tmp_path), "there") == ("there", "test", how)
    (tmp_path / "training.toml").write_text("nonsense = 1")
    with pytest.raises(UserError, match=r"training\.toml: unknown key nonsense"):
        reference_of(COLOUR, str(tmp_path))


def test_a_folder_goes_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    assert [RealImages(source, "test", SHAPE).name for source in (".", "digits", "owner/name")] == [
        "digits",
        "digits",
        "owner/name",
    ]


@pytest.mark.parametrize("split", ["test", "train"])
def test_what_images_are_compared_with(noise, split):
    """The whole split, and from the other one a sample of any images and one of the drawn images' classes."""
    real = RealImages(noise, split, SHAPE, DIGITS)
    other_split = "train" if split == "test" else "test"
    here, there = (load_images(noise, s, channels=1, size=28, labelled=True) for s in (split, other_split))
    labels = torch.tensor([1, 0, 1, 0, 4])
    found = real.comparison(5, labels)
    assert rows(found["reference"]) == rows(here.pixels)
    assert len(found["baseline"]) == 5
    for name, stored in (("reference", here), ("baseline", there)):
        assert not torch.equal(found[name], stored.pixels[: len(found[name])]), "not shuffled"
    label_of = {
        tuple(pixels.flatten().tolist()): int(label) for pixels, label in zip(there.pixels, there.labels, strict=True)
    }
    assert all(tuple(row) in label_of for row in rows(found["baseline"]))
    of_classes = [label_of[tuple(row)] for row in rows(found["baseline of classes"])]
    assert sorted(of_classes) == [0, 0, 1, 1, 4]
    assert len({tuple(row) for row in rows(found["baseline of classes"])}) == 5, "one image twice"
    assert real.description() == {
        "name": "all",
        "split": split,
        "size": len(here),
        "shape": [1, 28, 28],
        "checksum": zlib.crc32(here.pixels.numpy().tobytes()),
    }


def test_no_baseline_of_the_same_classes(noise, tmp_path):
    """Neither without labels, on either side, nor where a class has too few images: here 2 zeros."""
    real, others = RealImages(noise, "test", SHAPE, DIGITS), "baseline of classes"
    assert others in real.comparison(2, torch.tensor([0, 0]))
    assert others not in real.comparison(3, torch.tensor([0, 0, 0]))
    assert others not in real.comparison(3, None)
    unlabelled = save_noise(tmp_path / "plain", (28, 28), train=6, test=4)
    found = RealImages(unlabelled, "test", SHAPE, DIGITS).comparison(9, torch.tensor([0, 0]))
    assert {name: len(pixels) for name, pixels in found.items()} == {"reference": 4, "baseline": 6}


def test_the_mix_of_classes_is_that_of_the_baseline(noise, tmp_path):
    real = RealImages(noise, "test", SHAPE, DIGITS)
    assert sorted(real.class_mix(65)) == [label for label in range(10) for _ in range(label + 2)]
    mix = real.class_mix(20)
    found = real.comparison(20, torch.tensor(mix))
    assert rows(found["baseline"]) == rows(found["baseline of classes"])
    with pytest.raises(UserError, match="no 66 labelled training images: give a lower --n"):
        real.class_mix(66)
    unlabelled = save_noise(tmp_path / "plain", (28, 28), train=6, test=6)
    with pytest.raises(UserError, match="no 2 labelled"):
        RealImages(unlabelled, "test", SHAPE, DIGITS).class_mix(2)


def test_next_to_no_images(tmp_path):
    for few in ({"train": 5, "test": 3}, {"train": 3, "test": 5}):
        source = save_noise(tmp_path / str(few), (8, 8, 3), **few)
        with pytest.raises(UserError, match="has 8 images, too few to compare with"):
            RealImages(source, "test", (3, 8, 8)).check_comparable()
