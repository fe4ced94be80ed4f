"""Chapter 8: likelihoods and distances."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from formulas.check import Case, printed
from formulas.draws import F64, Draws
from formulas.values import Average, Depends, Family
from formulas.vocabulary import LINE, at, counted
from fromnoise.diffusion import likelihood, ode_likelihood
from fromnoise.diffusion.exact import GaussianMixture
from fromnoise.evaluate import distances


@printed(1e-7)
def vlb_continuous(draw: Draws) -> Iterator[Case]:
    """A guess that errs in proportion to the noise level: then the function's estimate is the same for all noise."""
    x0, error, first, last = draw.normal(1, 3), draw.normal(1, 3), 0.3, 0.7

    class Wrong:
        schedule = LINE

        def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            return x0 + LINE.noise_to_signal(t)[:, None] * error

    levels = [float(LINE.noise_to_signal(at(t))) for t in (first, 0.5, last)]

    def guess(find: Any) -> Tensor:
        snr = find(r"\mathrm{SNR}")
        level = LINE.noise_to_signal(find("t")) if snr.isnan() else snr.rsqrt()
        return x0 + level * error

    yield {
        r"\mathbb{E}": Average.over([{r"\hat x_0": Depends(guess)}]),
        "x_0": x0,
        "t": float("nan"),
        r"\mathrm{SNR}": float("nan"),
        r"\mathrm{SNR}'(t)": Depends(lambda find: -2 * (1 - find("t")) / find("t") ** 3),
        r"\mathrm{SNR}_": Family({1: LINE.snr(at(first))}),
        r"\mathrm{SNR}_T": LINE.snr(at(last)),
        "over t": (first, last),
        "value": likelihood.continuous_bound(Wrong(), x0, levels, draw.generator),
    }


@printed()
def i_mmse(draw: Draws) -> Iterator[Case]:
    yield {"s": draw.uniform(0.5, 2), r"\rho": draw.uniform(1, 4)}


@printed(1e-5)
def ode_logp(draw: Draws) -> Iterator[Case]:
    """Data N(0, s^2) on the straight line, where curves, densities and the divergence are known."""
    std, last = 0.6, 0.9

    def spread(t: Tensor) -> Tensor:
        return ((1 - t) ** 2 * std**2 + t**2).sqrt()

    denoise = GaussianMixture(LINE, torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.full((1,), std))
    x0 = draw.normal(1, 1)
    times = torch.linspace(0, last, 41, dtype=F64).tolist()
    result = ode_likelihood.ode_log_likelihood(denoise, x0, times, draw.generator, probes=None, data_variance=std**2)
    end = spread(torch.tensor(last))
    yield {
        "p(x_0)": result.exp(),
        "p_T(x_T)": torch.distributions.Normal(0.0, end).log_prob(x0 / std * end).exp(),
        "T": last,
        "t": float("nan"),
        r"\nabla\cdot f(x_t, t)": Depends(lambda find: _slope(spread, find("t")) / spread(find("t"))),
    }


def _slope(function: Any, t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t), t)[0]


@printed()
def hutchinson(draw: Draws) -> Iterator[Case]:
    """All eight vectors of signs."""
    jacobian, x = draw.normal(3, 3), draw.normal(1, 3)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 3)  # (8, 3)
    _, trace = ode_likelihood.hutchinson_trace(lambda x: x @ jacobian.T, x, signs[:, None])
    yield {r"\mathbb{E}": Average.over({"z": z} for z in signs), "J": jacobian, "value": trace}


@printed(1e-7)
def fid(draw: Draws) -> Iterator[Case]:
    first, second = draw.normal(9, 3), draw.normal(12, 3) @ draw.covariance(3)
    yield {
        "value": distances.frechet_distance(first, second),
        r"\mu_": Family({1: first.mean(0), 2: second.mean(0)}),
        r"\Sigma_": Family({1: first.T.cov(), 2: second.T.cov()}),
    }


@printed()
def kid(draw: Draws) -> Iterator[Case]:
    first, second = draw.normal(3, 4), draw.normal(5, 4) + 1
    yield {
        "value": distances.kernel_distance(first, second),
        "x_": counted(first),
        "y_": counted(second),
        "k": lambda x, y: ((x * y).sum() / 4 + 1) ** 3,
        "over i": range(1, 6),
        "over j": range(1, 6),
        "N": 3,
        "M": 5,
        "D": 4,
        "x": first[0],
        "y": second[1],
    }


@printed()
def prec_recall(draw: Draws) -> Iterator[Case]:
    neighbours, made, real = 2, draw.normal(7, 2).roll(3, 0), draw.normal(9, 2) + 0.9
    precision, recall = distances.precision_recall(made, real, neighbours)

    def ball(center: Tensor) -> Any:
        own = made if bool((made == center.T).all(1).any()) else real
        radius = (own - center.T).norm(dim=1).kthvalue(neighbours + 1).values
        return lambda point: bool((point - center).norm() <= radius)

    yield {
        r"\text{precision}": precision,
        r"\text{recall}": recall,
        "x_": counted(made),
        "y_": counted(real),
        "over i": range(1, 10),
        "over j": range(1, 10),
        "N": 7,
        "M": 9,
        "B_k": ball,
    }
