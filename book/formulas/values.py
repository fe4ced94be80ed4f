r"""What the symbols of a formula stand for, and the arithmetic of it.

Everything is a float64 tensor: a number has no dimension, a vector is a column ``(D, 1)``, a matrix is ``(D, D)``.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


class FormulaError(Exception):
    """A formula that cannot be read, or has no value."""


class NoSuchIndex(FormulaError):
    """An index that a letter does not have."""


class Family:
    r"""A letter with an index, such as ``\beta_t``: what it is for each index.

    With ``calls`` its members are functions.
    """

    def __init__(self, members: Mapping[Any, Any], *, calls: bool = False):
        self.members, self.calls = members, calls

    def __getitem__(self, index: tuple[float, ...]) -> Any:
        key = tuple(int(i) if float(i).is_integer() else float(i) for i in index)
        try:
            return self.members[key[0] if len(key) == 1 else key]
        except KeyError as error:
            raise NoSuchIndex(f"there is nothing of index {', '.join(map(str, key))}") from error


@dataclass(frozen=True)
class Depends:
    """A value that depends on others, by name, such as a density of what is integrated over."""

    of: Callable[[Callable[[str], Any]], Any]


@dataclass(frozen=True)
class Average:
    """What an expectation goes over: a finite list of cases, each with its weight and what its symbols are."""

    cases: tuple[tuple[float, dict[str, Any]], ...]

    @staticmethod
    def over(cases: Iterable[dict[str, Any]]) -> "Average":
        """All alike."""
        cases = tuple(cases)
        return Average(tuple((1 / len(cases), case) for case in cases))


@dataclass(frozen=True)
class Divergence:
    """The sum of the slopes of what follows, each number of it by the same number of this symbol."""

    by: str


@dataclass(frozen=True)
class Law:
    """A normal distribution: mean, number or ``(D, 1)``; covariance, a number or ``(D, D)``."""

    mean: Tensor
    covariance: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.covariance


@dataclass(frozen=True)
class Samples:
    """Draws ``(N,)`` or ``(N, D)`` that the code made, to be held against the law that is printed."""

    draws: Tensor


def value(thing: Any) -> Any:
    """A number, list or tensor as a tensor of the sort above; anything else as it is."""
    if isinstance(thing, bool | int | float | list) or (isinstance(thing, Tensor) and thing.dtype != torch.bool):
        tensor = torch.as_tensor(thing, dtype=F64)
        if tensor.numel() == 1:
            return tensor.reshape(())
        return tensor[:, None] if tensor.ndim == 1 else tensor
    return thing


def number(thing: Any) -> float:
    if not isinstance(thing, Tensor) or thing.ndim:
        raise FormulaError("a number was expected here")
    return float(thing)


def plus(a: Any, b: Any) -> Tensor:
    a, b = _tensor(a), _tensor(b)
    if a.ndim and b.ndim and a.shape != b.shape:
        raise FormulaError(f"{tuple(a.shape)} and {tuple(b.shape)} cannot be added")
    return a + b


def times(a: Any, b: Any) -> Tensor:
    a, b = _tensor(a), _tensor(b)
    if not a.ndim or not b.ndim:
        return a * b
    if a.shape[1] != b.shape[0]:
        raise FormulaError(f"{tuple(a.shape)} and {tuple(b.shape)} cannot be multiplied")
    return value(a @ b)


def dot(a: Any, b: Any) -> Tensor:
    a, b = _tensor(a), _tensor(b)
    return (a * b).sum() if a.ndim and a.shape == b.shape and a.shape[1] == 1 else times(a, b)


def divided(a: Any, b: Any) -> Tensor:
    if _tensor(b).ndim:
        raise FormulaError("only a number may divide")
    return _tensor(a) / b


def power(a: Any, exponent: Any) -> Tensor:
    a, n = _tensor(a), number(exponent)
    if not a.ndim:
        return a**n
    if a.shape[0] != a.shape[1]:
        raise FormulaError("a vector has no power")
    if n == 0.5:
        values, vectors = torch.linalg.eig(a)
        return (vectors @ values.sqrt().diag() @ torch.linalg.inv(vectors)).real
    if not n.is_integer():
        raise FormulaError(f"a matrix to the power {n}")
    return torch.linalg.matrix_power(a, int(n))


def transposed(a: Any) -> Tensor:
    return _tensor(a).mT if a.ndim else a


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values agree."""
    if isinstance(a, Samples) or isinstance(b, Samples):
        return _drawn_from(a, b) if isinstance(a, Samples) else _drawn_from(b, a)
    if isinstance(a, Law) and isinstance(b, Law):
        return all(same(x, y, tolerance) for x, y in zip(a.moments(), b.moments(), strict=True))
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    if a.numel() != b.numel():
        if a.numel() != 1 and b.numel() != 1:
            return False
        a, b = torch.broadcast_tensors(a, b)
    a, b = a.flatten(), b.flatten()
    close = (a - b).abs() <= tolerance * torch.maximum(a.abs(), b.abs()) + 1e-12
    return bool(((a == b) | (close & a.isfinite() & b.isfinite())).all())


def density(x: Any, mean: Any, covariance: Any) -> Tensor:
    """That of a normal distribution at x."""
    offset = plus(x, -_tensor(mean))
    if not offset.ndim:
        return torch.exp(-(offset**2) / (2 * covariance)) / (2 * math.pi * covariance).sqrt()
    full = covariance if covariance.ndim else covariance * torch.eye(len(offset), dtype=F64)
    exponent = -0.5 * number(times(transposed(offset), times(power(full, torch.tensor(-1.0)), offset)))
    return math.exp(exponent) / torch.det(2 * math.pi * full).sqrt()


def kl(p: Any, q: Any) -> Tensor:
    """The divergence of one normal distribution from another, by torch."""
    if not isinstance(p, Law) or not isinstance(q, Law):
        raise FormulaError("a divergence is of two distributions")
    dims = max(law.mean.numel() for law in (p, q))

    def normal(law: Law) -> torch.distributions.MultivariateNormal:
        eye = torch.eye(dims, dtype=F64)
        cov = law.covariance if law.covariance.ndim else law.covariance * eye
        return torch.distributions.MultivariateNormal(law.mean.flatten().expand(dims), cov)

    return torch.distributions.kl_divergence(normal(p), normal(q))


def _tensor(thing: Any) -> Tensor:
    if not isinstance(thing, Tensor):
        raise FormulaError(f"{type(thing).__name__} is not a number")
    return thing


def _drawn_from(samples: Samples, law: Any) -> bool:
    """Whether mean and covariance of the draws are the law's, to 5 standard errors."""
    if not isinstance(law, Law):
        return False
    draws = samples.draws.double().reshape(len(samples.draws), -1)  # (N, D)
    count, dims = draws.shape
    eye = torch.eye(dims, dtype=F64)
    covariance = law.covariance if law.covariance.ndim else law.covariance * eye
    mean = law.mean.flatten().expand(dims)
    variances = covariance.diagonal()
    spread = (covariance.square() + variances[:, None] * variances).sqrt()
    mean_fits = (draws.mean(0) - mean).abs() <= 5 * (variances / count).sqrt()
    return bool(mean_fits.all() and ((draws.T.cov() - covariance).abs() <= 5 * spread / count**0.5).all())
