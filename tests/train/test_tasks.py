"""The tasks: what a batch is made of, and what becomes of the network."""

import re

import pytest
import torch
from runs import CLASSIFIER, TINY

from fromnoise.data.images import Images, load_images, to_pixels
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import judge, open_classifier
from fromnoise.train import task as module
from fromnoise.train.config import load_config
from fromnoise.train.run import train
from fromnoise.train.tasks.classifier import FILE, ClassifierTask
from fromnoise.train.tasks.denoising import DenoisingTask


def batches(task, steps=40, rows=32):
    return [task.batch(torch.arange(step * rows, (step + 1) * rows), 0, step) for step in range(steps)]


def test_the_null_class_is_learned_at_the_rate_of_the_dropout(monkeypatch):
    """Validation drops no label."""
    task = DenoisingTask(load_config(str(TINY)).override({"train.class_dropout": 0.25}), "digits")
    dropped = torch.cat([batch["class_labels"] == 10 for batch in batches(task)]).double()
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / len(dropped)) ** 0.5
    seen = []
    original = DenoisingTask.loss
    monkeypatch.setattr(DenoisingTask, "loss", lambda *a: (seen.append(a[2]["class_labels"]), original(*a))[1])
    task.validate(task.network)
    assert len(torch.cat(seen)) == 297
    assert torch.cat(seen).max() == 9


def test_flipping_mirrors_half_of_the_images():
    originals = {image.numpy().tobytes() for image in load_images("digits", "train", channels=1, size=8).pixels}
    task = DenoisingTask(load_config(str(TINY)), "digits")
    seen = torch.cat([to_pixels(batch["x0"]) for batch in batches(task)])
    straight = sum(image.contiguous().numpy().tobytes() in originals for image in seen)
    mirrored = sum(image.flip(-1).contiguous().numpy().tobytes() in originals for image in seen)
    assert straight + mirrored >= len(seen)
    assert abs(mirrored / len(seen) - 0.5) < 4 * 0.5 / len(seen) ** 0.5


def test_without_labels_nothing_is_said_of_classes():
    task = DenoisingTask(load_config(str(TINY)).override({"data.conditional": False}), "digits")
    assert batches(task, 1)[0].keys() == {"x0", "t", "noise"}
    images, columns = task.preview(task.network)
    assert (images.shape, columns) == ((40, 1, 8, 8), 10)


def test_a_classifier_is_trained_and_knows_how_good_it_is(tmp_path):
    """The judge opens what the run wrote, and finds the accuracy that the file and the card tell."""
    run = train(load_config(str(CLASSIFIER)).override({"train.device": "cpu"}), tmp_path / "run")
    classifier, accuracy = open_classifier(run / FILE)
    test = load_images("digits", "test", channels=1, size=8, labelled=True)
    assert accuracy == pytest.approx(
        (judge(classifier, test.pixels).digits == test.labels).double().mean().item(), abs=1e-4
    )
    assert accuracy >= 0.8
    card = (run / "README.md").read_text()
    assert f"{100 * accuracy:.2f}%" in card
    assert re.search(r"^\| 80 \| [\d.]+ \|$", card, re.MULTILINE)


def test_distortions_are_small_and_black_outside():
    task = ClassifierTask(load_config(str(CLASSIFIER)), "digits")
    images, labels = task.images.batch(torch.arange(1000))
    batch = task.batch(torch.arange(1000), 0, 0)
    assert batch["labels"].equal(labels)
    moved = batch["images"]
    assert moved.min() >= -1
    assert moved.max() <= 1
    changed = (moved - images).abs().mean()
    assert 0.05 < changed < (images[torch.randperm(1000)] - images).abs().mean()
    assert abs((moved + 1).mean() / (images + 1).mean() - 1) < 0.1  # as much ink as before


def test_other_images_are_refused(monkeypatch):
    monkeypatch.setattr(module, "load_images", lambda *a, **k: Images(torch.zeros(3, 3, 8, 8), torch.arange(3)))
    with pytest.raises(UserError, match="grey digits"):
        ClassifierTask(load_config(str(CLASSIFIER)), "faces")
