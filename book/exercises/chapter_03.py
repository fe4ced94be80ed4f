"""Checks of chapter 3."""

import torch
from torch import Tensor

from exercises import Function, Wrong, exercise, expect


def refuse(got: object, wrong: list[tuple[Tensor, str]]) -> None:
    """Raises `Wrong` with the hint of the typical wrong answer that was given, if it is one."""
    for value, hint in wrong:
        if isinstance(got, Tensor) and got.shape == value.shape and torch.allclose(got.double(), value, rtol=1e-4):
            raise Wrong(hint)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@exercise
def kl_of_normals(answer: Function) -> None:
    mean_p, std_p = numbers(0.1, 2.0, -1.0, 0.5), numbers(10.0, 4.0, 0.3, 2.0)
    mean_q, std_q = numbers(2.0, 0.1, 0.5, -0.7), numbers(4.0, 10.0, 0.6, 3.0)

    def kl(m_0: Tensor, v_0: Tensor, m_1: Tensor, v_1: Tensor) -> Tensor:
        return 0.5 * (v_0 / v_1 - 1 + (m_1 - m_0).square() / v_1 + (v_1 / v_0).log())

    p, q = (mean_p, std_p.square()), (mean_q, std_q.square())
    truth = kl(*p, *q)
    got = answer(mean_p, std_p, mean_q, std_q)
    log_ratio = (q[1] / p[1]).log()
    distance = (mean_p - mean_q).square()
    wrong = [
        (kl(*q, *p), "that is KL(Q || P); the average is over P, and the second variance, Q's, is in the denominators"),
        (kl(mean_p, std_p, mean_q, std_q), "the standard deviations stand where variances are due; square them"),
        (2 * truth, "the factor 1/2 in front is missing"),
        (truth - log_ratio, "the sign of the logarithm is turned: it is log(V_q / V_p)"),
        (truth - log_ratio / 4, "the logarithm is that of the quotient of the variances, not of the stds, then halved"),
        (truth + 0.5, "the - 1 is missing: for P = Q the result must be 0"),
        (
            truth + 0.5 * distance * (1 / p[1] - 1 / q[1]),
            "the distance of the means is measured with Q's variance, not P's",
        ),
        (
            truth + 0.5 * distance * (1 / std_q - 1 / q[1]),
            "the distance of the means is divided by Q's standard deviation; its variance is due",
        ),
        (truth / torch.log(numbers(2.0)), "that is in bits; nats are due"),
    ]
    refuse(got, wrong)
    expect(got, truth, "average log P(x)/Q(x) over x from P: (x - m_q)^2 averages to V_p + (m_p - m_q)^2")


@exercise
def x0_from_velocity(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    alpha = numbers(0.9, 0.6, 0.0)[:, None]  # the last is pure noise, where a division would fail
    sigma = (1 - alpha.square()).sqrt()
    x, v = alpha * x0 + sigma * noise, alpha * noise - sigma * x0
    got = answer(x, v, alpha, sigma)
    wrong = [
        (sigma * x + alpha * v, "that is the noise; the picture is due"),
        (alpha * x + sigma * v, "the sign of v is turned: v points from the picture to the noise"),
        (sigma * v - alpha * x, "the sign of the whole is turned"),
        (sigma * x - alpha * v, "alpha and sigma are exchanged: where sigma is 0 the picture is x itself"),
        (alpha * v - sigma * x, "x and v are exchanged"),
        (x - sigma * v, "x must be scaled by alpha"),
    ]
    refuse(got, wrong)
    if isinstance(got, Tensor) and not bool(got.isfinite().all()):
        raise Wrong("at pure noise, alpha = 0, it is not finite; the picture can be had without dividing")
    expect(got, x0, "eliminate the noise from x = alpha x0 + sigma noise and v = alpha noise - sigma x0")


@exercise
def noise_loss_to_image_loss(answer: Function) -> None:
    alpha = numbers(0.98, 0.8, 0.3)
    sigma = (1 - alpha.square()).sqrt()
    snr = (alpha / sigma).square()
    got = answer(alpha, sigma)
    wrong = [
        (snr, "that is the factor in the other direction: it turns an image loss into a noise loss"),
        (sigma / alpha, "that scales the error; for a squared error it must be squared"),
        (alpha / sigma, "that is upside down, and it must be squared"),
        (-sigma / alpha, "that scales the error itself; for a squared error it must be squared"),
        (1 / (snr + 1), "that would be right for a network that guesses the velocity"),
        (sigma, "that scales the noise in x_t; ask how the picture, x0 = (x - sigma noise) / alpha, changes with it"),
        (1 / alpha.square(), "an error d in the noise is sigma d in x_t before it is divided by alpha"),
    ]
    refuse(got, wrong)
    expect(got, 1 / snr, "x0 = (x - sigma noise) / alpha: by how much does it change if the noise changes by d?")


@exercise
def kappa_of_variance(answer: Function) -> None:
    beta, beta_tilde = numbers(0.02, 0.3, 0.5), numbers(0.004, 0.25, 0.01)
    truth = numbers(0.0, 0.35, 1.0)
    variance = torch.exp(truth * beta.log() + (1 - truth) * beta_tilde.log())
    got = answer(variance, beta, beta_tilde)
    wrong = [
        ((variance - beta_tilde) / (beta - beta_tilde), "that mixes the variances; the network mixes their logarithms"),
        (1 - truth, "that counts from the other end: 0 is beta_tilde, 1 is beta"),
        (truth * (beta / beta_tilde).log(), "divide by the distance of the two ends, log beta - log beta_tilde"),
        (variance.log() / (beta / beta_tilde).log(), "measure from the lower end: subtract log beta_tilde"),
    ]
    refuse(got, wrong)
    expect(got, truth, "solve log V = kappa log beta + (1 - kappa) log beta_tilde for kappa")
