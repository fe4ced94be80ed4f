"""The classifier that judges drawn digits: its answer is the accuracy's, its features are the Fréchet distance's.

It ships, trained on MNIST's 60,000 training images; ``fromnoise train mnist-classifier`` trains it again.
"""

from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.data.images import from_pixels
from fromnoise.errors import UserError
from fromnoise.nn.classifier import Classifier

WEIGHTS = Path(__file__).with_name("mnist-classifier.safetensors")
"""the weights that ship"""

SHAPE = (1, 28, 28)
BATCH = 250


@dataclass(frozen=True)
class Judgement:
    """What the classifier makes of N images."""

    digits: Tensor  # (N,) int64, as what each image is read
    features: Tensor  # (N, 128) float64, for Fréchet distances


@torch.inference_mode()
def judge(classifier: Classifier, pixels: Tensor) -> Judgement:
    """Reads images, uint8 ``(N, 1, 28, 28)``."""
    features = torch.cat([classifier.features(from_pixels(part)) for part in pixels.split(BATCH)])
    return Judgement(classifier.head(features).argmax(1), features.double())


def open_classifier(path: Path = WEIGHTS) -> tuple[Classifier, float]:
    """The trained classifier, and which fraction of MNIST's test images it reads right.

    Raises:
        UserError: the file is missing or not this classifier's.
    """
    classifier = Classifier()
    try:
        with safetensors.safe_open(path, "pt") as file:
            accuracy = float((file.metadata() or {})["test_accuracy"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        classifier.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        raise UserError(f"{path} holds no classifier: fromnoise train mnist-classifier trains one") from None
    return classifier.eval().to(memory_format=torch.channels_last), accuracy  # type: ignore[call-overload]
