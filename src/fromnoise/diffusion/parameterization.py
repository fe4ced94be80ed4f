"""What a network predicts, and how a network becomes a denoiser.

A noisy image ``x = alpha x_0 + sigma noise`` and any one of noise, image and the two velocities determine the others. A
network may be trained to predict any of them (`Prediction`); all else in this project sees a `Denoiser`, which
predicts the image.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.diffusion.process import per_sample
from fromnoise.diffusion.schedules import NoiseSchedule


class Prediction(StrEnum):
    """What a network predicts, by diffusers' names."""

    NOISE = "epsilon"
    IMAGE = "sample"
    VELOCITY = "v_prediction"
    FLOW = "flow_prediction"


def x0_from_noise(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The image, once the noise is known: ``(x - sigma noise) / alpha``. Eq. eps-x0.

    Args:
        x, noise: ``(B, ...)``.
        alpha, sigma: shaped to multiply x.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 15.
    """
    return (x - sigma * noise) / alpha


def noise_from_x0(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise, once the image is known: ``(x - alpha x_0) / sigma``, the inverse of `x0_from_noise`."""
    return (x - alpha * x0) / sigma


def velocity(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The velocity ``v = alpha noise - sigma x_0``: x turned by a right angle, since alpha^2 + sigma^2 = 1. Eq. v.

    Turning back gives both: ``x_0 = alpha x - sigma v`` and ``noise = sigma x + alpha v``.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), appendix D.
    """
    return alpha * noise - sigma * x0


def flow_velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """The velocity ``u = noise - x_0`` along the straight line from image to noise: flow matching's target. Eq. cfm.

    ``|u_theta - (noise - x_0)|^2`` has, on average over both ends of the line, the gradient of the error in the flow
    itself, which is the mean of all lines through x. Liu et al. and Lipman et al. count time the other way: minus u.

    Source: Lipman et al. 2023 (arXiv 2210.02747), equation 9.
    """
    return noise - x0


def to_x0(prediction: Prediction, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The image that a network's ``output`` stands for. All shapes ``(B, ...)`` or multiplying it."""
    match prediction:
        case Prediction.NOISE:
            return x0_from_noise(x, output, alpha, sigma)
        case Prediction.IMAGE:
            return output
        case Prediction.VELOCITY:
            return alpha * x - sigma * output
        case Prediction.FLOW:
            return (x - sigma * output) / (alpha + sigma)


def from_x0(prediction: Prediction, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The output that a network should have given for the image ``x0``: the inverse of `to_x0`."""
    match prediction:
        case Prediction.NOISE:
            return noise_from_x0(x, x0, alpha, sigma)
        case Prediction.IMAGE:
            return x0
        case Prediction.VELOCITY:
            return velocity(x0, noise_from_x0(x, x0, alpha, sigma), alpha, sigma)
        case Prediction.FLOW:
            return flow_velocity(x0, noise_from_x0(x, x0, alpha, sigma))


def convert(source: Prediction, target: Prediction, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """An output of kind ``source`` as one of kind ``target``."""
    return from_x0(target, to_x0(source, output, x, alpha, sigma), x, alpha, sigma)


def training_target(prediction: Prediction, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network of this kind is trained to predict; as `from_x0`, without a division by a small sigma."""
    match prediction:
        case Prediction.NOISE:
            return noise
        case Prediction.IMAGE:
            return x0
        case Prediction.VELOCITY:
            return velocity(x0, noise, alpha, sigma)
        case Prediction.FLOW:
            return flow_velocity(x0, noise)


def error_scale(prediction: Prediction, snr: Tensor) -> Tensor:
    """How much larger a squared error in this output is than the same one in the image. Eq. err-maps.

    ``|d noise|^2 = SNR |d x_0|^2`` and ``|d v|^2 = (SNR + 1) |d x_0|^2``; ``|d u|^2 = (sqrt(SNR) + 1)^2 |d x_0|^2``.

    Args:
        snr: ``(B,)``.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), section 4.
    """
    match prediction:
        case Prediction.NOISE:
            return snr
        case Prediction.IMAGE:
            return torch.ones_like(snr)
        case Prediction.VELOCITY:
            return snr + 1
        case Prediction.FLOW:
            return (snr.sqrt() + 1).square()


class Denoiser(Protocol):
    """The one contract: the posterior mean ``E[x_0 | x_t]``, as the network or the exact formula knows it.

    Called with ``x`` ``(B, ...)``, the time ``t`` ``(B,)`` (a float tensor, the schedule's own time) and conditions
    ``(B, ...)`` by name, it returns x0_hat, of the shape of x.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor: ...


class NetworkDenoiser:
    """A network, its schedule and what it predicts, as a `Denoiser`.

    The network is called as ``network(x, schedule.network_time(t), **condition)``: a `Schedule`'s is the index t - 1.
    """

    def __init__(self, network: Callable[..., Tensor], schedule: NoiseSchedule, prediction: Prediction):
        self.network = network
        self.schedule = schedule
        self.prediction = prediction

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        alpha, sigma = per_sample(self.schedule.alpha(t), x), per_sample(self.schedule.sigma(t), x)
        output = self.network(x, self.schedule.network_time(t), **condition).to(x.dtype)
        return to_x0(self.prediction, output, x, alpha, sigma)


def edm_coefficients(sigma: Tensor, data_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """``(c_skip, c_out, c_in)`` of `EDMDenoiser` at the noise level sigma, each of its shape. Eq. coeffs.

    ``s^2 / (sigma^2 + s^2)``, ``sigma s / sqrt(sigma^2 + s^2)`` and ``1 / sqrt(sigma^2 + s^2)`` with s = data_std: the
    network's input and target have variance 1, and an error of the network counts as little as it can.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and appendix B.6.
    """
    total = (sigma.square() + data_std**2).sqrt()
    return (data_std / total).square(), sigma * data_std / total, 1 / total


class EDMDenoiser:
    """A preconditioned network as a `Denoiser`: ``c_skip x + c_out F(c_in x)`` at the scale of the image. Eq. precond.

    The network is called as ``network(c_in x, log(sigma) / 4, **condition)`` with ``x / alpha`` for x and the noise
    level ``sigma / alpha`` for sigma. With data_std = 1 it predicts minus v.

    Args:
        data_std: the standard deviation of the images.

    Source: Karras et al. 2022 (arXiv 2206.00364), equation 7.
    """

    def __init__(self, network: Callable[..., Tensor], schedule: NoiseSchedule, data_std: float = 0.5):
        self.network = network
        self.schedule = schedule
        self.data_std = data_std

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        level = self.schedule.noise_to_signal(t)
        skip, out, into = (per_sample(c, x) for c in edm_coefficients(level, self.data_std))
        scaled = x / per_sample(self.schedule.alpha(t), x)
        return skip * scaled + out * self.network(into * scaled, level.log() / 4, **condition).to(x.dtype)


class AlongPath:
    """A denoiser of one schedule, asked along the path of another: the same network, on a straight line for example.

    An image with noise is the same image whatever it is multiplied by, so a denoiser that knows one path knows all
    paths: x is brought to the scale that the denoiser's own schedule has at the same noise level ``sigma / alpha``.
    Where the path has more noise than that schedule ever has, the denoiser is asked at its last time.

    Args:
        denoise: with a `schedules.Schedule`; schedule: of the path on which x will lie.
    """

    def __init__(self, denoise: Denoiser, schedule: NoiseSchedule):
        self.denoise = denoise
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        own = self.denoise.schedule
        highest = own.noise_to_signal(torch.full_like(t, own.end))
        time = own.time(torch.minimum(self.schedule.noise_to_signal(t), highest))  # (B,)
        scale = (own.alpha(time) + own.sigma(time)) / (self.schedule.alpha(t) + self.schedule.sigma(t))  # (B,)
        return self.denoise(per_sample(scale, x) * x, time, **condition)


class ClippedDenoiser:
    """A denoiser whose answers are clipped to [-limit, limit], where images live.

    Early in sampling x0_hat is a division by a small alpha; clipping keeps its errors from carrying x out of range,
    as DDPM's released sampler does. A sampler that needs the noise, as `samplers.ddim`, derives it from x and the
    clipped answer, so that the two make up x, as OpenAI's code does. diffusers' DDIM keeps the noise of the image that
    was clipped away, unless it is told ``use_clipped_model_output=True``.
    """

    def __init__(self, denoise: Denoiser, limit: float = 1.0):
        self.denoise = denoise
        self.schedule = denoise.schedule
        self.limit = limit

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return self.denoise(x, t, **condition).clamp(-self.limit, self.limit)
