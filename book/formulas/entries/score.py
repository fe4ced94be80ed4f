"""Chapter 7: scores, stochastic and ordinary differential equations, and flows."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.entries.bounds import hermite, network
from formulas.entries.posterior import mixture
from formulas.values import Average, Divergence, Family
from formulas.vocabulary import LINE, SCHEDULE, at, column, noising, noisy_variance
from fromnoise.diffusion import exact, losses, parameterization, process, score, solvers
from fromnoise.diffusion import sde as equations


@printed()
def cond_score(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        x0, noise, alpha, sigma = draw.normal(1, 3), draw.normal(1, 3), SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
        x_t = process.forward_marginal(SCHEDULE, x0, at(t), noise).requires_grad_()
        log_density = torch.distributions.Normal(alpha * x0, sigma).log_prob(x_t).sum()
        yield noising(t) | {
            r"\nabla_x\log q(x_t|x_0)": torch.autograd.grad(log_density, x_t)[0],
            "x_": Family({0: x0, t: x_t.detach()}),
            r"\epsilon": noise,
            "value": score.conditional_score(noise, sigma),
        }


@printed()
def tweedie(draw: Draws) -> Iterator[Case]:
    """Of a mixture, whose posterior mean is known without any score."""
    for t in (2, 6):
        weights, means, variances = mixture(draw)
        x, alpha, sigma = draw.normal(1, 2), SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
        noisy = noisy_variance(t, variances)  # (K,)
        distance = (x - alpha * means).square().sum(1)  # (K,)
        share = torch.softmax(weights.log() - distance / (2 * noisy) - noisy.log(), 0)
        parts = [exact.gaussian_denoiser(x[0], alpha, sigma, m, v) for m, v in zip(means, variances, strict=True)]
        gradient = exact.mixture_score(x, weights, alpha * means, noisy)
        yield noising(t) | {
            "E[x_0|x]": (share[:, None] * torch.stack(parts)).sum(0, keepdim=True),
            r"\nabla_x\log q_t(x)": gradient,
            "x": x,
            "value": score.x0_from_score(x, gradient, alpha, sigma),
        }


@printed()
def tweedie2(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        weights, means, variances = mixture(draw)
        x, alpha = draw.normal(1, 2), SCHEDULE.alpha(at(t))
        noisy = noisy_variance(t, variances)  # (K,)

        def gradient(x: Tensor, w: Tensor = weights, m: Tensor = alpha * means, v: Tensor = noisy) -> Tensor:
            return exact.mixture_score(x[None], w, m, v)[0]

        denoise = exact.GaussianMixture(SCHEDULE, weights, means, variances.sqrt())
        yield noising(t) | {
            r"\mathrm{Cov}[x_0|x]": score.x0_covariance(denoise, x, at(t))[0],
            r"\nabla^2_x\log q_t(x)": torch.autograd.functional.jacobian(gradient, x[0]),
            "I": torch.eye(2, dtype=F64),
        }


@printed(1e-6)
def dsm(draw: Draws) -> Iterator[Case]:
    """Two pictures of one pixel, all noise by Gauss and Hermite: both averages are exact."""
    weights, pictures, t = column(0.3, 0.7), column(-0.5, 0.8), 6
    alpha, sigma = SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
    cases, constant = [], torch.zeros((), dtype=F64)
    for share, picture in zip(weights, pictures, strict=True):
        for z, weight in hermite(30):
            x = alpha * picture + sigma * z
            one = score.conditional_score(column(z), sigma)
            full = exact.mixture_score(x[None], weights, alpha * pictures[:, None], sigma.square().expand(2))[0]
            together = float(share) * weight
            constant = constant + together * (one.square() - full.square()).sum()
            cases.append(
                (together, {r"s_\theta": torch.sin(x), r"\nabla\log q(x_t|x_0)": one, r"\nabla\log q_t(x_t)": full})
            )
    yield {"E": Average(tuple(cases)), "C": constant}


@printed()
def sde(draw: Draws) -> Iterator[Case]:
    x, drift, noise, g, dt = draw.normal(1, 3), draw.normal(1, 3), draw.normal(1, 3), draw.uniform(0.5, 2, 1), 0.04
    moved = equations.sde_step(x, drift, g, dt, noise) - x
    yield {"dx": moved, "f": drift, "dt": dt, "g": g, "dw": dt**0.5 * noise}


@printed()
def vp(draw: Draws) -> Iterator[Case]:
    x, beta = draw.normal(1, 3), draw.uniform(0.2, 3, 1)
    drift, g = equations.variance_preserving(x, beta)
    yield {"f": drift, "g": g, r"\beta": beta, "x": x}


@printed()
def ve(draw: Draws) -> Iterator[Case]:
    x, rate = draw.normal(1, 3), draw.uniform(0.2, 3, 1)
    drift, g = equations.variance_exploding(x, rate)
    yield {"f": drift, "g": g, r"\frac{d\sigma^2}{dt}": rate}


def _drift(draw: Draws) -> tuple[Case, tuple[Tensor, Tensor, Tensor]]:
    drift, g, gradient = draw.normal(1, 3), draw.uniform(0.5, 2, 1), draw.normal(1, 3)
    return {"f": drift, "g": g, r"\nabla\log q_t(x)": gradient}, (drift, g, gradient)


@printed()
def reverse_sde(draw: Draws) -> Iterator[Case]:
    case, given = _drift(draw)
    yield case | {"value": equations.reverse_drift(*given)}


@printed()
def pf_ode(draw: Draws) -> Iterator[Case]:
    case, given = _drift(draw)
    yield case | {r"\frac{dx}{dt}": equations.probability_flow(*given)}


@printed()
def cdf_invariant(draw: Draws) -> Iterator[Case]:
    """Of a Gaussian, whose curve and whose noisy copies are known."""
    mean, std, start, y = 0.3, 0.6, 0.2, column(0.9)

    def below(r: float) -> torch.distributions.Normal:
        return torch.distributions.Normal(column(mean), column((std**2 + r**2) ** 0.5))

    for r in (0.5, 1.7):
        yield {
            "F_r": below(r).cdf,
            "F_{r_0}": below(start).cdf,
            "y(r)": exact.gaussian_flow(y, start, r, mean, std),
            "y(r_0)": y,
        }


@printed()
def continuity(draw: Draws) -> Iterator[Case]:
    """Of three heaps in the plane, whose density and mean directions are known at every noise level."""
    weights, means, variances = mixture(draw)

    def density(y: Tensor, r: Tensor) -> Tensor:
        noisy = variances + r**2  # (K,)
        parts = torch.exp(-(y - means).square().sum(1) / (2 * noisy)) / (2 * math.pi * noisy)
        return (weights * parts).sum()

    def direction(y: Tensor, r: Tensor) -> Tensor:
        gradient = exact.mixture_score(y[None], weights, means, variances + r**2)
        one = torch.ones((), dtype=F64)
        return solvers.edm_ode(y, score.x0_from_score(y[None], gradient, one, r)[0], r)

    for level in (0.4, 1.1):
        y, r = draw.normal(2), torch.tensor(level, dtype=F64)
        yield {
            r"\frac{\partial q_r(y)}{\partial r}": torch.autograd.functional.jacobian(lambda r, y=y: density(y, r), r),
            r"\nabla\cdot": Divergence("y"),
            "q_r": lambda y, r=r: density(y.flatten(), r),
            "u_r": lambda y, r=r: direction(y.flatten(), r),
            "y": y,
        }


@printed()
def edm_weight(draw: Draws) -> Iterator[Case]:
    level, std = draw.uniform(0.3, 3, 1), 0.6
    yield {"w(r)": losses.edm_weight(level, std), "r": level, "s": std}


@printed()
def cfm(draw: Draws) -> Iterator[Case]:
    cases, errors = [], []
    for t in (0.2, 0.5, 0.9):
        x0, noise = draw.normal(1, 3), draw.normal(1, 3)
        x_t = process.forward_marginal(LINE, x0, at(t), noise)
        target = parameterization.flow_velocity(x0, noise)
        errors.append(3 * losses.squared_error(network(x_t, at(t)), target))
        cases.append({"t": t, "x_0": x0, "x_t": x_t, r"\epsilon": noise})
    yield {"E": Average.over(cases), r"u_\theta": network, "value": torch.cat(errors).mean()}


@printed()
def flow_score(draw: Draws) -> Iterator[Case]:
    for t in (0.2, 0.7):
        x, gradient = draw.normal(1, 3), draw.normal(1, 3)
        flow = score.flow_from_score(x, gradient, column(t))
        yield {"u(x, t)": flow, "x": x, "t": t, r"\nabla\log q_t(x)": gradient}
