"""How good drawn images are: are they what was asked for, and are they spread as the real ones are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise.data.images import load_images
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE, judge, open_classifier

METRICS = ("accuracy", "fd")
ENOUGH = 10_000
"""with fewer samples a Fréchet distance is noticeably too large"""


@dataclass(frozen=True)
class Measurement:
    """One figure, and what it means in a line."""

    value: float
    meaning: str
    details: dict[str, float]


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance between Gaussians of the same means and covariances as two sets of features.

    ``|mean_1 - mean_2|^2 + tr(cov_1 + cov_2 - 2 (cov_1 cov_2)^(1/2))``; the fewer samples, the larger: compare only
    distances of as many.

    Args:
        features, reference: ``(N, D)`` and ``(M, D)``.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; computed by torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=network)
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return float(metric.compute())


def measure(
    metrics: tuple[str, ...], draw: Callable[[], Tensor], labels: Tensor | None, data: str
) -> dict[str, Measurement]:
    """Measures drawn images by their names in `METRICS`.

    Args:
        draw: draws the images ``(N, 1, 28, 28)`` uint8; called once all else is known to be there.
        labels: ``(N,)``, what was asked for, for ``accuracy``.
        data: MNIST, by its hub id or a folder, for ``fd``.

    Raises:
        UserError: the data cannot be read.
    """
    classifier, test_accuracy = open_classifier()
    real = [load_images(data, split, channels=1, size=28) for split in ("test", "train")] if "fd" in metrics else []
    pixels = draw()
    judged = judge(classifier, pixels)
    measured = {}
    if "accuracy" in metrics and labels is not None:
        right = (judged.digits == labels).double().mean().item()
        meaning = f"read as the digit asked for, by a classifier that reads {test_accuracy:.2%} of MNIST's test images"
        measured["accuracy"] = Measurement(right, f"{right:.2%} {meaning}", {"of_test_images": test_accuracy})
    if "fd" in metrics:
        test, train = real
        some = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(pixels)]
        reference = judge(classifier, test.pixels).features
        distance = frechet_distance(judged.features, reference)
        of_training = frechet_distance(judge(classifier, train.pixels[some]).features, reference)
        ratio = distance / of_training
        meaning = (
            f"{distance:.3f} between the features of these and of {len(test)} test images, {ratio:.2f} times the "
            f"{of_training:.3f} of {len(some)} training images"
        )
        measured["fd"] = Measurement(distance, meaning, {"of_training_images": of_training, "ratio": ratio})
    return measured


def check_metrics(metrics: tuple[str, ...], shape: tuple[int, int, int], num_classes: int) -> None:
    """Refuses what cannot be measured of a model that draws images of ``shape`` (C, H, W)."""
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}: there are {', '.join(METRICS)}")
    if shape != SHAPE:
        size = "x".join(map(str, shape))
        raise UserError(
            f"accuracy and fd are judged by a classifier of MNIST's 1x28x28 digits; this model draws {size}"
        )
    if "accuracy" in metrics and num_classes != 10:
        raise UserError("accuracy needs a model that is asked for one of ten digits: leave it out of --metrics")
