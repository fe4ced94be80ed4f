"""Diffusion in continuous time: ``dx = drift dt + diffusion dw``, and the two equations that lead back.

A drift has the shape of x ``(B, ...)``; a diffusion coefficient, of which g^2 is the variance added in unit time,
multiplies it. Time runs from image to noise: on the way back dt is negative.
"""

from torch import Tensor


def sde_step(x: Tensor, drift: Tensor, diffusion: Tensor, dt: float, noise: Tensor) -> Tensor:
    """A short step of ``dx = f dt + g dw`` (Euler-Maruyama): ``x + f dt + g sqrt(|dt|) noise``. Eq. sde.

    Args:
        dt: negative on the way back; noise: standard normal, of the shape of x.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 5.
    """
    return x + drift * dt + diffusion * abs(dt) ** 0.5 * noise


def variance_preserving(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Drift ``-beta x / 2`` and diffusion ``sqrt(beta)``: DDPM's steps, made ever smaller. Eq. vp.

    Args:
        beta: the variance added in unit time, multiplying x.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 11.
    """
    return -0.5 * beta * x, beta**0.5


def variance_exploding(x: Tensor, variance_rate: Tensor) -> tuple[Tensor, Tensor]:
    """Drift 0 and diffusion ``sqrt(d sigma^2 / dt)``: the image stays, noise is added to it. Eq. ve.

    Args:
        variance_rate: ``d sigma^2 / dt``, multiplying x.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 9.
    """
    return 0 * x, variance_rate**0.5


def reverse_drift(drift: Tensor, diffusion: Tensor, score: Tensor) -> Tensor:
    """The drift with which the same noise, going back in time, undoes the process: ``f - g^2 score``. Eq. reverse-sde.

    Args:
        score: gradient of ``log q_t`` at x.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 6.
    """
    return drift - diffusion**2 * score


def probability_flow(drift: Tensor, diffusion: Tensor, score: Tensor) -> Tensor:
    """The drift that alone, without noise, has the same marginals q_t: ``f - g^2 score / 2``. Eq. pf-ode.

    Args:
        score: gradient of ``log q_t`` at x.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 13.
    """
    return drift - diffusion**2 * score / 2
