"""Averaging the weights: equation ema."""

import math

import pytest
import torch

from fromnoise.train.ema import EMA


def decays(decay, updates):
    return [min(decay, (1 + n) / (10 + n)) for n in range(1, updates + 1)]


@pytest.mark.parametrize("updates", [1, 6, 100, 300])
def test_ema(updates):
    """Closed form: after n updates each past weight counts (1 - decay_k) times the product of the later decays."""
    start, values = torch.tensor([2.0, -1.0]), [torch.tensor([math.sin(k), 0.1 * k]) for k in range(1, updates + 1)]
    parameters = [start.clone(), start.clone().reshape(2, 1)]
    ema = EMA(parameters, 0.9)
    for value in values:
        for parameter in parameters:
            parameter.copy_(value.view_as(parameter))
        ema.update(parameters)
    factors = decays(0.9, updates)
    expected = math.prod(factors) * start.double()
    for k, value in enumerate(values):
        expected = expected + (1 - factors[k]) * math.prod(factors[k + 1 :]) * value.double()
    for shadow, parameter in zip(ema.shadow, parameters, strict=True):
        assert shadow.shape == parameter.shape
        torch.testing.assert_close(shadow.double().flatten(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(parameter.flatten(), values[-1])


def test_ema__geometric():
    """On weights that stand still the distance to them shrinks by the decay each time: a geometric sequence."""
    parameter = torch.zeros(3)
    ema = EMA([parameter], 0.5)
    parameter.fill_(1.0)
    distances = []
    for _ in range(20):
        ema.update([parameter])
        distances.append(1 - ema.shadow[0][0].item())
    for n in range(8, 14):  # (1 + n) / (10 + n) reaches 1/2 at n = 8
        assert math.isclose(distances[n] / distances[n - 1], 0.5, rel_tol=1e-2)
    assert math.isclose(distances[6], math.prod(decays(0.5, 7)), rel_tol=1e-4)


def test_ema__takes_a_generator_and_no_gradient():
    """It accepts `module.parameters()`, starts as a copy, and keeps no graph."""
    module = torch.nn.Linear(3, 2)
    ema = EMA(module.parameters(), 0.9)
    before = [shadow.clone() for shadow in ema.shadow]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    for shadow, old in zip(ema.shadow, before, strict=True):
        assert torch.equal(shadow, old)
    ema.update(module.parameters())
    for shadow, old in zip(ema.shadow, before, strict=True):
        assert not shadow.requires_grad
        torch.testing.assert_close(shadow, old + 9 / 11)
