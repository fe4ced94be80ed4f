"""Draws the images of a request, measures them, and says what was measured of what."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fromnoise import __version__
from fromnoise.devices import resolve_device
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import SHAPE
from fromnoise.evaluate.likelihood import NLL_IMAGES, ODE_STEPS, measure_nll
from fromnoise.evaluate.metrics import (
    ENOUGH,
    SPLIT_NAMES,
    Measurement,
    RealImages,
    Reference,
    check_metrics,
    classes_as_in,
    fitting_metrics,
    load_real_images,
    measure,
)
from fromnoise.generate import Request, generate
from fromnoise.models import Model, shipped_models
from fromnoise.train.config import load_config

MNIST = "ylecun/mnist"


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        title: the images, how they were drawn and what they are compared with, in a line.
        lines: each metric's figure in words, by its name.
        warning: what to beware of, or nothing.
        record: all of it as plain values, for a file; ``Request(**record["request"])`` draws the images again, unless
            its classes are ``"data"``, which stands for `classes_as_in`.
    """

    title: str
    lines: dict[str, str]
    warning: str
    record: dict[str, Any]


def reference_of(model: Model, name: str, data: str | None = None, split: str = "test") -> Reference | None:
    """What a model's images are compared with.

    Args:
        name: of the model, as `open_model` takes it.
        data: the real images, a hub id or a folder; none: those that the ``training.toml`` beside the model names, or
            MNIST if there is none and the images have its size.
        split: ``test`` or ``train``.

    Returns:
        none if nothing tells.

    Raises:
        UserError: the ``training.toml`` cannot be read.
    """
    shipped = {model.name: model.path for model in shipped_models()}
    path = shipped.get(name, Path(name)) / "training.toml"
    if path.is_file():
        config = load_config(str(path)).data
        return Reference(config.source if data is None else data, split, config.image_column, config.label_column)
    source = MNIST if data is None and _shape(model) == SHAPE else data
    return None if source is None else Reference(source, split)


