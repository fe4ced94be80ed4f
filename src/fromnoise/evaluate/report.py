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
from fromnoise.evaluate.metrics import (
    SCENE_METRICS,
    Measurement,
    compare_with_real,
    features_of_metrics,
    fitting_metrics,
    measure,
)
from fromnoise.evaluate.reference import SPLIT_NAMES, RealImages
from fromnoise.evaluate.true_scenes import SceneTest, TrueScenes, fitting_scene_metrics, prepare_scenes
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
    scenes: SceneTest | None = None  # what is measured by scenes, instead of all else

    @property
    def draws(self) -> bool:
        """Whether images are drawn."""
        return bool(self.metrics or self.scenes and self.scenes.sets)

    @property
    def total(self) -> int:
        """How many evaluations of the network `run` takes, guided ones counted twice."""
        drawing = self.plan.n * self.plan.evaluations if self.draws else 0
        return drawing + self.nll_images * evaluations_for_an_image(self.plan.model)

    def run(self, progress: Callable[[int], None] | None = None) -> Report:
        """Draws and measures; ``progress`` is called with the number of network evaluations just begun, of `total`."""
        plan, real, measured = self.plan, self.real, dict[str, Measurement]()
        compares = real is not None and compare_with_real(self.metrics)
        if self.scenes is not None:
            measured = self.scenes.measure(plan, draw(plan, progress) if self.draws else None)
        elif self.metrics:
            images = {"drawn": draw(plan, progress)}
            labels = torch.tensor(plan.wishes) if plan.model.conditioner.names else None
            if real is not None and compares:  # in the data's mix, the baseline has the classes of the drawn images
                images |= real.comparison(plan.n, None if self.data_mix else labels)
            measured = measure(self.metrics, self.extractors, images, labels, real.other_split if real else "")
        if real is not None and self.nll_images:
            measured |= measure_nll(plan, real.images, self.nll_images, progress=progress)
        reference = self.scenes.source if self.scenes else real if compares else None
        record = {
            **asdict(plan.request),
            "data_mix": self.data_mix,
            "steps": plan.steps,
            "evaluations": plan.evaluations,
            "eta": plan.request.eta if "eta" in plan.method.options else None,
            "device": plan.device.type,
            "request": asdict(plan.request),
            "reference": reference.description() if reference else None,
            "metrics": {name: asdict(figure) for name, figure in measured.items()},
            "fromnoise": __version__,
            "torch": importlib.metadata.version("torch"),
        }
        title = _title(record, by_scenes=self.scenes is not None) if self.draws else self._measured_alone()
        lines = {name: figure.meaning for name, figure in measured.items()}
        return Report(title, lines, _warning(plan.n, self.metrics), record)

    def _measured_alone(self) -> str:
        """The real images, where none are drawn."""
        if self.scenes is not None:
            source = self.scenes.source
            return f"{self.scenes.n} scenes of {SPLIT_NAMES[source.split]} of {source.name}"
        return f"{SPLIT_NAMES[self.real.split]} of {self.real.name}" if self.real else "nothing"


def prepare(
    model: Model,
    request: Request,
    metrics: Sequence[str] | None = None,
    real: RealImages | None = None,
    *,
    data_mix: bool = False,
    features: str | None = None,
    nll_images: int = NLL_IMAGES,
    scenes: TrueScenes | None = None,
) -> Evaluation:
    """Checks what is to be measured, and opens and reads all that it takes.

    Args:
        request: ``n`` is `ENOUGH` unless told otherwise; by scenes it is as `prepare_scenes` takes it.
        metrics: of `METRICS`, or ``nll``; or else of `SCENE_METRICS`; none: all that fit the model but ``nll``, which
            draws nothing and takes long.
        real: the real images, for all but ``accuracy`` and `SCENE_METRICS`.
        data_mix: ask for each class as often as it occurs among n real images; the request names no classes then.
        features: what ``kid`` and ``pr`` use; none: the classifier's where it fits, else Inception's.
        nll_images: of how many real images ``nll`` is measured; of all, if there are fewer.
        scenes: those that a model of scenes is measured by.

    Raises:
        UserError: the request or a metric does not fit the model, the data cannot be read, or Inception is not there.
    """
    metrics = metrics or (fitting_scene_metrics(model, scenes) if scenes else fitting_metrics(model))
    if {*metrics} & {*SCENE_METRICS}:
        if data_mix or features is not None:
            unused = "--data-mix" if data_mix else "--features"
            raise UserError(f"nothing that goes by scenes takes {unused}: leave it out")
        planned, test = prepare_scenes(model, request, metrics, scenes)
        return Evaluation(planned, {}, {}, None, False, 0, test)
    planned = plan(model, replace(request, n=ENOUGH if request.n is None else request.n))
    used = features_of_metrics(metrics, model, planned.n, features)
    if "classifier" in used.values() and planned.shape != model.space.shape:
        raise UserError("the classifier reads digits of 28x28 pixels: leave --height, --width and --init-image out")
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


def _title(record: Mapping[str, Any], by_scenes: bool) -> str:
    """What was drawn, how, and what it is compared with."""
    classes = f" of classes {','.join(map(str, record['classes']))}" if record["classes"] else ""
    mix = " in the mix of classes of the data" if record["data_mix"] else classes
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
    real, beside = record["reference"], "beside scenes of" if by_scenes else "against"
    return (
        f"{record['n']} images{' of each kind of prompt' if by_scenes else mix} by "
        f"{record['sampler']}, {', '.join(filter(None, settings))}: {record['evaluations']} network evaluations each; "
        f"seed {record['seed']}, {record['dtype']}"
        + (f"; {beside} {real['size']} {SPLIT_NAMES[real['split']]} of {real['name']}" if real else "")
    )


def _warning(n: int, metrics: Mapping[str, str]) -> str:
    if n >= ENOUGH or not metrics:
        return ""
    if {"fd", "fid"} & set(metrics):
        return f"the distance of {n} images comes out too large: do not compare it with that of {ENOUGH}"
    return f"{n} images are few: do not compare these figures with those of {ENOUGH}"
