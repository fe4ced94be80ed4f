"""What the equation tests share: how a Monte Carlo estimate is judged."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

FourSigma = Callable[[Tensor, Tensor | float], None]


@pytest.fixture
def within_four_sigma() -> FourSigma:
    """Asserts that the mean of independent samples ``(N, ...)`` is the expected one, to 4 standard errors."""

    def check(samples: Tensor, expected: Tensor | float) -> None:
        samples = samples.double()
        mean, standard_error = samples.mean(0), samples.std(0) / len(samples) ** 0.5
        distance = (mean - torch.as_tensor(expected, dtype=torch.float64)).abs() / standard_error
        assert bool((distance < 4).all()), f"{mean} is {distance} standard errors from {expected}"

    return check


@pytest.fixture
def generator() -> torch.Generator:
    """A random generator with a fixed seed."""
    return torch.Generator().manual_seed(0)
