"""Chapter 9: latents."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import Draws
from formulas.values import Average
from formulas.vocabulary import SCHEDULE, at, counted
from fromnoise.diffusion import latents, losses, process, reconstruction
from fromnoise.diffusion.losses import Weighting
from fromnoise.diffusion.parameterization import Prediction


@printed()
def vae_kl(draw: Draws) -> Iterator[Case]:
    mean, log_variance = draw.normal(1, 4), draw.normal(1, 4)
    yield {
        r"\mathrm{KL}": latents.kl_to_standard_normal(mean, log_variance),
        r"\mu_": counted(mean[0]),
        "d_": counted((log_variance[0] / 2).exp()),
        "over i": range(1, 5),
    }


@printed()
def edge_error(draw: Draws) -> Iterator[Case]:
    """Of a picture so narrow that none of the differences is square."""
    output, target = draw.uniform(-1, 1, 1, 1, 10, 4), draw.uniform(-1, 1, 1, 1, 10, 4)
    error = (output - target)[0, 0]
    half = F.avg_pool2d(error[None, None], 2)[0, 0]
    yield {
        "G": reconstruction.edge_error(output, target),
        r"\Delta_1 e": error.diff(dim=0),
        r"\Delta_2 e": error.diff(dim=1),
        r"\Delta_1 h": half.diff(dim=0),
        r"\Delta_2 h": half.diff(dim=1),
        "m": torch.mean,
    }


@printed()
def scale(draw: Draws) -> Iterator[Case]:
    z = 3 * draw.normal(1, 2, 2, 2) + 1
    yield {"k": latents.scaling_factor(z), "z_": counted(z.flatten()), r"\bar z": z.mean(), "N": z.numel()}


@printed()
def ldm_loss(draw: Draws) -> Iterator[Case]:
    cases, errors = [], []

    def network(z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return torch.sin(1.3 * z_t) + 0.2 * t + context

    for t in (1, 4, 7):
        z, noise, caption = draw.normal(1, 3), draw.normal(1, 3), draw.normal(1)
        errors.append(
            losses.training_loss(
                lambda z_t, t, context: network(z_t, t + 1, context),  # a network counts the steps from 0
                SCHEDULE,
                Prediction.NOISE,
                Weighting.SIMPLE,
                z,
                at(t),
                noise,
                context=caption.exp(),
            )
        )
        z_t = process.forward_marginal(SCHEDULE, z, at(t), noise)
        cases.append({r"\epsilon": noise, "z_t": z_t, "t": t, "y": caption})
    yield {
        "L": torch.cat(errors).mean(),
        r"\epsilon_\theta": network,
        r"\tau": torch.exp,
        "D": 3,
        "E": Average.over(cases),
    }


@printed()
def psnr(draw: Draws) -> Iterator[Case]:
    output, target = draw.uniform(-1, 1, 1, 6), draw.uniform(-1, 1, 1, 6)
    yield {"P": reconstruction.psnr(output, target), "D": 6, r"\hat x_": counted(output[0]), "x_": counted(target[0])}
