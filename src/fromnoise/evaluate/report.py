"""Draws the images of a request, measures them, and says what was measured of what."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fromnoise.errors import UserError
from fromnoise.evaluate.metrics import ENOUGH, METRICS, check_metrics, measure
from fromnoise.generate import Request, generate
from fromnoise.models import Model


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        title: the images and how they were drawn, in a line.
        lines: each metric's figure in words, by its name.
        warning: what to beware of, or nothing.
        record: all of it as plain values, for a file.
    """

    title: str
    lines: dict[str, str]
    warning: str
    record: dict[str, Any]


def evaluate(
    model: Model,
    request: Request,
    metrics: tuple[str, ...] | None,
    data: str,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Draws and measures.

    Args:
        metrics: of `METRICS`; none: all that fit the model.
        data: the real images, a hub id or a folder.

    Raises:
        UserError: the request or a metric does not fit the model, or the data cannot be read.
    """
    config = model.unet.config
    if metrics is None:
        metrics = METRICS if model.num_classes else ("fd",)
    check_metrics(metrics, (config.in_channels, config.sample_size, config.sample_size), model.num_classes)
    request.validate(model)
    if "fd" in metrics and request.n < 2:
        raise UserError("fd is a distance between many images: --n must be at least 2")
    measured = measure(metrics, lambda: generate(model, request, progress), request.labels(model), data)

    guidance, steps = request.guidance_scale(model), request.num_steps(model)
    evaluations = request.evaluations(model)
    drawn = {
        "n": request.n,
        "sampler": request.sampler,
        "steps": steps,
        "evaluations": evaluations,
        "guidance": guidance,
        "seed": request.seed,
        "dtype": request.dtype,
    }
    title = (
        f"{request.n} images of {request.sampler}, {steps} steps, guidance {guidance:g}: {evaluations} network "
        f"evaluations each; seed {request.seed}, {request.dtype}"
    )
    few = "fd" in metrics and request.n < ENOUGH
    return Report(
        title,
        {name: figure.meaning for name, figure in measured.items()},
        f"the distance of {request.n} images comes out too large: compare it with none of {ENOUGH}" if few else "",
        drawn | {"torch": torch.__version__, "metrics": {name: asdict(figure) for name, figure in measured.items()}},
    )
