"""How good drawn images are: are they what was asked for, and are they spread as the real ones are."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.data.images import Images, load_images
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE, judge, open_classifier
from fromnoise.evaluate.features import FEATURES, open_features, torchmetrics_fid

METRICS = ("accuracy", "fd", "fid", "kid", "pr", "nll")
ENOUGH = 10_000
"""with fewer samples a Fréchet distance is noticeably too large"""
NEIGHBOURS = 3
"""how far the balls of precision and recall reach"""
LEAST = {"accuracy": 1, "fd": 2, "fid": 2, "kid": 2, "pr": NEIGHBOURS + 1}
"""how many images each metric needs"""
DIGITS = tuple("0123456789")
OTHER_SPLIT = {"test": "train", "train": "test"}
SPLIT_NAMES = {"test": "test images", "train": "training images"}

_ROWS = 500  # so many rows of the table of all pairs at a time: 40 MB beside 10,000 images


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance between Gaussians of the same means and covariances as two sets of features. Eq. fid

    ``|mean_1 - mean_2|^2 + tr(cov_1 + cov_2 - 2 (cov_1 cov_2)^(1/2))``; the fewer samples, the larger: compare only
    distances of as many.

    Args:
        features, reference: ``(N, D)`` and ``(M, D)``, N and M at least 2.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; computed by torchmetrics.
    """
    network = nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]
    metric = torchmetrics_fid()(feature=network)
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return float(metric.compute())


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features for the kernel ``(x.y / D + 1)^3``. Eq. kid

    Unbiased for independent samples, however few: between those of one law the mean is 0, and some are below. Classes
    dealt out evenly are not quite independent, which lowers it a little, by the order of 1 / N. It takes all pairs, and
    any two numbers of samples; torchmetrics takes random subsets, as many of both.

    Args:
        features, reference: ``(N, D)`` and ``(M, D)``, N and M at least 2.

    Source: Bińkowski et al. 2018 (arXiv 1801.01401), section 4; the estimator is that of Gretton et al. 2012 ("A kernel
    two-sample test"), lemma 6.
    """
    x, y = features.double(), reference.double()

    def kernel_sum(a: Tensor, b: Tensor) -> float:
        return sum(float(((part @ b.T / b.shape[1] + 1) ** 3).sum()) for part in a.split(_ROWS))

    def mean_of_others(a: Tensor) -> float:
        with_itself = float(((a.square().mean(1) + 1) ** 3).sum())
        return (kernel_sum(a, a) - with_itself) / (len(a) * (len(a) - 1))

    return mean_of_others(x) + mean_of_others(y) - 2 * kernel_sum(x, y) / (len(x) * len(y))


def precision_recall(features: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of one set of features against another, by balls around each point. Eq. prec-recall

    A set covers what lies in the balls around its points that reach to their ``neighbours``-th nearest neighbour in it.
    Precision is the fraction of ``features`` that the reference covers, recall that of the reference that ``features``
    cover. Both depend on how many points there are: take as many of both.

    Args:
        features, reference: ``(N, D)`` and ``(M, D)``, N and M above ``neighbours``.

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2.
    """

    def covered(points: Tensor, by: Tensor) -> float:
        radii = [torch.cdist(part, by).kthvalue(neighbours + 1).values for part in by.split(_ROWS)]  # 1 is itself
        inside = [(torch.cdist(part, by) <= torch.cat(radii)).any(1) for part in points.split(_ROWS)]
        return torch.cat(inside).double().mean().item()

    features, reference = features.double(), reference.double()
    return covered(features, by=reference), covered(reference, by=features)


@dataclass(frozen=True)
class Reference:
    """Which real images drawn ones are compared with: one split of a dataset.

    Attributes:
        source: a hub id, or a folder with a local copy.
        split: ``test`` or ``train``.
        image_column, label_column: where they cannot be guessed.
    """

    source: str
    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder: a copy need not be what it is a copy of."""
        folder = Path(self.source).expanduser()
        return folder.resolve().name if self.source != "digits" and folder.is_dir() else self.source

    def load(self, shape: tuple[int, int, int], *, labelled: bool = False) -> Images:
        """Its images, which must be of ``shape`` (C, H, W)."""
        channels, size, _ = shape
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        return load_images(self.source, self.split, channels=channels, size=size, labelled=labelled, **columns)


@dataclass(frozen=True)
class RealImages:
    """Real images to compare with, and others that show what is to be expected of real ones.

    Attributes:
        reference: which they are.
        pixels: ``(M, C, H, W)`` uint8, the whole split, shuffled.
        others: as many as are drawn, if there are, of the other split, at random.
        alike: as many of each class as are drawn, of the other split, at random; None where that cannot be had.
        checksum: CRC-32 of the whole split's pixels.
    """

    reference: Reference
    pixels: Tensor
    others: Tensor
    alike: Tensor | None
    checksum: int


def load_real_images(
    reference: Reference, shape: tuple[int, int, int], n: int, labels: Tensor | None = None
) -> RealImages:
    """Reads what n drawn images of ``shape`` (C, H, W) are compared with.

    Args:
        labels: ``(n,)``, the classes of the drawn ones.

    Raises:
        UserError: it cannot be read, or is next to nothing.
    """
    pixels = reference.load(shape).pixels
    other_split = replace(reference, split=OTHER_SPLIT[reference.split])
    try:
        others = other_split.load(shape, labelled=labels is not None)
    except UserError:  # it has no labels, or cannot be read at all, and then not now either
        others = other_split.load(shape)
    if min(len(pixels), len(others)) < max(LEAST.values()):
        raise UserError(f"{reference.source} has {len(pixels) + len(others)} images, too few to compare with")
    checksum = zlib.crc32(pixels.contiguous().numpy().tobytes())
    pixels = pixels[_shuffled(len(pixels))]
    order = _shuffled(len(others))
    chosen = None if labels is None or others.labels is None else _of_classes(others.labels[order], labels)
    alike = None if chosen is None else others.pixels[order[chosen]]
    return RealImages(reference, pixels, others.pixels[order[:n]], alike, checksum)


def classes_as_in(reference: Reference, shape: tuple[int, int, int], n: int) -> tuple[int, ...]:
    """The classes of the ``others`` of `load_real_images`: a random sample of n from the data's own mix.

    Raises:
        UserError: the data cannot be read, has no labels, or fewer than n images.
    """
    other_split = replace(reference, split=OTHER_SPLIT[reference.split])
    labels = other_split.load(shape, labelled=True).labels
    if labels is None or len(labels) < n:
        raise UserError(f"{reference.source} has no {n} labelled {SPLIT_NAMES[other_split.split]}: give a lower --n")
    return tuple(labels[_shuffled(len(labels))[:n]].tolist())


def _of_classes(there: Tensor, wanted: Tensor) -> Tensor | None:
    """Which of the labels ``there`` to take, from the first on, to have as many of each class as ``wanted``."""
    places = []
    for label, count in zip(*wanted.unique(return_counts=True), strict=True):
        found = (there == label).nonzero()[:count, 0]
        if len(found) < count:
            return None
        places.append(found)
    return torch.cat(places)


def _shuffled(count: int) -> Tensor:
    """The places of so many images in a random order, always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Measurement:
    """One figure, and what it means in a line.

    Attributes:
        details: among others the features it goes by, the figure of either half of the images (``halves``) and, where
            they are compared with real images, that of others of these (``real``).
    """

    value: float
    meaning: str
    details: dict[str, Any]


def measure(
    judges: Mapping[str, str],
    draw: Callable[[], Tensor],
    labels: Tensor | None,
    real: RealImages | None,
    device: torch.device,
) -> dict[str, Measurement]:
    """Measures drawn images.

    Args:
        judges: metrics by their names in `METRICS`, and the features in `FEATURES` that each goes by.
        draw: draws the images ``(N, C, H, W)`` uint8; called once all else is known to be there.
        labels: ``(N,)``, what was asked for, for ``accuracy``.
        real: what they are compared with, for all but ``accuracy``.
        device: where Inception runs.

    Raises:
        UserError: Inception is not there.
    """
    compared = {metric: name for metric, name in judges.items() if metric != "accuracy"}
    networks = {name: open_features(name, device) for name in FEATURES if name in compared.values()}
    if {"fd", "fid"} & set(compared):
        torchmetrics_fid()
    pixels = draw()
    measured = {}
    if "accuracy" in judges and labels is not None:
        measured["accuracy"] = _measure_accuracy(pixels, labels)
    if real is not None:
        heaps = {"drawn": pixels, "reference": real.pixels, "others": real.others}
        heaps |= {} if real.alike is None else {"alike": real.alike}
        features = {
            name: {heap: extract(images) for heap, images in heaps.items()} for name, extract in networks.items()
        }
        for metric, name in compared.items():
            seen, reference = features[name], features[name]["reference"]
            of_drawn, of_others = (
                _figures(metric, seen["drawn"], reference),
                _figures(metric, seen["others"], reference),
            )
            of_halves = [_figures(metric, half, reference) for half in _halves(seen["drawn"], LEAST[metric])]
            of_alike = _figures(metric, seen["alike"], reference) if "alike" in seen else None
            for figure, value in of_drawn.items():
                expected = of_others[figure], None if of_alike is None else of_alike[figure]
                halves = [half[figure] for half in of_halves]
                measured[figure] = _comparison(figure, value, halves, *expected, name, real)
    return measured


def _measure_accuracy(pixels: Tensor, labels: Tensor) -> Measurement:
    classifier, of_test_images = open_classifier()
    right = (judge(classifier, pixels).digits == labels).double()
    value, halves = right.mean().item(), [half.mean().item() for half in _halves(right, LEAST["accuracy"])]
    meaning = (
        f"{value:.2%}{_told(halves, '.2%')} read as the digit asked for, by a classifier that reads "
        f"{of_test_images:.2%} of MNIST's test images"
    )
    return Measurement(
        value, meaning, {"features": "classifier", "halves": halves, "classifier_accuracy": of_test_images}
    )


def _figures(metric: str, features: Tensor, reference: Tensor) -> dict[str, float]:
    """The figures of a metric by their names; precision and recall are two."""
    if metric == "kid":
        return {"kid": kernel_distance(features, reference)}
    if metric == "pr":
        count = min(len(features), len(reference))
        precision, recall = precision_recall(features[:count], reference[:count])
        return {"precision": precision, "recall": recall}
    return {metric: frechet_distance(features, reference)}


def _comparison(
    figure: str,
    value: float,
    halves: list[float],
    expected: float,
    of_alike: float | None,
    features: str,
    real: RealImages,
) -> Measurement:
    """A figure beside that of other real images, and of others of the same classes."""
    form = ".3f" if figure in ("precision", "recall") else ".4g"
    split, n = OTHER_SPLIT[real.reference.split], len(real.others)
    details: dict[str, Any] = {"features": features, "halves": halves}
    details["real"] = {"split": split, "n": n, "value": expected}
    beside = f"beside {expected:{form}} of {n} {SPLIT_NAMES[split]}"
    if figure in ("fd", "fid") and expected > 0:
        details["ratio"] = value / expected
        beside = f"{value / expected:.2f} times the {expected:{form}} of {n} {SPLIT_NAMES[split]}"
    if of_alike is not None:
        details["real_of_these_classes"] = of_alike
        beside += f" ({of_alike:{form}} of as many of these classes)"
    judged = {"classifier": "the classifier's", "inception": "Inception's"}[features]
    return Measurement(value, f"{value:{form}}{_told(halves, form)}, {beside}, by {judged} features", details)


def _halves(values: Tensor, least: int) -> list[Tensor]:
    """The two halves of some values, or nothing if they are too few."""
    return list(values.tensor_split(2)) if len(values) // 2 >= least else []


def _told(halves: list[float], form: str) -> str:
    return f" (halves {halves[0]:{form}} and {halves[1]:{form}})" if halves else ""


def fitting_metrics(shape: tuple[int, int, int], class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """What is measured if nothing is asked for, of a model that draws images of ``shape`` (C, H, W)."""
    if shape != SHAPE:
        return ("fid", "kid", "pr")
    return ("accuracy", "fd", "kid", "pr") if class_names == DIGITS else ("fd", "kid", "pr")


def check_metrics(
    metrics: tuple[str, ...],
    shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
    n: int,
    features: str | None = None,
) -> dict[str, str]:
    """Each metric but ``nll``, and which of `FEATURES` it goes by; refuses what cannot be measured.

    Args:
        shape: (C, H, W) of the images that the model draws.
        class_names: of the model.
        n: how many images are drawn.
        features: for ``kid`` and ``pr``; none: the classifier's where it fits.
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}: there are {', '.join(METRICS)}")
    if features is not None and features not in FEATURES:
        raise UserError(f"unknown features {features!r}: there are {', '.join(FEATURES)}")
    if features is not None and not {"kid", "pr"} & set(metrics):
        raise UserError(f"features are chosen for kid and pr, not for {', '.join(metrics)}: leave --features out")
    chosen = features or ("classifier" if shape == SHAPE else "inception")
    all_judges = {"accuracy": "classifier", "fd": "classifier", "fid": "inception", "kid": chosen, "pr": chosen}
    judges = {name: judged_by for name, judged_by in all_judges.items() if name in metrics}
    for name, judged_by in judges.items():
        if judged_by == "classifier" and shape != SHAPE:
            size = "x".join(map(str, shape))
            instead = "take --features inception" if name in ("kid", "pr") else "take fid, kid or pr"
            raise UserError(
                f"{name} is judged by a classifier of MNIST's 1x28x28 digits, and this model draws {size}: {instead}"
            )
        if n < LEAST[name]:
            raise UserError(f"{name} compares many images: --n must be at least {LEAST[name]}")
    if "accuracy" in metrics and class_names != DIGITS:
        raise UserError("accuracy needs a model that is asked for one of ten digits: leave it out of --metrics")
    return judges
