"""What is measured of drawn images, by which features, and what a measurement says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE, open_classifier
from fromnoise.evaluate.distances import NEIGHBOURS, frechet_distance, kernel_distance, precision_recall
from fromnoise.evaluate.features import FEATURES, Extractor
from fromnoise.evaluate.reference import SPLIT_NAMES
from fromnoise.models import Model

DIGITS = tuple("0123456789")


def _precision_recall(drawn: Tensor, reference: Tensor) -> dict[str, float]:
    """Of equal numbers of both."""
    count = min(len(drawn), len(reference))
    return dict(zip(("precision", "recall"), precision_recall(drawn[:count], reference[:count]), strict=True))


@dataclass(frozen=True)
class Metric:
    """What a metric needs."""

    least: int  # the fewest images that it can be computed from
    features: str | None = None  # the one of `FEATURES` that it uses; none: whichever are chosen
    compare: Callable[[Tensor, Tensor], dict[str, float]] | None = None
    """its figures by their names, from the features of drawn and of real images; none: it compares nothing"""


METRICS = {
    "accuracy": Metric(1, "classifier"),
    "fd": Metric(2, "classifier", lambda drawn, real: {"fd": frechet_distance(drawn, real)}),
    "fid": Metric(2, "inception", lambda drawn, real: {"fid": frechet_distance(drawn, real)}),
    "kid": Metric(2, None, lambda drawn, real: {"kid": kernel_distance(drawn, real)}),
    "pr": Metric(NEIGHBOURS + 1, None, _precision_recall),
}
"""what is measured of drawn images; ``nll``, beside them, is measured of real ones"""
SCENE_METRICS = ("prompts", "sharpness", "reconstruction", "clip")
"""what is measured of a model of captioned scenes instead"""


@dataclass(frozen=True)
class Measurement:
    """One figure, and what it means in a line."""

    value: float
    meaning: str
    details: dict[str, Any]
    """among others the features it was computed from, the figure of either half of the images (``halves``) and, where
    images are compared, that of real images of the other split (``real``)"""


def compare_with_real(metrics: Iterable[str]) -> bool:
    """Whether any of these metrics of drawn images needs real ones."""
    return any(METRICS[name].compare for name in metrics)


def fitting_metrics(model: Model) -> tuple[str, ...]:
    """What is measured of a model unless told otherwise."""
    if model.space.image_shape != SHAPE:
        return ("fid", "kid", "pr")
    return ("accuracy", "fd", "kid", "pr") if model.conditioner.names == DIGITS else ("fd", "kid", "pr")


def check_names(names: Sequence[str]) -> None:
    """Refuses with a `UserError` a metric that there is none of."""
    for name in names:
        if name not in (known := (*METRICS, "nll", *SCENE_METRICS)):
            raise UserError(f"unknown metric {name!r}: there are {', '.join(known)}")


def features_of_metrics(names: Sequence[str], model: Model, n: int, features: str | None = None) -> dict[str, str]:
    """The metrics of drawn images among ``names``, and which of `FEATURES` each uses.

    Args:
        n: how many images are drawn.
        features: for ``kid`` and ``pr``; none: the classifier's where it fits.

    Raises:
        UserError: something that cannot be measured.
    """
    check_names(names)
    if features is not None and features not in FEATURES:
        raise UserError(f"unknown features {features!r}: there are {', '.join(FEATURES)}")
    if features is not None and not {"kid", "pr"} & set(names):
        raise UserError(f"features are chosen for kid and pr, not for {', '.join(names)}: leave --features out")
    shape = model.space.image_shape
    chosen = features or ("classifier" if shape == SHAPE else "inception")
    used = {name: metric.features or chosen for name, metric in METRICS.items() if name in names}
    for name, needed in used.items():
        if needed == "classifier" and shape != SHAPE:
            size = "x".join(map(str, shape))
            instead = "take fid, kid or pr" if METRICS[name].features else "take --features inception"
            raise UserError(f"{name} uses a classifier of MNIST's 1x28x28 digits; this model draws {size}: {instead}")
        if n < METRICS[name].least:
            raise UserError(f"{name} compares many images: --n must be at least {METRICS[name].least}")
    if "accuracy" in used and model.conditioner.names != DIGITS:
        raise UserError("accuracy needs a model that is asked for one of ten digits: leave it out of --metrics")
    return used


def measure(
    metrics: Mapping[str, str],
    extractors: Mapping[str, Extractor],
    images: Mapping[str, Tensor],
    labels: Tensor | None,
    baseline_split: str,
) -> dict[str, Measurement]:
    """Measures drawn images.

    Args:
        metrics: as `features_of_metrics` returns them.
        extractors: those of the features that the metrics use.
        images: ``drawn`` ones and, for all metrics but ``accuracy``, those of `RealImages.comparison`.
        labels: ``(N,)``, what was asked for, for ``accuracy``.
        baseline_split: the name of the split that the baseline comes from.
    """

    @cache
    def features_of(which: str, features: str) -> Tensor:
        return extractors[features](images[which])

    measured = {}
    for name, features in metrics.items():
        drawn, compare, least = features_of("drawn", features), METRICS[name].compare, METRICS[name].least
        if compare is not None:
            reference = features_of("reference", features)
            sets = {which: compare(features_of(which, features), reference) for which in images if which != "reference"}
            halves = [compare(half, reference) for half in _halves(drawn, least)]
            baseline = {"split": baseline_split, "n": len(images["baseline"])}
            for figure in sets["drawn"]:
                values = {which: found[figure] for which, found in sets.items()}
                measured[figure] = _comparison(figure, values, [half[figure] for half in halves], features, baseline)
        elif labels is not None:
            measured[name] = _accuracy(drawn, labels)
    return measured


@torch.inference_mode()
def _accuracy(features: Tensor, labels: Tensor) -> Measurement:
    classifier, of_test_images = open_classifier()
    right = (classifier.head(features.float()).argmax(1) == labels).double()
    value, halves = right.mean().item(), [half.mean().item() for half in _halves(right, METRICS["accuracy"].least)]
    meaning = (
        f"{value:.2%}{_in_brackets(halves, '.2%')} read as the digit asked for, by a classifier that reads "
        f"{of_test_images:.2%} of MNIST's test images"
    )
    details = {"features": "classifier", "halves": halves, "classifier_accuracy": of_test_images}
    return Measurement(value, meaning, details)


def _comparison(
    figure: str, values: Mapping[str, float], halves: list[float], features: str, baseline: dict[str, Any]
) -> Measurement:
    """A figure of the drawn images beside that of real ones, by the names of the sets of images."""
    form = ".3f" if figure in ("precision", "recall") else ".4g"
    value, expected, of_classes = values["drawn"], values["baseline"], values.get("baseline of classes")
    details: dict[str, Any] = {"features": features, "halves": halves, "real": {**baseline, "value": expected}}
    of_real = f"{baseline['n']} {SPLIT_NAMES[baseline['split']]}"
    beside = f"beside {expected:{form}} of {of_real}"
    if figure in ("fd", "fid") and expected > 0:
        details["ratio"] = value / expected
        beside = f"{value / expected:.2f} times the distance of {of_real}, {expected:{form}}"
    if of_classes is not None:
        details["real_of_these_classes"] = of_classes
        beside += f" ({of_classes:{form}} with the same number of each class)"
    owner = {"classifier": "the classifier's", "inception": "Inception's"}[features]
    return Measurement(value, f"{value:{form}}{_in_brackets(halves, form)}, {beside}, by {owner} features", details)


def _halves(values: Tensor, least: int) -> list[Tensor]:
    """The two halves of some values, or nothing if they are too few."""
    return list(values.tensor_split(2)) if len(values) // 2 >= least else []


def _in_brackets(halves: list[float], form: str) -> str:
    return f" (halves {halves[0]:{form}} and {halves[1]:{form}})" if halves else ""
