"""diffusers as the oracle: its sampling loop, and a small network for it and for ours."""

import inspect

import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler

from fromnoise.diffusion.parameterization import ClippedDenoiser, NetworkDenoiser, Prediction
from fromnoise.diffusion.schedules import Schedule, linear_betas

SCALED = EulerDiscreteScheduler, HeunDiscreteScheduler
"""The schedulers whose x is divided by alpha, so that the image stays at scale 1."""


class Network(torch.nn.Module):
    """A small smooth function of an image and its timestep, with random weights."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first, self.second = (torch.randn(12, 12, generator=generator) / 4 for _ in range(2))

    def forward(self, x, timestep):
        hidden = torch.tanh(x.flatten(1) @ self.first + timestep[:, None] / 500)
        return (hidden @ self.second).view_as(x)


class Told(Network):
    """The network, told the timesteps of a list one after the other, whatever it is asked about."""

    def __init__(self, timesteps):
        super().__init__()
        self.timesteps = list(timesteps)

    def forward(self, x, timestep):
        return super().forward(x, torch.full_like(timestep, float(self.timesteps.pop(0))))


class Shrink:
    """A denoiser that treats each pixel alone, so that a batch cannot change a sample's last bits."""

    schedule = Schedule(linear_betas())

    def __call__(self, x, t):
        return 0.5 * x.clamp(-1, 1)


def start():
    return torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(8))


def ours(prediction, clip=False, network=None, betas=None):
    schedule = Schedule(linear_betas() if betas is None else betas)
    denoise = NetworkDenoiser(network or Network(), schedule, Prediction(prediction))
    return ClippedDenoiser(denoise) if clip else denoise


def theirs(scheduler, steps, sigmas=None, **options):
    """The loop of diffusers, with the noise of the same generator."""
    scheduler.set_timesteps(steps, **({} if sigmas is None else {"sigmas": sigmas}))
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(9)
    network, x = Network(), start()
    if isinstance(scheduler, SCALED):  # not by init_noise_sigma, which forgets the 1 at two of three spacings
        x = x * (scheduler.sigmas[0] ** 2 + 1).sqrt()
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(scaled, t.float().expand(2))
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
