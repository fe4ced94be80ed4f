"""Teaching a network to need fewer steps: reflow, progressive distillation and consistency.

A *teacher* is a denoiser that is finished. A *student* learns to do in one step what the teacher does in many. Times
are ``(B,)``, in the schedule's own time, ``u < t``; images are ``(B, ...)``; ``y = x / alpha`` and the noise level
``r = sigma / alpha`` are a noisy image at the scale of the image, as in `solvers`.
"""

from collections.abc import Callable

from torch import Tensor

from fromnoise.diffusion.losses import squared_error
from fromnoise.diffusion.parameterization import edm_coefficients, flow_velocity
from fromnoise.diffusion.process import forward_marginal, per_sample
from fromnoise.diffusion.schedules import FlowSchedule, NoiseSchedule


def reflow_loss(flow: Callable[..., Tensor], noise: Tensor, end: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
    """Flow matching on pairs that a teacher made: ``|u(x_t, t) - (noise - end)|^2``, a mean, ``(B,)``. Eq. reflow.

    ``x_t = (1 - t) end + t noise``. In flow matching noise and image are paired at random, so that their lines cross
    and the flow, which is the mean of the lines, bends. Here each noise has the image to which the flow led it. The new
    flow has the same images, and paths that are straighter.

    Args:
        flow: the student, called as ``flow(x_t, t, **condition)``; it returns the velocity, noise minus image.
        noise: ``(B, ...)``, where the teacher started; end: ``(B, ...)``, where it arrived.
        t: ``(B,)``, in [0, 1], 1 is noise.

    Source: Liu et al. 2023 (arXiv 2209.03003), equation 1, and section 2 on reflow.
    """
    x_t = forward_marginal(FlowSchedule(), end, t, noise)
    return squared_error(flow(x_t, t, **condition), flow_velocity(end, noise))


def distillation_target(schedule: NoiseSchedule, x_t: Tensor, x_u: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """The guess at the image that takes DDIM from ``x_t`` to ``x_u`` in one step, ``(B, ...)``. Eq. prog-distill.

    ``(x_u - (sigma_u / sigma_t) x_t) / (alpha_u - (sigma_u / sigma_t) alpha_t)``. If the teacher went from x_t to x_u
    in two steps, a student that answers this goes there in one. At u = 0 it is x_u itself.

    Args:
        x_t, x_u: ``(B, ...)``; t, u: ``(B,)``, u < t.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), algorithm 2.
    """
    ratio = schedule.sigma(u) / schedule.sigma(t)
    share = per_sample(schedule.alpha(u) - ratio * schedule.alpha(t), x_t)
    return (x_u - per_sample(ratio, x_t) * x_t) / share


def consistency_coefficients(level: Tensor, least: float, data_std: float) -> tuple[Tensor, Tensor]:
    """``(c_skip, c_out)`` of `ConsistencyDenoiser` at the noise level r, each of its shape. Eq. consistency.

    ``s^2 / ((r - r_min)^2 + s^2)`` and ``s (r - r_min) / sqrt(r^2 + s^2)`` with s = data_std. At the least level they
    are 1 and 0: whatever the network says, an image with next to no noise stays what it is.

    Args:
        level: r, not below ``least``.

    Source: Song et al. 2023 (arXiv 2303.01469), appendix C.
    """
    above = level - least
    return data_std**2 / (above.square() + data_std**2), data_std * above / (level.square() + data_std**2).sqrt()


class ConsistencyDenoiser:
    """A network that leads each point of a curve to the curve's end: ``c_skip y + c_out F(c_in y)``, in one step.

    It has the signature of a denoiser, but its answer is a sample and no mean. The network is called as that of
    `parameterization.EDMDenoiser`: ``network(c_in y, log(r) / 4, **condition)``.

    Args:
        least: the lowest noise level r_min, at which the answer is y itself; data_std: s, of the images.
    """

    def __init__(self, network: Callable[..., Tensor], schedule: NoiseSchedule, least: float, data_std: float = 0.5):
        self.network, self.schedule, self.least, self.data_std = network, schedule, least, data_std

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        level = self.schedule.noise_to_signal(t)
        skip, out = (per_sample(c, x) for c in consistency_coefficients(level, self.least, self.data_std))
        y = x / per_sample(self.schedule.alpha(t), x)
        into = per_sample(edm_coefficients(level, self.data_std)[2], x)
        return skip * y + out * self.network(into * y, level.log() / 4, **condition).to(x.dtype)
