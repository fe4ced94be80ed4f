"""The classifier that judges drawn digits."""

import pytest
import torch

from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import judge, open_classifier
from fromnoise.models import open_model
from fromnoise.nn.classifier import Classifier
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request


def test_the_classifier_that_ships_reads_what_the_model_that_ships_draws():
    """Digits from the shipped weights are as good as new test images; and the accuracy is stored with the weights."""
    classifier, accuracy = open_classifier()
    assert 0.995 <= accuracy < 1
    judged = judge(classifier, generate(open_model("mnist-conditional"), Request(n=20, steps=8)))
    assert (judged.digits == torch.arange(20) % 10).sum() >= 19
    assert judged.features.shape == (20, 128)
    assert judged.features.std(0).min() > 0


def test_a_file_that_is_no_classifier(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="holds no classifier"):
        open_classifier(tmp_path / "weights.safetensors")
    assert sum(p.numel() for p in Classifier().parameters()) < 300_000
