"""Chapter 3: what to minimise."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Normal

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Average, Family, Law
from formulas.vocabulary import SCHEDULE, Given, at, column, counted, noising
from fromnoise.diffusion import likelihood, losses, parameterization, process
from fromnoise.diffusion.exact import gaussian_denoiser
from fromnoise.diffusion.parameterization import Prediction
from fromnoise.diffusion.schedules import Schedule


@printed()
def bpd(draw: Draws) -> Iterator[Case]:
    nats = draw.uniform(5, 9, 1)
    yield {
        r"\text{bits per dimension}": likelihood.bits_per_dim(nats, 12),
        r"\text{surprise in nats}": nats,
        "D": 12,
    }


def hermite(count: int) -> list[tuple[float, float]]:
    """Points and weights by which a standard normal average of a polynomial is exact, up to degree 2 count - 1."""
    import numpy as np

    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return list(zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True))


@printed(1e-8)
def elbo(draw: Draws) -> Iterator[Case]:
    """Two steps, data that the model takes for N(m, s^2): the average over chains is exact in three points a step."""
    schedule = Schedule(column(0.2, 0.4))
    for mean, variance, x0 in ((0.0, 1.0, 0.8), (0.3, 0.5, -0.4), (-0.2, 0.7, 1.1)):
        cases = []
        for (z1, w1), (z2, w2) in itertools.product(hermite(3), repeat=2):
            x1 = process.forward_step(column(x0), schedule.betas[:1], column(z1))
            x2 = process.forward_step(x1, schedule.betas[1:], column(z2))
            chain = _normal(z1) * _normal(z2) / schedule.betas.prod().sqrt()
            cases.append((w1 * w2, {r"p_\theta(x_{0:T})": _model(schedule, mean, variance, x0, x1, x2), _Q: chain}))
        evidence = _evidence(schedule, mean, variance, x0)
        yield {
            r"p_\theta(x_0)": evidence,
            r"\mathbb{E}_{q(x_{1:T}|x_0)}": Average(tuple(cases)),
            "tight": 1.0 if variance == 1 else 0.0,
        }


_Q = "q(x_{1:T}|x_0)"


def _normal(z: float) -> float:
    return math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _reverse(schedule: Schedule, mean: float, variance: float, x: Tensor, t: int) -> Tensor:
    """The mean of the model's step from x at time t, whose variance is beta."""
    x0_hat = gaussian_denoiser(x, schedule.alpha(at(t)), schedule.sigma(at(t)), column(mean), column(variance))
    return process.posterior_mean(schedule, x0_hat, x, at(t - 1), at(t))


def _model(schedule: Schedule, mean: float, variance: float, x0: float, x1: Tensor, x2: Tensor) -> Tensor:
    to_x1 = Normal(_reverse(schedule, mean, variance, x2, 2), schedule.betas[1].sqrt()).log_prob(x1)
    to_x0 = Normal(_reverse(schedule, mean, variance, x1, 1), schedule.betas[0].sqrt()).log_prob(column(x0))
    return (Normal(column(0.0), column(1.0)).log_prob(x2) + to_x1 + to_x0).exp()


def _evidence(schedule: Schedule, mean: float, variance: float, x0: float) -> Tensor:
    """The model's density of x_0: both of its steps are lines with noise."""
    center, spread = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for t in (2, 1):
        at_0, at_1 = (_reverse(schedule, mean, variance, column(x), t) for x in (0.0, 1.0))
        center, spread = at_0 + (at_1 - at_0) * center, (at_1 - at_0) ** 2 * spread + schedule.betas[t - 1]
    return Normal(center, spread.sqrt()).log_prob(column(x0)).exp()


