"""Schedules: bounds, times between whole times, dtypes and errors."""

import math

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas

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


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [-0.1], [0.1, math.nan], [[0.1, 0.2]]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Schedule(torch.tensor(betas))


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
