"""Chapter 2: removing noise, where all is known."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Depends, Family, density
from formulas.vocabulary import SCHEDULE, at, column, counted, noising, noisy_variance
from fromnoise.diffusion import exact, process


@printed()
def posterior_var(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        yield noising(t) | {r"\tilde\beta_t": process.posterior_variance(SCHEDULE, at(t - 1), at(t))}


@printed()
def posterior_mean(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        x0, x_t = draw.normal(1, 3), draw.normal(1, 3)
        mean = process.posterior_mean(SCHEDULE, x0, x_t, at(t - 1), at(t))
        yield noising(t) | {r"\tilde\mu_t": mean, "x_": Family({0: x0, t: x_t})}


@printed()
def posterior_mean_eps(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        noise, x_t = draw.normal(1, 3), draw.normal(1, 3)
        mean = process.posterior_mean_from_noise(SCHEDULE, noise, x_t, at(t - 1), at(t))
        yield noising(t) | {r"\tilde\mu_t": mean, "x_": Family({t: x_t}), r"\epsilon": noise}


def of_normal_data(t: int, x_t: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0 once x_t is known, if x_0 is normal."""
    alpha, sigma = SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
    known = exact.gaussian_denoiser(x_t, alpha, sigma, mean, variance)
    return known, variance * sigma**2 / noisy_variance(t, variance)


@printed(1e-7)
def reverse_mixture(draw: Draws) -> Iterator[Case]:
    mean, variance = column(0.3), column(0.6)
    for t in (3, 6):
        x_t, before = draw.normal(1), draw.normal(1)
        x0_mean, x0_var = of_normal_data(t, x_t, mean, variance)
        beta, keep = SCHEDULE.betas[t - 1], SCHEDULE.alpha(at(t - 1))
        # x_{t-1} is normal, and x_t a noisy copy of it
        own, own_var = keep * mean, noisy_variance(t - 1, variance)
        gain = own_var * (1 - beta).sqrt() / ((1 - beta) * own_var + beta)
        reverse = own + gain * (x_t - (1 - beta).sqrt() * own), own_var * beta / ((1 - beta) * own_var + beta)

        offset, both = (process.posterior_mean(SCHEDULE, column(x0), x_t, at(t - 1), at(t))[0] for x0 in (0, 1))
        spread = process.posterior_variance(SCHEDULE, at(t - 1), at(t))[0]

        def given_both(find: Any, values: tuple[Tensor, ...] = (before[0], offset, both - offset, spread)) -> Tensor:
            x, at_zero, slope, variance = values
            return density(x, at_zero + slope * find("x_0"), variance)

        def given_x_t(find: Any, mean: Tensor = x0_mean[0], variance: Tensor = x0_var[0]) -> Tensor:
            return density(find("x_0"), mean, variance)

        yield noising(t) | {
            "q(x_{t-1}|x_t)": density(before.reshape(()), reverse[0].reshape(()), reverse[1].reshape(())),
            "q(x_{t-1}|x_t,x_0)": Depends(given_both),
            "q(x_0|x_t)": Depends(given_x_t),
            "over x_0": (float(x0_mean - 7 * x0_var.sqrt()), float(x0_mean + 7 * x0_var.sqrt())),
        }


@printed()
def reverse_mean(draw: Draws) -> Iterator[Case]:
    """Of normal data, for which the mean of x_{t-1} is a regression line as well."""
    mean, variance = column(0.3), column(0.6)
    for t in (3, 6):
        x_t = draw.normal(1)
        own, own_var = SCHEDULE.alpha(at(t - 1)) * mean, noisy_variance(t - 1, variance)
        slope = own_var * (1 - SCHEDULE.betas[t - 1]).sqrt() / noisy_variance(t, variance)
        yield noising(t) | {
            "E[x_{t-1}|x_t]": own + slope * (x_t - SCHEDULE.alpha(at(t)) * mean),
            r"\hat x_0": of_normal_data(t, x_t, mean, variance)[0],
            "x_": Family({t: x_t}),
        }


@printed()
def reverse_var(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        known = draw.uniform(0.1, 0.9, 1)
        yield noising(t) | {
            r"\mathrm{Var}(x_{t-1}|x_t)": process.reverse_variance(SCHEDULE, known, at(t - 1), at(t)),
            r"\mathrm{Var}(x_0|x_t)": known,
            r"\tilde\beta_t": process.posterior_variance(SCHEDULE, at(t - 1), at(t)),
        }


@printed()
def learned_var(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        v, lower = draw.uniform(0.2, 0.8, 1), process.posterior_variance(SCHEDULE, at(t - 1), at(t))
        learned = process.learned_variance(v, SCHEDULE.betas[t - 1 : t], lower)
        yield noising(t) | {r"\Sigma_\theta": learned, r"\kappa": v, r"\tilde\beta_t": lower}


@printed(1e-7)
def mse_opt(draw: Draws) -> Iterator[Case]:
    mean, variance = column(0.3), column(0.6)
    for t in (3, 6):
        x_t, x0 = draw.normal(1), torch.linspace(-9, 9, 20_001, dtype=F64)
        alpha, sigma = SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
        weight = torch.exp(-((x0 - mean) ** 2) / (2 * variance) - (x_t - alpha * x0) ** 2 / (2 * sigma**2))
        best = exact.gaussian_denoiser(x_t, alpha, sigma, mean, variance)
        yield {"f^*(x_t)": best, "E[x_0|x_t]": (weight * x0).sum() / weight.sum()}


def mixture(draw: Draws, dims: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and variances of three components."""
    return column(0.2, 0.5, 0.3), draw.normal(3, dims), column(0.3, 0.5, 0.9)


@printed()
def gmm_score(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        weights, means, variances = mixture(draw)
        x, alpha = draw.normal(1, 2), SCHEDULE.alpha(at(t))
        noisy = noisy_variance(t, variances)
        distance = (x - alpha * means).square().sum(1)
        share = torch.softmax(weights.log() - distance / (2 * noisy) - noisy.log(), 0)
        score = exact.mixture_score(x, weights, alpha * means, noisy)
        yield noising(t) | {
            r"\nabla_x\log q_t(x)": score.flatten(),
            "x": x.flatten(),
            "over k": range(1, 4),
            r"\rho_": counted(share),
            r"\mu_": counted(means),
            r"\tau_": counted(noisy.sqrt()),
        }


@printed()
def empirical(draw: Draws) -> Iterator[Case]:
    for t in (5, 7):
        data, x = draw.normal(4, 3), draw.normal(1, 3)
        guess = exact.EmpiricalDenoiser(SCHEDULE, data)(x, at(t))
        yield noising(t) | {r"\hat x_0": guess.flatten(), "x_t": x.flatten(), "x_": counted(data), "N": 4}
