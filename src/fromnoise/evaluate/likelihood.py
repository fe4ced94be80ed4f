"""How well a model explains real images, in bits per dimension: the variational bound, and the density of the ODE."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.images import Images
from fromnoise.devices import DTYPES, resolve_device, rows_at_a_time
from fromnoise.diffusion.likelihood import bits_per_dim, vlb_terms
from fromnoise.diffusion.ode_likelihood import ode_log_likelihood
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.diffusion.samplers import Spacing, Variance, sampling_times
from fromnoise.errors import UserError
from fromnoise.evaluate.metrics import Measurement
from fromnoise.generate import placed
from fromnoise.models import Model

NLL_IMAGES, ODE_STEPS = 32, 40
"""of how many images, and in how many steps, likelihood is measured unless told otherwise"""
GREY_LEVEL = 2 / 255
"""between two neighbouring ones, in [-1, 1]"""


def measure_nll(
    model: Model,
    images: Images,
    *,
    n: int = NLL_IMAGES,
    ode_steps: int = ODE_STEPS,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Measurement]:
    """Bits per dimension of real images: by the variational bound, ``vlb``, and by the density of the ODE, ``ode``.

    Both ask a class-conditional model for the image given its label, without guidance, and never clip x0_hat. The bound
    has all T terms, with the variance of the model's scheduler; 8 bits is what a grey level costs if all are alike. The
    ODE leads from noise to time 1, the last that the network knows, and has a density there. An image with noise
    added, uniform over a grey level, costs ``-log2 p / D + log2(255 / 2)`` bits by it: on average an upper bound, too,
    of what the grey levels cost. The two belong to different models of the image, and either can be the lower one.

    For an image the bound takes T evaluations of the network, and the ODE 4 ode_steps, with a derivative, which are as
    long as 4 each: mnist-conditional takes 8 seconds on one core.

    Args:
        n: how many images are measured, chosen at random; all, if there are fewer.
        ode_steps: of the method of Runge and Kutta, at least 1 and below T.
        seed: chooses the images; the i-th of all draws what it needs from a generator seeded with seed + i, so that its
            figures do not depend on n.
        device: see `devices.resolve_device`.
        dtype: fp32 or bf16, which is too coarse for the little noise at time 1: the bound comes out larger.
        progress: called with the number of evaluations just done, of n (T + 4 ode_steps).

    Returns:
        the means, with their standard errors over the images in the details; ``vlb`` has its parts there, too:
        ``decoder`` is L_0, ``steps`` the sum of L_1 to L_{T-1}, ``prior_gap`` L_T.

    Raises:
        UserError: images or options that do not fit the model.
    """
    _check(model, images, n, ode_steps, seed, dtype)
    schedule, place = model.scheduler.schedule(), resolve_device(device)
    network = placed(model.unet, place, DTYPES[dtype])

    def predict(x: Tensor, timestep: Tensor, **condition: Tensor) -> Tensor:
        if progress is not None:
            progress(len(x))
        return network(x.to(DTYPES[dtype]), timestep, **condition)

    denoise = NetworkDenoiser(predict, schedule, Prediction(model.scheduler.prediction_type))
    times = sampling_times(schedule, ode_steps + 1, Spacing.LOG_SNR)[-2::-1]  # rising, from 1
    variance = Variance(model.scheduler.variance_type)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    costs = []  # of each image, in nats: L_0, the steps, L_T, the ODE
    for indices in chosen.split(rows_at_a_time(model.unet.config, place)):
        x0, labels = images.batch(indices)
        x0 = x0.to(place)
        condition: dict[str, Any] = {}
        if model.num_classes and labels is not None:
            condition["class_labels"] = labels.to(place)
        with torch.no_grad():
            terms = vlb_terms(denoise, x0, variance, _generators(seed, indices), **condition)
        generators = _generators(seed, indices)
        uniform = torch.stack([torch.rand(x0.shape[1:], generator=generator) for generator in generators])
        dequantized = x0 + GREY_LEVEL * (uniform - 0.5).to(place)
        ode = -ode_log_likelihood(denoise, dequantized, times, generators, **condition)
        costs.append(torch.stack([terms[:, 0], terms[:, 1:-1].sum(1), terms[:, -1], ode], dim=1).cpu().double())

    decoder, steps, prior_gap, ode = bits_per_dim(torch.cat(costs), x0[0].numel()).unbind(1)
    parts = {"decoder": decoder, "steps": steps, "prior_gap": prior_gap}
    return {
        "vlb": _measurement(decoder + steps + prior_gap, "by the variational bound", parts),
        "ode": _measurement(ode - math.log2(GREY_LEVEL), f"by the density of the ODE, in {ode_steps} steps", {}),
    }


def _generators(seed: int, indices: Tensor) -> list[torch.Generator]:
    """The generator of each image."""
    return [torch.Generator().manual_seed(seed + int(i)) for i in indices]


def _measurement(bits: Tensor, how: str, parts: dict[str, Tensor]) -> Measurement:
    """The mean of images' bits ``(N,)`` and of their parts, each with its standard error."""
    details: dict[str, float] = {"standard_error": _standard_error(bits), "images": len(bits)}
    for name, part in parts.items():
        details |= {name: part.mean().item(), f"{name}_standard_error": _standard_error(part)}
    value, error = bits.mean().item(), details["standard_error"]
    meaning = f"{value:.3f} +- {error:.3f} bits per dimension of {len(bits)} images {how}"
    if parts:
        meaning += f" ({', '.join(f'{name} {details[name]:.3f}' for name in parts)})"
    return Measurement(value, meaning, details)


def _standard_error(values: Tensor) -> float:
    """Of the mean of independent values, ``(N,)``."""
    return (values.std() / len(values) ** 0.5).item()


def _check(model: Model, images: Images, n: int, ode_steps: int, seed: int, dtype: str) -> None:
    """Refuses what cannot be measured, with a `UserError` of one line."""
    config, total = model.unet.config, model.scheduler.num_train_timesteps
    shape = (config.in_channels, config.sample_size, config.sample_size)
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: there are {', '.join(DTYPES)}")
    if min(n, len(images)) < 2:
        raise UserError(f"a mean with its standard error takes 2 images or more, not {min(n, len(images))}")
    if not 1 <= ode_steps < total:
        raise UserError(f"ode-steps must be between 1 and {total - 1} for this model, not {ode_steps}")
    if not 0 <= seed <= 2**63 - len(images):
        raise UserError(f"seed must be between 0 and 2^63, not {seed}")
    if config.out_channels != config.in_channels:
        raise UserError(f"this model takes {config.in_channels} channels and predicts {config.out_channels}")
    if images.pixels.shape[1:] != shape:
        given, wanted = ("x".join(map(str, size)) for size in (images.pixels.shape[1:], shape))
        raise UserError(f"the images are {given}: this model explains {wanted}")
    if model.num_classes and images.labels is None:
        raise UserError("this model is class-conditional: the images need labels")
    if model.num_classes and images.labels is not None and int(images.labels.max()) >= model.num_classes:
        raise UserError(f"there is no class {int(images.labels.max())}: this model knows 0 to {model.num_classes - 1}")
