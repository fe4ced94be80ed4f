"""Noise, image and velocities as outputs, and networks as denoisers."""

from itertools import product

import pytest
import torch

from fromnoise.diffusion.exact import GaussianMixture
from fromnoise.diffusion.parameterization import (
    AlongPath,
    ClippedDenoiser,
    NetworkDenoiser,
    Prediction,
    convert,
    from_x0,
    to_x0,
    training_target,
)
from fromnoise.diffusion.process import forward_marginal
from fromnoise.diffusion.schedules import FlowSchedule, Schedule, cosine_betas, linear_betas

F64 = torch.float64
SCHEDULE = Schedule(linear_betas())
TIMES = torch.tensor([1, 30, 400, 1000], dtype=F64)


def example():
    """x_0, noise, x_t and the coefficients shaped to multiply them."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=F64)
    alpha, sigma = (values.view(-1, 1, 1, 1) for values in (SCHEDULE.alpha(TIMES), SCHEDULE.sigma(TIMES)))
    return x0, noise, forward_marginal(SCHEDULE, x0, TIMES, noise), alpha, sigma


@pytest.mark.parametrize(("source", "target"), list(product(Prediction, Prediction)))
def test_conversions_round_trip(source, target):
    """All sixteen: a truth of one kind converts to the truth of the other, and any output comes back as it was."""
    x0, noise, x, alpha, sigma = example()
    truth = {p: training_target(p, x0, noise, alpha, sigma) for p in Prediction}
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(convert(source, target, truth[source], x, alpha, sigma), truth[target], **close)
    output = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    there = convert(source, target, output, x, alpha, sigma)
    torch.testing.assert_close(convert(target, source, there, x, alpha, sigma), output, **close)


@pytest.mark.parametrize("prediction", Prediction)
def test_training_target_is_the_right_output(prediction):
    x0, noise, x, alpha, sigma = example()
    target = training_target(prediction, x0, noise, alpha, sigma)
    torch.testing.assert_close(target, from_x0(prediction, x0, x, alpha, sigma), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_x0(prediction, target, x, alpha, sigma), x0, rtol=1e-9, atol=1e-9)


def test_targets_by_hand():
    """At a 3-4-5 point: alpha .6, sigma .8, x_0 = 1, noise = 2, so that x = 2.2, v = .4 and u = 1."""
    values = [torch.tensor([[v]], dtype=F64) for v in (1.0, 2.0, 0.6, 0.8)]
    x = torch.tensor([[2.2]], dtype=F64)
    by_hand = {Prediction.NOISE: 2.0, Prediction.IMAGE: 1.0, Prediction.VELOCITY: 0.4, Prediction.FLOW: 1.0}
    for prediction, expected in by_hand.items():
        assert training_target(prediction, *values).item() == pytest.approx(expected)
        assert from_x0(prediction, values[0], x, *values[2:]).item() == pytest.approx(expected)


@pytest.mark.parametrize("prediction", Prediction)
def test_network_denoiser(prediction):
    """The network gets x, the index t - 1 and the conditions; its output is read as what it predicts."""
    x0, noise, x, alpha, sigma = example()
    calls = []

    def network(x, timestep, **condition):
        calls.append((x, timestep, condition))
        return training_target(prediction, x0, noise, alpha, sigma)

    label = torch.arange(4)
    denoise = NetworkDenoiser(network, SCHEDULE, prediction)
    torch.testing.assert_close(denoise(x, TIMES, label=label), x0, rtol=1e-9, atol=1e-9)
    ((given, timestep, condition),) = calls
    assert given is x
    assert timestep.tolist() == [0, 29, 399, 999]
    assert condition == {"label": label}
    assert denoise.schedule is SCHEDULE


def test_network_denoiser_of_a_flow():
    """On the path of flow matching x_0 is x - t u, and the network is told 1000 t."""
    generator, asked = torch.Generator().manual_seed(0), []
    x0, noise = torch.randn(2, 3, 4, generator=generator, dtype=F64)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64)

    def network(x, timestep):
        asked.append(timestep)
        return noise - x0

    flow = FlowSchedule()
    x = forward_marginal(flow, x0, t, noise)
    torch.testing.assert_close(x - t[:, None] * (noise - x0), x0)
    torch.testing.assert_close(NetworkDenoiser(network, flow, Prediction.FLOW)(x, t), x0)
    assert asked[0].tolist() == [0, 300, 1000]


@pytest.mark.parametrize("prediction", Prediction)
def test_network_denoiser_answers_in_the_dtype_of_x(prediction):
    """A bf16 network inside a float32 sampler."""
    denoise = NetworkDenoiser(lambda x, t: (0.5 * x).bfloat16(), SCHEDULE, prediction)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert denoise(x, torch.tensor([5.0, 900.0])).dtype == torch.float32


def test_clipped_denoiser():
    def denoise(x, t, label):
        return x * label

    denoise.schedule = SCHEDULE
    x, t = torch.tensor([[-3.0, -0.4, 0.0, 0.9, 1.7]]), torch.ones(1)
    assert torch.equal(ClippedDenoiser(denoise)(x, t, label=1), torch.tensor([[-1.0, -0.4, 0.0, 0.9, 1.0]]))
    assert torch.equal(ClippedDenoiser(denoise, 2.0)(x, t, label=1), torch.tensor([[-2.0, -0.4, 0.0, 0.9, 1.7]]))
    assert ClippedDenoiser(denoise).schedule is SCHEDULE


def test_along_another_path():
    """Of a mixture: the denoiser of one schedule, asked along a straight line, is that of the mixture on the line."""
    generator = torch.Generator().manual_seed(1)
    mixture = torch.tensor([0.3, 0.7], dtype=F64), torch.randn(2, 3, generator=generator, dtype=F64)
    stds = torch.tensor([0.4, 0.2], dtype=F64)
    flow, own = (GaussianMixture(schedule, *mixture, stds) for schedule in (FlowSchedule(), Schedule(cosine_betas())))
    for time in (0.02, 0.3, 0.9, 0.999):
        x, t = torch.randn(4, 3, generator=generator, dtype=F64), torch.full((4,), time, dtype=F64)
        torch.testing.assert_close(AlongPath(own, FlowSchedule())(x, t), flow(x, t), rtol=1e-3, atol=1e-3)


def test_along_another_path_at_its_ends():
    """At pure noise the schedule's own last time is asked, with x as it is; a schedule's own path changes nothing."""
    schedule, asked = Schedule(linear_betas()), []

    def denoise(x, t):
        asked.append((x, t))
        return x

    denoise.schedule = schedule
    x = torch.ones(2, 1, dtype=F64)
    AlongPath(denoise, FlowSchedule())(x, torch.ones(2, dtype=F64))
    assert torch.equal(asked[0][1], torch.full((2,), 1000.0, dtype=F64))
    end = torch.tensor([1000.0], dtype=F64)
    torch.testing.assert_close(asked[0][0], x * (schedule.alpha(end) + schedule.sigma(end)))
    AlongPath(denoise, schedule)(x, torch.tensor([3.0, 700.5], dtype=F64))
    torch.testing.assert_close(asked[1][1], torch.tensor([3.0, 700.5], dtype=F64))
    torch.testing.assert_close(asked[1][0], x)
