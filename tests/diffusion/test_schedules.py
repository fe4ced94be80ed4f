"""Schedules: bounds, times between whole times, dtypes and errors."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from fromnoise.diffusion.process import forward_jump, posterior_variance
from fromnoise.diffusion.samplers import Spacing, flow_times, sampling_times
from fromnoise.diffusion.schedules import (
    FlowSchedule,
    Schedule,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)

F64 = torch.float64
ALL = {"linear": linear_betas(), "cosine": cosine_betas(), "scaled-linear": scaled_linear_betas()}


@pytest.fixture(params=ALL)
def schedule(request):
    return Schedule(ALL[request.param])


def test_bounds(schedule):
    assert schedule.num_timesteps == 1000
    assert schedule.betas.dtype == schedule.alpha_bar.dtype == F64
    assert schedule.alpha_bar.shape == (1001,)
    assert schedule.alpha_bar[0] == 1
    t = torch.linspace(0, 1000, 777, dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert (alpha[0], sigma[0]) == (1, 0)
    assert bool((alpha[1:] < alpha[:-1]).all())
    assert bool((sigma[1:] > sigma[:-1]).all())
    assert bool((alpha > 0).all())
    assert bool((sigma < 1).all())
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t), rtol=0, atol=1e-14)


def test_whole_times_are_the_table(schedule):
    t = torch.arange(1001, dtype=F64)
    torch.testing.assert_close(schedule.alpha(t).square(), schedule.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.sigma(t).square(), 1 - schedule.alpha_bar, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.noise_to_signal(t), schedule.sigma(t) / schedule.alpha(t))
    torch.testing.assert_close(schedule.log_snr(t)[1:], 0.5 * schedule.snr(t)[1:].log())
    assert schedule.log_snr(t)[0] == math.inf


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_between_whole_times_it_is_as_diffusers(name):
    """Euler's linspace visits fractions of timesteps and interpolates sigmas linearly with np.interp."""
    oracle = EulerDiscreteScheduler(beta_schedule=name, timestep_spacing="linspace")
    oracle.set_timesteps(30)
    timesteps = oracle.timesteps.double()
    assert bool((timesteps != timesteps.round()).any())
    schedule = Schedule(oracle.betas)
    torch.testing.assert_close(schedule.noise_to_signal(timesteps + 1).float(), oracle.sigmas[:-1], rtol=2e-4, atol=0)
    # The same against np.interp in float64, first interval included.
    table = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt().numpy()
    t = np.array([0.0, 0.25, 1.0, 499.99, 500.5, 999.75, 1000.0])
    expected = torch.from_numpy(np.interp(t, np.arange(1001), table))
    torch.testing.assert_close(schedule.noise_to_signal(torch.from_numpy(t)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_results_have_the_shape_and_dtype_of_the_time(schedule, dtype):
    t = torch.tensor([[0.0, 3.5], [999.0, 1000.0]], dtype=dtype)
    for function in (schedule.noise_to_signal, schedule.alpha, schedule.sigma, schedule.snr, schedule.log_snr):
        result = function(t)
        assert result.dtype == dtype
        assert result.shape == t.shape
        assert result.device == t.device
        torch.testing.assert_close(result.double(), function(t.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("t", [-0.001, 1000.001, math.nan, math.inf])
def test_times_outside_are_refused(schedule, t):
    with pytest.raises(ValueError, match=r"\[0, 1000\]"):
        schedule.noise_to_signal(torch.tensor([5.0, t], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_time_is_the_inverse_of_the_noise_level(schedule, dtype):
    """At whole times exactly, also at both ends; between them, and from a noise level and back, to rounding."""
    whole = torch.arange(1001, dtype=dtype)
    assert torch.equal(schedule.time(schedule.noise_to_signal(whole)), whole)
    t = torch.tensor([[0.25, 1.5], [400.75, 999.5]], dtype=dtype)
    back = schedule.time(schedule.noise_to_signal(t))
    assert (back.dtype, back.shape) == (dtype, t.shape)
    torch.testing.assert_close(back, t, rtol=1e-3 if dtype == torch.float32 else 1e-10, atol=0)
    levels = torch.logspace(-3, 1, 50, dtype=dtype)
    torch.testing.assert_close(schedule.noise_to_signal(schedule.time(levels)), levels, rtol=1e-3, atol=0)


@pytest.mark.parametrize("level", [-0.001, 1e9, math.nan, math.inf])
def test_noise_levels_outside_are_refused(schedule, level):
    with pytest.raises(ValueError, match="noise levels must lie in"):
        schedule.time(torch.tensor([0.5, level], dtype=F64))


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [1.0, 0.1], [0.1, 1.1], [-0.1], [0.1, math.nan], [[0.1, 0.2]]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Schedule(torch.tensor(betas))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nothing_but_noise_at_the_end(schedule, dtype):
    """With a last beta of 1: every coefficient at T, and just before, is a number or the right infinity."""
    zero = Schedule(zero_terminal_snr(schedule.betas))
    t = torch.tensor([998, 999, 999.4, 999.6, 1000], dtype=dtype)
    level = zero.noise_to_signal(t)
    assert level.isfinite().tolist() == [True, True, False, False, False]
    assert not bool(level.isnan().any())
    assert zero.alpha(t)[2:].tolist() == [0, 0, 0]
    assert zero.sigma(t)[2:].tolist() == [1, 1, 1]
    assert (zero.snr(t)[4], zero.log_snr(t)[4]) == (0, -math.inf)
    assert zero.time(level[[0, 1, 4]]).tolist() == [998, 999, 1000]
    u, end = torch.tensor([0, 500, 999], dtype=dtype), torch.full((3,), 1000, dtype=dtype)
    assert [values.tolist() for values in forward_jump(zero, u, end)] == [[0, 0, 0], [1, 1, 1]]
    assert posterior_variance(zero, u, end).tolist() == pytest.approx(zero.sigma(u).square().tolist(), rel=1e-5)
    whole = torch.arange(1001, dtype=dtype)
    torch.testing.assert_close(zero.alpha(whole).square(), zero.alpha_bar.to(dtype), rtol=1e-4, atol=1e-12)
    for spacing in Spacing:
        times = sampling_times(zero, 20, spacing)
        assert bool(zero.noise_to_signal(torch.tensor(times[1:], dtype=F64)).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_flow_schedule(dtype):
    """A straight line from image to noise; its noise level has an inverse, and is infinite at the end."""
    flow, t = FlowSchedule(), torch.linspace(0, 1, 101, dtype=dtype)
    assert torch.equal(flow.sigma(t), t)
    assert torch.equal(flow.alpha(t) + flow.sigma(t), torch.ones_like(t))
    torch.testing.assert_close(flow.noise_to_signal(t), t / (1 - t))
    assert (flow.noise_to_signal(t)[0], flow.noise_to_signal(t)[-1]) == (0, math.inf)
    torch.testing.assert_close(flow.time(flow.noise_to_signal(t)), t)
    torch.testing.assert_close(flow.log_snr(t), ((1 - t) / t).log())
    for u, v in ((0.0, 0.3), (0.3, 0.8), (0.4, 1.0)):
        u, v = torch.tensor([u], dtype=dtype), torch.tensor([v], dtype=dtype)
        alpha, sigma = forward_jump(flow, u, v)
        torch.testing.assert_close(alpha, (1 - v) / (1 - u))
        torch.testing.assert_close(sigma.square() + (alpha * u).square(), v.square())
    for function in (flow.alpha, flow.sigma, flow.noise_to_signal, flow.snr, flow.network_time):
        assert function(t).dtype == dtype
    assert flow.network_time(t)[-1] == 1000


@pytest.mark.parametrize("t", [-0.001, 1.001, math.nan])
def test_flow_times_outside_are_refused(t):
    flow, time = FlowSchedule(), torch.tensor([0.5, t], dtype=F64)
    for function in (flow.alpha, flow.sigma, flow.noise_to_signal, flow.scale_and_level):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            function(time)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_flow_times(factor):
    times = flow_times(10, factor)
    assert len(times) == 11
    assert (times[0], times[-1]) == (1, 0)
    assert all(t > u for t, u in pairwise(times))
    assert times[5] == pytest.approx(factor / (factor + 1))


def test_betas_are_copied_from_any_dtype():
    betas = torch.tensor([0.5, 0.25], requires_grad=True)
    schedule = Schedule(betas)
    assert schedule.alpha_bar.tolist() == [1.0, 0.5, 0.375]
    assert not schedule.betas.requires_grad


def test_respaced(schedule):
    visited = [1, 200, 999]
    short = schedule.respaced(visited)
    assert short.num_timesteps == 3
    torch.testing.assert_close(short.alpha_bar, schedule.alpha_bar[[0, *visited]], rtol=1e-10, atol=0)


@pytest.mark.parametrize("timesteps", [[], [0, 5], [3, 3], [5, 2], [-1, 4]])
def test_respaced_refuses_times_that_do_not_rise(schedule, timesteps):
    with pytest.raises(ValueError, match="rise"):
        schedule.respaced(timesteps)


def test_any_length():
    for count in (1, 2, 10, 4000):
        for betas in (linear_betas(count), cosine_betas(count), scaled_linear_betas(count)):
            assert Schedule(betas).num_timesteps == count
