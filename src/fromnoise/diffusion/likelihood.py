"""How well a model explains images: the variational bound, term by term, in nats (`bits_per_dim` divides)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import (
    Generator,
    forward_marginal,
    noise_like,
    posterior_coefficients,
    posterior_variance,
)
from fromnoise.diffusion.samplers import Variance
from fromnoise.diffusion.schedules import Schedule, discrete


def vlb_terms(
    denoise: Denoiser,
    x0: Tensor,
    variance: Variance | Tensor,
    generator: Generator,
    *,
    discretized: bool = True,
    **condition: Tensor,
) -> Tensor:
    """The terms L_0, ..., L_T whose sum bounds ``-log p(x_0)`` from above on average, ``(B, T + 1)`` nats.

    Eq. elbo-terms: L_0 is what x_0 costs once x_1 is known, ``L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))``
    for t = 2..T, and L_T is `prior_gap`. Each is estimated without bias from one draw of x_t, and the denoiser is
    asked T times.

    Args:
        x0: ``(B, ...)``, in [-1, 1].
        variance: the model's, one of the sampler's two choices, or ``(T,)`` for the steps 1..T, each above 0 (such as
            `process.reverse_variance`). Step 1, where beta~ is 0, has ``beta_1`` in both choices; DDPM's released
            code has ``beta~_2``.
        discretized: L_0 is the cost of a grey level; if not, of a point, by the density ``N(x_0; x0_hat, variance)``.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 5.
    """
    schedule = discrete(denoise.schedule)
    time = torch.arange(1, schedule.num_timesteps + 1, dtype=torch.float64)
    posterior = posterior_variance(schedule, time - 1, time)
    match variance:
        case Variance.SMALL:
            model = torch.cat([schedule.betas[:1], posterior[1:]])
        case Variance.LARGE:
            model = schedule.betas
        case _:
            model = variance
    of_x0, _ = posterior_coefficients(schedule, time - 1, time)
    steps = zip(of_x0.tolist(), posterior.tolist(), model.tolist(), strict=True)

    terms, dims = [], x0[0].numel()
    for step, (share, truth, chosen) in enumerate(steps, start=1):
        t = torch.full((len(x0),), step, dtype=torch.promote_types(x0.dtype, torch.float32), device=x0.device)
        x0_hat = denoise(forward_marginal(schedule, x0, t, noise_like(x0, generator)), t, **condition)
        # Both means have the same share of x_t, so they differ by what they have of the image.
        squared_distance = share**2 * (x0 - x0_hat).square().flatten(1).sum(1)
        if step > 1:
            terms.append(isotropic_kl(squared_distance, dims, truth, chosen))
        elif discretized:
            terms.append(-discretized_gaussian_log_likelihood(x0, x0_hat, math.sqrt(chosen)).flatten(1).sum(1))
        else:
            terms.append(0.5 * (squared_distance / chosen + dims * math.log(2 * math.pi * chosen)))
    return torch.stack([*terms, prior_gap(schedule, x0)], dim=1)


def continuous_bound(
    denoise: Denoiser, x0: Tensor, levels: Sequence[float], generator: Generator, **condition: Tensor
) -> Tensor:
    """What infinitely many small steps between two noise levels cost in the bound, ``(B,)`` nats. Eq. vlb-continuous.

    ``-1/2 int SNR'(t) E|x_0 - x0_hat|^2 dt``, the limit of L_1 + ... + L_{T-1}. Over the noise level ``sigma / alpha``
    it is ``int E|x_0 - x0_hat|^2 / level^2 dlog(level)``, so that nothing of a schedule matters but its ends. The
    integral is estimated without bias, however few the levels are: in each stretch between two of them every image
    draws a level of its own, uniformly in the logarithm, and one noise.

    Args:
        x0: ``(B, ...)``.
        levels: N + 1 rising noise levels, the first above 0; the denoiser is asked N times.

    Raises:
        ValueError: levels that do not rise from above 0, or that the schedule does not reach.

    Source: Kingma et al. 2021 (arXiv 2107.00630), section 5; stretches for less variance as in its appendix I.1.
    """
    if len(levels) < 2 or levels[0] <= 0 or any(high <= low for low, high in pairwise(levels)):
        raise ValueError("noise levels must rise from above 0, two of them or more")
    time = torch.empty(len(x0), dtype=torch.promote_types(x0.dtype, torch.float32), device=x0.device)
    costs = []
    for low, high in pairwise(levels):
        share = torch.special.ndtr(noise_like(time, generator))  # uniform between 0 and 1
        level = (low * (high / low) ** share).clamp(max=high)
        t = denoise.schedule.time(level)
        x0_hat = denoise(forward_marginal(denoise.schedule, x0, t, noise_like(x0, generator)), t, **condition)
        squared_distance = (x0 - x0_hat).square().flatten(1).sum(1)
        costs.append(math.log(high / low) * squared_distance / level.square())
    return torch.stack(costs).sum(0)


def prior_gap(schedule: Schedule, x0: Tensor) -> Tensor:
    """What sampling from N(0, 1) at time T ignores: ``KL(q(x_T | x_0) || N(0, I))`` in nats, ``(B,)``. Eq. prior-gap.

    ``1/2 sum (alpha_T^2 x_0^2 + sigma_T^2 - 1 - log sigma_T^2)`` over the elements of a sample.

    Args:
        x0: ``(B, ...)``.

    Source: Ho et al. 2020 (arXiv 2006.11239), section 3.1: the bound's term L_T.
    """
    alpha_bar = schedule.alpha_bar[-1].item()
    x0 = x0.flatten(1).to(torch.promote_types(x0.dtype, torch.float32))
    return isotropic_kl(alpha_bar * x0.square().sum(1), x0.shape[1], 1 - alpha_bar, 1.0)


def gaussian_kl(mean_0: Tensor, cov_0: Tensor, mean_1: Tensor, cov_1: Tensor) -> Tensor:
    """``KL(N(mean_0, cov_0) || N(mean_1, cov_1))`` in nats, ``(...)``. Eq. gaussian-kl.

    ``1/2 (tr(cov_1^-1 cov_0) - D + d^T cov_1^-1 d + log |cov_1| / |cov_0|)`` with ``d = mean_1 - mean_0``.

    Args:
        mean_0, mean_1: ``(..., D)``.
        cov_0, cov_1: ``(..., D, D)``, positive definite.

    Source: Rasmussen and Williams 2006 (Gaussian Processes for Machine Learning), equation A.23.
    """
    root_0, root_1 = torch.linalg.cholesky(cov_0), torch.linalg.cholesky(cov_1)
    ratio = torch.linalg.solve_triangular(root_1, root_0, upper=False)  # its square is cov_1^-1 cov_0, up to a rotation
    offset = torch.linalg.solve_triangular(root_1, (mean_1 - mean_0)[..., None], upper=False)
    log_ratio = ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # log |cov_0| / |cov_1|, halved
    return 0.5 * (ratio.square().sum((-2, -1)) - mean_0.shape[-1] + offset.square().sum((-2, -1))) - log_ratio


def isotropic_kl(squared_distance: Tensor, dims: int, variance_0: float | Tensor, variance_1: float | Tensor) -> Tensor:
    """``KL(N(mean_0, variance_0 I) || N(mean_1, variance_1 I))`` in nats, ``(B,)``. Eq. kl-mean.

    ``|mean_0 - mean_1|^2 / (2 variance_1) + D/2 (r - 1 - log r)`` with ``r = variance_0 / variance_1``. The constant is
    the cost of a wrong variance: in the bound 0 for beta~, and above 0 for beta. It is precise for r close to 1, too.

    Args:
        squared_distance: ``(B,)``, ``|mean_0 - mean_1|^2``; or ``(B, ...)`` element by element, with D = 1.
        dims: D.
        variance_0, variance_1: numbers, or tensors that multiply it.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 8.
    """
    excess = (variance_0 - variance_1) / variance_1
    log_ratio = excess.log1p() if isinstance(excess, Tensor) else math.log1p(excess)
    return 0.5 * (squared_distance / variance_1 + dims * (excess - log_ratio))


def discretized_gaussian_log_likelihood(x0: Tensor, mean: Tensor, std: float | Tensor) -> Tensor:
    """Log-probability of each grey level if ``N(mean, std^2)`` is rounded to the nearest of 256, in nats.

    Eq. disc-decoder: ``Phi((x_0 + 1/255 - mean) / std) - Phi((x_0 - 1/255 - mean) / std)``; black has all that lies
    below it, white all above, so that the 256 probabilities sum to 1. It stays finite however far x_0 is from the mean.

    Args:
        x0: ``(B, ...)``, grey levels ``k / 127.5 - 1``, k = 0..255; mean: the same shape.
        std: above 0, and multiplying x0.

    Returns:
        ``(B, ...)``, element by element.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 13.
    """
    half = 1 / 255
    lower = ((x0 - mean - half) / std).masked_fill(x0 < -1 + half, -math.inf)
    upper = ((x0 - mean + half) / std).masked_fill(x0 > 1 - half, math.inf)
    # log Phi is precise in the lower tail, and flat in the upper one: reflect what lies there.
    reflect = lower + upper > 0
    lower, upper = torch.where(reflect, -upper, lower), torch.where(reflect, -lower, upper)
    log_upper = torch.special.log_ndtr(upper)
    return log_upper + (-torch.expm1(torch.special.log_ndtr(lower) - log_upper)).log()


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """``nats / (D ln 2)``: bits for each of a sample's D elements, 8 if all 256 grey levels are alike. Eq. bpd.

    Args:
        nats: ``(B,)``, the cost of whole samples; dims: D, all channels counted.

    Source: van den Oord et al. 2016 (arXiv 1601.06759), section 5.1.
    """
    return nats / (dims * math.log(2))
