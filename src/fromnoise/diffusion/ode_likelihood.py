"""The log-likelihood of an image, not a bound of it: the density's change along the curve from image to noise."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.diffusion.process import Generator, noise_like


def hutchinson_trace(function: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """A function's value and an estimate of its Jacobian's trace, ``z^T J z`` averaged over probes z. Eq. hutchinson.

    Each probe takes one vector-Jacobian product, a backward pass. The estimate has no bias if z has mean 0 and
    covariance 1. For a symmetric J and one probe its variance is ``2 (|J|^2 - sum J_ii^2)`` if z is random signs,
    ``2 |J|^2`` if it is normal. The unit vectors, all D of them times sqrt(D), give the trace itself.

    Args:
        function: from x ``(B, ...)``, D elements a sample, to the same shape; samples must not influence each other.
        probes: ``(P, B, ...)``, P probes for each sample.

    Returns the value ``(B, ...)`` and the trace ``(B,)``, without gradients.
    Source: Song et al. 2021 (arXiv 2011.13456), equation 40, after Hutchinson 1989.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        products = [torch.autograd.grad(value, x, z, retain_graph=True)[0] for z in probes]
    return value.detach(), (torch.stack(products) * probes).flatten(2).sum(2).mean(0)


def ode_log_likelihood(
    denoise: Denoiser,
    x0: Tensor,
    times: Sequence[float],
    generator: Generator,
    *,
    probes: int | None = 1,
    data_variance: float = 1.0,
    **condition: Tensor,
) -> Tensor:
    """Log-density of images in what the sampling curve makes of noise, ``(B,)`` nats. Eq. ode-logp.

    ``log p(x_0) = log p(x_T) + int div f dt`` along ``dx/dt = f``, the probability-flow equation, from x_0 at the first
    time to x_T at the last. It is solved by the method of Runge and Kutta in the logarithm of the noise level
    ``sigma / alpha``, at the scale where data of variance 1 keeps it, ``c = 1 / sqrt(1 + level^2)``::

        dx/dlog(level) = c (c x - x0_hat)

    The error falls like 1/N^4 if the times are spaced by noise level, as `samplers.sampling_times` does for log-snr.
    Each of the N steps asks the denoiser and its derivative four times, a step from time 0 three times: there the
    curve of a smooth density starts at rest.

    Args:
        x0: ``(B, ...)``, at the scale of the image: ``x / alpha`` at the first time.
        times: N + 1 rising times. The first may be 0 if the data have a density; images, which are discrete, do not.
        probes: random signs for `hutchinson_trace`, drawn once and kept all along the curve, so that the result is
            unbiased; None takes the trace exactly, with as many backward passes as a sample has elements.
        data_variance: x_T is taken for ``N(0, alpha^2 data_variance + sigma^2)``: with alpha^2 + sigma^2 = 1, 1 is
            N(0, 1), where sampling starts.

    Raises ValueError for times that do not rise, or an infinite noise level at the last.
    Source: Song et al. 2021 (arXiv 2011.13456), equation 39, after Chen et al. 2018 (arXiv 1806.07366).
    """
    schedule, dims = denoise.schedule, x0[0].numel()
    levels = schedule.noise_to_signal(torch.tensor(times, dtype=torch.float64)).tolist()
    if len(times) < 2 or any(late <= early for early, late in pairwise(times)) or levels[-1] == math.inf:
        raise ValueError("times must rise, two of them or more, and end where something is left of the image")
    dtype = torch.promote_types(x0.dtype, torch.float32)
    if probes is None:
        unit = torch.eye(dims, dtype=x0.dtype, device=x0.device).view(dims, 1, *x0.shape[1:])
        directions = math.sqrt(dims) * unit.expand(dims, *x0.shape)
    else:
        directions = torch.stack([torch.ones_like(x0).copysign(noise_like(x0, generator)) for _ in range(probes)])

    def slope(state: Tensor, level: float) -> Tensor:
        """Of x and, in the last column, of what the density loses, by the logarithm of the level."""
        time, keep = schedule.time(torch.tensor(level, dtype=torch.float64)), (1 + level**2) ** -0.5
        t, scale = time.to(dtype).to(x0.device).expand(len(x0)), schedule.alpha(time).item() / keep
        x = state[:, :-1].view_as(x0)
        x0_hat, trace = hutchinson_trace(lambda x: denoise(scale * x, t, **condition), x, directions)
        divergence = keep * (keep * dims - trace)
        return torch.cat([(keep * (keep * x - x0_hat)).flatten(1), divergence[:, None]], dim=1)

    keep, top = (1 + levels[0] ** 2) ** -0.5, levels[-1] ** 2
    state = torch.cat([keep * x0.flatten(1), x0.new_full((len(x0), 1), dims * math.log(keep))], dim=1)
    for early, late in pairwise(levels):
        state = runge_kutta(slope, state, early, late)
    variance = (data_variance + top) / (1 + top)
    log_normal = -0.5 * (state[:, :-1].square().sum(1) / variance + dims * math.log(2 * math.pi * variance))
    return log_normal + state[:, -1]


def runge_kutta(slope: Callable[[Tensor, float], Tensor], state: Tensor, early: float, late: float) -> Tensor:
    """One step of the classical method of order 4 from the noise level early to late, in the logarithm of the level.

    From the level 0, whose logarithm is infinite, the step is in the level itself, and starts at rest.

    slope is the state's derivative by the logarithm of the level, at a state and a level.
    """
    if early > 0:
        middle, rates = math.sqrt(early * late), [math.log(late / early)] * 2
        first = rates[0] * slope(state, early)
    else:
        middle, rates = late / 2, [2.0, 1.0]  # d/dlevel = 1 / level d/dlog(level), times the step
        first = torch.zeros_like(state)
    second = rates[0] * slope(state + first / 2, middle)
    third = rates[0] * slope(state + second / 2, middle)
    fourth = rates[1] * slope(state + third, late)
    return state + (first + 2 * second + 2 * third + fourth) / 6
