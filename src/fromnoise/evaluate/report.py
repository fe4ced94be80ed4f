"""Draws the images of a request, measures them, and says what was measured of what."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fromnoise import __version__
from fromnoise.errors import UserError
from fromnoise.evaluate.features import Extractor, open_features
from fromnoise.evaluate.likelihood import NLL_IMAGES, check_images, evaluations_for_an_image, measure_nll
from fromnoise.evaluate.metrics import Measurement, compare_with_real, features_of_metrics, fitting_metrics, measure
from fromnoise.evaluate.reference import SPLIT_NAMES, RealImages
from fromnoise.models import Model
from fromnoise.sampling.generate import draw
from fromnoise.sampling.plan import Plan, plan
from fromnoise.sampling.request import Request

ENOUGH = 10_000
"""how many images are drawn unless told otherwise; with fewer a Fréchet distance is noticeably too large"""


@dataclass(frozen=True)
class Report:
    """What was measured."""

    title: str  # the images, how they were drawn and what they are compared with, in a line
    lines: dict[str, str]  # each figure in words, by its name
    warning: str  # what to beware of, or nothing
    record: dict[str, Any]
    """all of it as plain values, for a file; `prepare` with ``Request(**record["request"])`` and the same ``data_mix``
    measures the same again"""


@dataclass(frozen=True)
class Evaluation:
    """All that is needed to measure a model, checked, opened and read."""

    plan: Plan
    metrics: dict[str, str]  # of drawn images, and the features that each uses
    extractors: dict[str, Extractor]  # of these features
    real: RealImages | None  # the real images, where any are needed
    data_mix: bool  # whether each class is asked for as often as it occurs among the real images
    nll_images: int  # of how many real images ``nll`` is measured; 0: it is not

    @property
    def total(self) -> int:
        """How many evaluations of the network `run` takes, guided ones counted twice."""
        drawing = self.plan.n * self.plan.evaluations if self.metrics else 0
        return drawing + self.nll_images * evaluations_for_an_image(self.plan.model)

    def run(self, progress: Callable[[int], None] | None = None) -> Report:
        """Draws and measures; ``progress`` is called with the number of network evaluations just begun, of `total`."""
        plan, real, measured = self.plan, self.real, dict[str, Measurement]()
        compares = real is not None and compare_with_real(self.metrics)
        if self.metrics:
            images = {"drawn": draw(plan, progress)}
            labels = torch.tensor(plan.wishes) if plan.model.conditioner.names else None
            if real is not None and compares:  # in the data's mix, the baseline has the classes of the drawn images
                images |= real.comparison(plan.n, None if self.data_mix else labels)
            measured = measure(self.metrics, self.extractors, images, labels, real.other_split if real else "")
        if real is not None and self.nll_images:
            measured |= measure_nll(plan, real.images, self.nll_images, progress=progress)
        record = {
            **asdict(plan.request),
            "data_mix": self.data_mix,
            "steps": plan.steps,
            "evaluations": plan.evaluations,
            "eta": plan.request.eta if "eta" in plan.method.options else None,
            "device": plan.device.type,
            "request": asdict(plan.request),
            "reference": real.description() if real and compares else None,
            "metrics": {name: asdict(figure) for name, figure in measured.items()},
            "fromnoise": __version__,
            "torch": importlib.metadata.version("torch"),
        }
        title = f"{SPLIT_NAMES[real.split]} of {real.name}" if real and not self.metrics else _title(record)
        lines = {name: figure.meaning for name, figure in measured.items()}
        return Report(title, lines, _warning(plan.n, self.metrics), record)


def prepare(
    model: Model,
    request: Request,
    metrics: Sequence[str] | None = None,
    real: RealImages | None = None,
    *,
    data_mix: bool = False,
    features: str | None = None,
    nll_images: int = NLL_IMAGES,
) -> Evaluation:
    """Checks what is to be measured, and opens and reads all that it takes.

    Args:
        request: ``n`` is `ENOUGH` unless told otherwise.
        metrics: of `METRICS`, or ``nll``; none: all that fit the model but ``nll``, which draws nothing and takes long.
        real: the real images, for all but ``accuracy``.
        data_mix: ask for each class as often as it occurs among n real images; the request names no classes then.
        features: what ``kid`` and ``pr`` use; none: the classifier's where it fits, else Inception's.
        nll_images: of how many real images ``nll`` is measured; of all, if there are fewer.

    Raises:
        UserError: the request or a metric does not fit the model, the data cannot be read, or Inception is not there.
    """
    planned = plan(model, replace(request, n=ENOUGH if request.n is None else request.n))
    metrics = metrics or fitting_metrics(model)
    used = features_of_metrics(metrics, model, planned.n, features)
    compares, explains = compare_with_real(used), "nll" in metrics
    if real is None and (compares or explains or data_mix):
        raise UserError("which real images? The model does not tell what it was trained on: give --data")
    if data_mix and (request.classes is not None or not model.conditioner.names):
        raise UserError("--data-mix chooses the classes of a model that has some: leave it out, or leave --classes out")
    if real is not None and data_mix:
        planned = replace(planned, wishes=real.class_mix(planned.n))
    if real is not None and compares:
        real.check_comparable()
    if real is not None and explains:
        check_images(model, real.images, nll_images)
        nll_images = min(nll_images, len(real.images))
    extractors = {name: open_features(name, planned.device) for name in set(used.values())}
    return Evaluation(planned, used, extractors, real, data_mix, nll_images if explains else 0)


def _title(record: Mapping[str, Any]) -> str:
    """What was drawn, how, and what it is compared with."""
    classes = f" of classes {','.join(map(str, record['classes']))}" if record["classes"] else ""
    settings = [
        f"{record['steps']} steps",
        f"{record['spacing']} spacing",
        record["eta"] and f"eta {record['eta']:g}",
        record["variance"] and f"variance {record['variance']}",
        "clipped" if record["clip"] else "not clipped",
        f"guidance {record['guidance']:g}" + (f" away from {record['guide']}" if record["guide"] else ""),
        record["guidance_interval"] and "only at noise levels {:g} to {:g}".format(*record["guidance_interval"]),
        record["guidance_rescale"] and f"rescaled by {record['guidance_rescale']:g}",
    ]
    real = record["reference"]
    return (
        f"{record['n']} images{' in the mix of classes of the data' if record['data_mix'] else classes} by "
        f"{record['sampler']}, {', '.join(filter(None, settings))}: {record['evaluations']} network evaluations each; "
        f"seed {record['seed']}, {record['dtype']}"
        + (f"; against {real['size']} {SPLIT_NAMES[real['split']]} of {real['name']}" if real else "")
    )


def _warning(n: int, metrics: Mapping[str, str]) -> str:
    if n >= ENOUGH or not metrics:
        return ""
    if {"fd", "fid"} & set(metrics):
        return f"the distance of {n} images comes out too large: do not compare it with that of {ENOUGH}"
    return f"{n} images are few: do not compare these figures with those of {ENOUGH}"