@printed()
def elbo_terms(draw: Draws) -> Iterator[Case]:
    x0, guess, last = draw.normal(2), draw.normal(2), SCHEDULE.num_timesteps
    chosen = draw.uniform(0.1, 0.5, last)
    terms = likelihood.vlb_terms(Given(guess), x0[None], chosen, draw.generator, discretized=False)[0]
    for t in (2, 5):

        def law(x_t: Tensor, t: int, known: Tensor, variance: Tensor) -> Law:
            return Law(process.posterior_mean(SCHEDULE, known[None], x_t, at(t - 1), at(t)).mT, variance)

        posterior = process.posterior_variance(SCHEDULE, at(t - 1), at(t))[0]
        somewhere = [draw.normal(1, 2) for _ in range(2)]  # the term is the same at every x_t
        steps = [
            {
                "q(x_{t-1}|x_t,x_0)": law(x_t, t, x0, posterior),
                r"p_\theta(x_{t-1}|x_t)": law(x_t, t, guess, chosen[t - 1]),
            }
            for x_t in somewhere
        ]
        first = [{r"p_\theta(x_0|x_1)": Normal(guess, chosen[0].sqrt()).log_prob(x0).sum().exp()}]
        end = at(last)
        yield noising(t) | {
            "value": terms.sum(),
            "L_": Family(dict(enumerate(terms))),
            "q(x_T|x_0)": Law((SCHEDULE.alpha(end) * x0)[:, None], SCHEDULE.sigma(end)[0] ** 2),
            "p(x_T)": Law(torch.zeros(2, 1, dtype=F64), torch.ones((), dtype=F64)),
            r"\mathbb{E}_{q(x_t|x_0)}": Average.over(steps),
            r"\mathbb{E}_{q(x_1|x_0)}": Average.over(first),
        }


@printed()
def gaussian_kl(draw: Draws) -> Iterator[Case]:
    mean_0, cov_0, mean_1, cov_1 = draw.normal(3), draw.covariance(3), draw.normal(3), draw.covariance(3)
    yield {
        r"\mathrm{KL}": likelihood.gaussian_kl(mean_0, cov_0, mean_1, cov_1),
        r"\Sigma_": Family({0: cov_0, 1: cov_1}),
        r"\Delta": mean_1 - mean_0,
        "D": 3,
    }


@printed()
def kl_mean(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        mean, other = draw.normal(1, 3), draw.normal(1, 3)
        small, chosen = float(process.posterior_variance(SCHEDULE, at(t - 1), at(t))), float(draw.uniform(0.1, 0.9))
        distance = (mean - other).square().sum(1)
        yield noising(t) | {
            "value": likelihood.isotropic_kl(distance, 3, small, chosen),
            "C": likelihood.isotropic_kl(0 * distance, 3, small, chosen),
            "V_t": chosen,
            r"\tilde\mu": mean,
            r"\mu_\theta": other,
            r"\tilde\beta_t": small,
            "D": 3,
        }


@printed()
def disc_decoder(draw: Draws) -> Iterator[Case]:
    for level in (90, 140):
        x, mean, std = column(level / 127.5 - 1), draw.uniform(-0.3, 0.3, 1), draw.uniform(0.1, 0.4, 1)
        yield {
            "P(x)": likelihood.discretized_gaussian_log_likelihood(x, mean, std).exp(),
            r"\Phi": torch.special.ndtr,
            "x": x,
            r"\mu": mean,
            r"\sigma": std,
        }


@printed()
def vlb_x0(draw: Draws) -> Iterator[Case]:
    for t in (2, 6):
        x0, guesses = draw.normal(1, 3), [draw.normal(1, 3) for _ in range(3)]
        error = torch.stack([(x0 - guess).square().sum() for guess in guesses]).mean()
        yield noising(t) | {
            "L_{t-1}": losses.vlb_weight(SCHEDULE, at(t)) * error,
            "x_": Family({0: x0}),
            r"\hat x_0": guesses[0],
            r"\mathbb{E}": Average.over({r"\hat x_0": guess} for guess in guesses),
        }


@printed()
def eps_x0(draw: Draws) -> Iterator[Case]:
    for t in (1, 6):
        x, noise = draw.normal(1, 3), draw.normal(1, 3)
        x0 = parameterization.x0_from_noise(x, noise, SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t)))
        yield noising(t) | {r"\hat x_0": x0, "x_": Family({t: x}), r"\hat\epsilon": noise}


@printed()
def vlb_eps(draw: Draws) -> Iterator[Case]:
    """What the two means differ by, over twice the variance, is the term."""
    for t in (2, 6):
        x_t, chosen, noise = draw.normal(1, 3), float(draw.uniform(0.1, 0.9)), draw.normal(1, 3)
        guesses = [draw.normal(1, 3) for _ in range(3)]
        mean, *others = (
            process.posterior_mean_from_noise(SCHEDULE, e, x_t, at(t - 1), at(t)) for e in (noise, *guesses)
        )
        terms = [(mean - other).square().sum() / (2 * chosen) for other in others]
        yield noising(t) | {
            "value": torch.stack(terms).mean(),
            "V_t": chosen,
            r"\epsilon": noise,
            r"\mathbb{E}": Average.over({r"\hat\epsilon": guess} for guess in guesses),
        }


def network(x: Tensor, t: Tensor) -> Tensor:
    """Some function of a noisy picture and its time."""
    return torch.sin(x * 1.3) + 0.2 * t


