"""What the page of training says of the presets is what they and the model cards say."""

import re

import pytest

from bridge import BOOK
from fromnoise.train.config import load_config

PAGE = (BOOK / "training.md").read_text(encoding="utf-8")
ZOO = BOOK.parent / "src" / "fromnoise" / "zoo"
TRAINED = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) images on a CPU(?:, (\d+) minutes)? \|$", PAGE, re.MULTILINE)
ON_CARDS = r"trained on: (\d+) images in (\d+) minutes"


def test_there_are_such_rows():
    assert {"mnist", "mnist-guide", "mnist-conditional", "cifar10-small"} < {name for name, _, _ in TRAINED}


@pytest.mark.parametrize(("preset", "images"), [row[:2] for row in TRAINED])
def test_a_preset_sees_so_many_images(preset, images):
    train = load_config(preset).train
    assert int(images.replace(",", "")) == train.steps * train.batch_size


@pytest.mark.parametrize(("model", "images", "minutes"), [row for row in TRAINED if row[2]])
def test_the_model_card_says_the_same(model, images, minutes):
    found = re.search(ON_CARDS, (ZOO / model / "README.md").read_text(encoding="utf-8"))
    assert found and found.groups() == (images.replace(",", ""), minutes)