def _shape(model: Model) -> tuple[int, int, int]:
    """(C, H, W) of the images that a model draws."""
    config = model.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def evaluate(
    model: Model,
    request: Request,
    metrics: tuple[str, ...] | None = None,
    reference: Reference | None = None,
    *,
    data_mix: bool = False,
    features: str | None = None,
    nll_images: int = NLL_IMAGES,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Draws and measures.

    Args:
        metrics: of `METRICS`; none: all that fit the model but ``nll``, which draws nothing and takes long.
        reference: the real images, for all but ``accuracy``.
        data_mix: ask for each class as often as it comes among as many real images, rather than for the request's.
        features: by what ``kid`` and ``pr`` compare; none: by the classifier's where it fits, else by Inception's.
        nll_images: of how many real images ``nll`` is measured.
        progress: called with the number of network evaluations just done, of `evaluations_ahead`.

    Raises:
        UserError: the request or a metric does not fit the model, the data cannot be read, or Inception is not there.
    """
    shape = _shape(model)
    metrics = metrics or fitting_metrics(shape, model.class_names)
    judges = check_metrics(metrics, shape, model.class_names, request.n, features)
    request.validate(model)
    compares = bool(set(judges) - {"accuracy"})
    if (compares or "nll" in metrics) and reference is None:
        raise UserError("which real images? The model does not tell what it was trained on: give --data")
    if data_mix:
        if reference is None or not model.num_classes:
            raise UserError("--classes data needs a model with classes, and --data: leave it out")
        request = replace(request, classes=classes_as_in(reference, shape, request.n))
        request.validate(model)
    labels = request.labels(model)
    alike = None if data_mix else labels  # with the data's own mix, any others are alike
    real = load_real_images(reference, shape, request.n, alike) if reference and compares else None
    explained = reference.load(shape, labelled=bool(model.num_classes)) if reference and "nll" in metrics else None
    device = resolve_device(request.device)
    measured: dict[str, Measurement] = {}
    if judges:
        measured = measure(judges, lambda: generate(model, request, progress), labels, real, device)
    if explained is not None:
        measured |= measure_nll(
            model,
            explained,
            n=nll_images,
            ode_steps=_ode_steps(model),
            seed=request.seed,
            device=request.device,
            dtype=request.dtype,
            progress=progress,
        )
    asked_for = {"classes": "data"} if data_mix else {}
    drawn = _drawn(model, request) | asked_for
    title = f"{SPLIT_NAMES[reference.split]} of {reference.name}" if reference and not judges else ""
    return Report(
        title or _title(drawn, request, real),
        {name: figure.meaning for name, figure in measured.items()},
        _warning(request.n, judges),
        drawn
        | {
            "device": device.type,
            "request": asdict(request) | asked_for,
            "reference": None if real is None else _described(real),
            "metrics": {name: asdict(figure) for name, figure in measured.items()},
            "fromnoise": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "torchmetrics")},
        },
    )


def evaluations_ahead(
    model: Model, request: Request, metrics: tuple[str, ...] | None, nll_images: int = NLL_IMAGES
) -> int:
    """How many evaluations of the network `evaluate` takes, guidance not counted."""
    drawing = request.n * request.num_steps(model) if metrics is None or set(metrics) != {"nll"} else 0
    explaining = nll_images * (model.scheduler.num_train_timesteps + 4 * _ode_steps(model))
    return drawing + (explaining if metrics and "nll" in metrics else 0)


def _ode_steps(model: Model) -> int:
    return min(ODE_STEPS, model.scheduler.num_train_timesteps - 1)


def _drawn(model: Model, request: Request) -> dict[str, Any]:
    """How the images are drawn, with what the request leaves to the model."""
    scheduler = model.scheduler
    return {
        "n": request.n,
        "classes": request.classes,
        "sampler": request.sampler,
        "steps": request.num_steps(model),
        "evaluations": request.evaluations(model),
        "spacing": request.spacing or ("karras" if request.sampler == "heun" else scheduler.timestep_spacing),
        "eta": request.eta if request.sampler == "ddim" else None,
        "variance": (request.variance or scheduler.variance_type) if request.sampler == "ddpm" else None,
        "clip": scheduler.clip_sample if request.clip is None else request.clip,
        "guidance": request.guidance,
        "guide": request.guide,
        "guidance_interval": request.guidance_interval,
        "guidance_rescale": request.guidance_rescale,
        "seed": request.seed,
        "dtype": request.dtype,
    }


def _title(drawn: dict[str, Any], request: Request, real: RealImages | None) -> str:
    """What was drawn, and what it is compared with; of what is left to the model, only what differs much."""
    classes = f" of classes {','.join(map(str, request.classes))}" if request.classes else ""
    if drawn["classes"] == "data":
        classes = ", of each class as many as in the data,"
    settings = [f"{drawn['steps']} steps", f"{drawn['spacing']} spacing"]
    if request.eta:
        settings.append(f"eta {request.eta:g}")
    if request.variance is not None:
        settings.append(f"variance {request.variance}")
    if request.clip is not None:
        settings.append("clipped" if request.clip else "not clipped")
    settings.append(f"guidance {drawn['guidance']:g}" + (f" away from {request.guide}" if request.guide else ""))
    if drawn["guidance_interval"] is not None:
        settings.append("only at noise levels {:g} to {:g}".format(*drawn["guidance_interval"]))
    if request.guidance_rescale:
        settings.append(f"rescaled by {request.guidance_rescale:g}")
    title = (
        f"{request.n} images{classes} by {request.sampler}, {', '.join(settings)}: {drawn['evaluations']} network "
        f"evaluations each; seed {request.seed}, {request.dtype}"
    )
    if real is None:
        return title
    return f"{title}; against {len(real.pixels)} {SPLIT_NAMES[real.reference.split]} of {real.reference.name}"


def _described(real: RealImages) -> dict[str, Any]:
    return {
        "name": real.reference.name,
        "split": real.reference.split,
        "size": len(real.pixels),
        "shape": list(real.pixels.shape[1:]),
        "checksum": real.checksum,
    }


def _warning(n: int, judges: dict[str, str]) -> str:
    if n >= ENOUGH or not judges:
        return ""
    if {"fd", "fid"} & set(judges):
        return f"the distance of {n} images comes out too large: compare it with none of {ENOUGH}"
    return f"{n} images are few: compare with no figure of {ENOUGH}"