@printed()
def l_simple(draw: Draws) -> Iterator[Case]:
    cases, errors = [], []
    for t in (1, 4, 7):
        x0, noise = draw.normal(1, 3), draw.normal(1, 3)
        output = network(process.forward_marginal(SCHEDULE, x0, at(t), noise), at(t))
        errors.append(losses.squared_error(output, noise))
        cases.append({"t": t, "x_": Family({0: x0}), r"\epsilon": noise})
    yield noising(1) | {
        r"L_{\text{simple}}": torch.cat(errors).mean(),
        r"\epsilon_\theta": network,
        "D": 3,
        r"\mathbb{E}_{x_0,t,\epsilon}": Average.over(cases),
    }


@printed()
def hybrid(draw: Draws) -> Iterator[Case]:
    for t in (1, 2, 6):
        x0, noise, output, mixed = draw.normal(1, 3), draw.normal(1, 3), draw.normal(1, 3), draw.uniform(0.2, 0.8, 1, 3)
        x_t = process.forward_marginal(SCHEDULE, x0, at(t), noise)
        guess = parameterization.x0_from_noise(x_t, output, SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t)))
        term = losses.learned_vlb_term(SCHEDULE, x0, at(t), guess, mixed, discretized=False)
        yield {
            r"L_{\text{hybrid}}": losses.hybrid_loss(
                SCHEDULE, Prediction.NOISE, x0, at(t), noise, output, mixed, discretized=False
            ),
            r"L_{\text{simple}}": losses.squared_error(output, noise),
            r"L_{\text{vlb}}": SCHEDULE.num_timesteps * term,
        }


@printed()
def monotone_elbo(draw: Draws) -> Iterator[Case]:
    last = 6
    weights, terms = draw.uniform(0.1, 1, last - 1).sort().values, draw.uniform(0.1, 2, last - 1)
    yield {
        "T": last,
        r"\omega_": Family({1: torch.zeros(())} | dict(enumerate(weights, start=2))),
        "L_": counted(terms),
        "value": losses.monotone_bound(weights, terms[None]),
    }


@printed()
def v(draw: Draws) -> Iterator[Case]:
    for t in (1, 6):
        x0, noise, alpha, sigma = draw.normal(1, 3), draw.normal(1, 3), SCHEDULE.alpha(at(t)), SCHEDULE.sigma(at(t))
        x_t = process.forward_marginal(SCHEDULE, x0, at(t), noise)
        velocity = parameterization.velocity(x0, noise, alpha, sigma)
        yield noising(t) | {"v": velocity, "x_": Family({0: x0, t: x_t}), r"\epsilon": noise}


@printed()
def err_maps(draw: Draws) -> Iterator[Case]:
    for t in (1, 6):
        of_x0, snr = draw.normal(1, 3), SCHEDULE.snr(at(t))
        of_noise, of_v = (
            parameterization.error_scale(p, snr).sqrt() * draw_unit(draw) * of_x0.norm()
            for p in (Prediction.NOISE, Prediction.VELOCITY)
        )
        yield noising(t) | {r"\Delta x_0": of_x0, r"\Delta\epsilon": of_noise, r"\Delta v": of_v}


def draw_unit(draw: Draws) -> Tensor:
    """A vector of length 1."""
    x = draw.normal(1, 3)
    return x / x.norm()


@printed()
def min_snr(draw: Draws) -> Iterator[Case]:
    for t, gamma in ((1, 0.7), (6, 0.7), (3, 3.0)):
        snr = SCHEDULE.snr(at(t))
        weight = losses.min_snr_weight(snr, gamma)
        yield noising(t) | {
            "w_{x_0}": weight,
            r"w_\epsilon": weight / parameterization.error_scale(Prediction.NOISE, snr),
            "w_v": weight / parameterization.error_scale(Prediction.VELOCITY, snr),
            r"\gamma": gamma,
        }


@printed()
def logit_normal(draw: Draws) -> Iterator[Case]:
    """A density is the derivative of the quantile, upside down."""
    for _ in range(2):
        mean, std, quantile = float(draw.uniform(0.3, 0.9)), float(draw.uniform(0.6, 1.4)), draw.uniform(0.2, 0.8, 1)
        quantile.requires_grad_()
        t = losses.logit_normal_time(quantile, mean, std)
        (slope,) = torch.autograd.grad(t.sum(), quantile)
        yield {"p(t)": 1 / slope, "t": t.detach(), "m": mean, r"\varsigma": std}
