"""How well a model explains images, in nats (divide by ``D ln 2`` for bits per dimension)."""

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import Schedule


def prior_gap(schedule: Schedule, x0: Tensor) -> Tensor:
    """What sampling from N(0, 1) at time T ignores: ``KL(q(x_T | x_0) || N(0, I))`` in nats, ``(B,)``. Eq. prior-gap.

    ``1/2 sum (alpha_T^2 x_0^2 + sigma_T^2 - 1 - log sigma_T^2)`` over the elements of a sample.

    Args:
        x0: ``(B, ...)``.

    Source: Ho et al. 2020 (arXiv 2006.11239), section 3.1: the bound's term L_T.
    """
    alpha_bar = schedule.alpha_bar[-1].item()
    x0 = x0.flatten(1).to(torch.promote_types(x0.dtype, torch.float32))
    # sigma_T^2 - 1 is -alpha_bar, and its logarithm log1p(-alpha_bar): exact where sigma_T is close to 1.
    log_variance = torch.log1p(torch.tensor(-alpha_bar, dtype=torch.float64)).item()
    return 0.5 * (alpha_bar * (x0.square() - 1) - log_variance).sum(1)
