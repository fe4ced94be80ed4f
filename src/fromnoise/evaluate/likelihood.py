"""How well a model explains real images, in bits per dimension: the variational bound, and the density of the ODE."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fromnoise.data.images import Images
from fromnoise.devices import DTYPES, rows_at_a_time
from fromnoise.diffusion.likelihood import bits_per_dim, vlb_terms
from fromnoise.diffusion.ode_likelihood import ode_log_likelihood
from fromnoise.diffusion.samplers import Spacing, Variance, sampling_times
from fromnoise.errors import UserError
from fromnoise.evaluate.metrics import Measurement
from fromnoise.models import Model
from fromnoise.sampling.plan import Plan

NLL_IMAGES, ODE_STEPS = 32, 40
"""of how many images, and in how many steps, likelihood is measured unless told otherwise"""
GREY_LEVEL = 2 / 255
"""between two neighbouring ones, in [-1, 1]"""


def check_images(model: Model, images: Images, n: int) -> None:
    """Refuses images that `measure_nll` cannot measure.

    Raises:
        UserError: fewer than 2 of them, no labels for a model that needs them, classes that it does not know, or a
            model that sees latents.
    """
    if model.space.shape != model.space.image_shape:
        raise UserError("nll measures how likely images are, and this model sees latents: leave it out of --metrics")
    if min(n, len(images)) < 2:
        raise UserError(f"a mean with its standard error takes 2 images or more, not {min(n, len(images))}")
    if model.conditioner.names and images.labels is None:
        raise UserError("this model is asked for a class: the real images need labels")
    model.conditioner.wishes(None if images.labels is None else images.labels.unique().tolist(), len(images))


def evaluations_for_an_image(model: Model, ode_steps: int = ODE_STEPS) -> int:
    """How often the network is asked by `measure_nll` for an image: T for the bound, 4 for each step of the ODE."""
    return model.noise.num_train_timesteps + 4 * _possible(model, ode_steps)


def measure_nll(
    plan: Plan,
    images: Images,
    n: int = NLL_IMAGES,
    *,
    ode_steps: int = ODE_STEPS,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Measurement]:
    """Bits per dimension of real images: by the variational bound, ``vlb``, and by the density of the ODE, ``ode``.

    Both ask a class-conditional model for the image given its label, without guidance, and never clip x0_hat. The bound
    has all T terms, with the variance of the model's scheduler; it would be 8 bits if all grey levels were equally
    probable. The ODE leads from noise to time 1, the last that the network knows, and has a density there. An image
    with noise added, uniform over a grey level, costs ``-log2 p / D + log2(255 / 2)`` bits by it: on average that is an
    upper bound of what the grey levels cost, too. The two belong to different models of the image, and either can be
    the lower one. An evaluation for the ODE comes with a derivative and takes as long as 4.

    Args:
        plan: with the model, the device, the precision (bf16 is too coarse for the little noise at time 1: the bound
            comes out larger) and the seed: image i of all draws what it needs from a generator seeded with seed + i, so
            that its figures do not depend on n.
        images: with labels if the model is conditional; those that `check_images` accepts.
        n: how many images are measured, chosen at random by the seed; all, if there are fewer.
        ode_steps: of the method of Runge and Kutta; at most T - 1 are taken.
        progress: called with the number of evaluations just begun, of n times `evaluations_for_an_image`.

    Returns the means, with their standard errors over the images in the details; ``vlb`` has its parts there, too:
    ``decoder`` is L_0, ``steps`` the sum of L_1 to L_{T-1}, ``prior_gap`` L_T.
    """
    model = replace(plan.model, noise=plan.model.noise.with_signal())  # the ODE starts at a finite noise level
    device, seed = plan.device, plan.request.seed
    denoise = model.denoiser(device, DTYPES[plan.request.dtype], progress=progress)
    ode_steps = _possible(model, ode_steps)
    times = sampling_times(model.noise.schedule(), ode_steps + 1, Spacing.LOG_SNR)[-2::-1]  # rising, from 1
    variance = Variance(model.noise.variance_type)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    costs = []  # of each image, in nats: L_0, the steps, L_T, the ODE
    for indices in chosen.split(rows_at_a_time(model.unet.config, device)):
        x0, labels = images.batch(indices)
        x0 = x0.to(device)
        encoded = model.conditioner.encode([] if labels is None else labels.tolist())
        condition: dict[str, Any] = {name: value.to(device) for name, value in encoded.items()}
        with torch.no_grad():
            terms = vlb_terms(denoise, x0, variance, _generators(seed, indices), **condition)
        generators = _generators(seed, indices)
        uniform = torch.stack([torch.rand(x0.shape[1:], generator=generator) for generator in generators])
        dequantized = x0 + GREY_LEVEL * (uniform - 0.5).to(device)
        ode = -ode_log_likelihood(denoise, dequantized, times, generators, **condition)
        costs.append(torch.stack([terms[:, 0], terms[:, 1:-1].sum(1), terms[:, -1], ode], dim=1).cpu().double())

    decoder, steps, prior_gap, ode = bits_per_dim(torch.cat(costs), x0[0].numel()).unbind(1)
    vlb, parts = decoder + steps + prior_gap, {"decoder": decoder, "steps": steps, "prior_gap": prior_gap}
    return {
        "vlb": _measurement(vlb, "by the variational bound", **parts),
        "ode": _measurement(ode - math.log2(GREY_LEVEL), f"by the density of the ODE, in {ode_steps} steps"),
    }


def _possible(model: Model, ode_steps: int) -> int:
    """The steps of the ODE lie between the T times that the network knows."""
    return min(ode_steps, model.noise.num_train_timesteps - 1)


def _generators(seed: int, indices: Tensor) -> list[torch.Generator]:
    """The generator of each image."""
    return [torch.Generator().manual_seed(seed + int(i)) for i in indices]


def _measurement(bits: Tensor, how: str, **parts: Tensor) -> Measurement:
    """The mean of images' bits ``(N,)`` and of their parts, each with its standard error."""

    def mean_and_error(values: Tensor) -> tuple[float, float]:
        return values.mean().item(), (values.std() / len(values) ** 0.5).item()

    value, error = mean_and_error(bits)
    details: dict[str, float] = {"standard_error": error, "images": len(bits)}
    for name, part in parts.items():
        details[name], details[f"{name}_standard_error"] = mean_and_error(part)
    meaning = f"{value:.3f} +- {error:.3f} bits per dimension of {len(bits)} images {how}"
    if parts:
        meaning += f" ({', '.join(f'{name} {details[name]:.3f}' for name in parts)})"
    return Measurement(value, meaning, details)
