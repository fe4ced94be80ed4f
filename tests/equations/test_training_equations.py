"""Averaging the weights: equations ema and power-ema."""

import math

import pytest
import torch

from fromnoise.train.ema import EMA, power_decay


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


@pytest.mark.parametrize("gamma", [0.5, 6.94])
def test_power_ema(gamma):
    """The weight of each past step, the product of decays, is (k / n)^gamma up to a factor, for any length of run."""
    for length in (400, 4000):
        shares = []
        for k in (length // 2, length):
            later = math.prod(power_decay(n, gamma) for n in range(k + 1, length + 1))
            shares.append((1 - power_decay(k, gamma)) * later)
        assert shares[0] / shares[1] == pytest.approx(0.5**gamma, rel=0.05)
    assert power_decay(1, gamma) == 0


def test_power_ema__width():
    """Gamma 6.94: the standard deviation of the averaged steps is 0.100 of the run, as the paper's formula says."""
    gamma, length = 6.94, 20_000
    places = torch.arange(1, length + 1, dtype=torch.float64)
    decays = torch.tensor([power_decay(n, gamma) for n in range(1, length + 1)], dtype=torch.float64)
    later = torch.cat([decays[1:].flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)])
    share = (1 - decays) * later
    mean = (share * places).sum()
    width = ((share * (places - mean) ** 2).sum().sqrt() / length).item()
    assert share.sum().item() == pytest.approx(1, abs=1e-9)
    assert width == pytest.approx(math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)), rel=1e-3)
    assert width == pytest.approx(0.1, abs=1e-3)


def test_power_ema__ramp():
    """On weights that grow with the step, theta = n, the average is n (gamma + 1) / (gamma + 2) and about a half."""
    gamma, average = 6.94, 0.0
    for n in range(1, 2001):
        decay = power_decay(n, gamma)
        average = decay * average + (1 - decay) * n
    assert average == pytest.approx(2000 * (gamma + 1) / (gamma + 2) + 0.5, abs=0.06)
