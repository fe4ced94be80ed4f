"""The book's exercises: a stub in a chapter, a check here that says right or wrong and why.

A check is a function decorated with ``@exercise``, named like the function that the reader writes. It calls that
function and raises `Wrong` with a hint. The solutions stand in ``solutions/``.
"""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Function = Callable[..., Any]
CHECKS: dict[str, Callable[[Function], None]] = {}


class Wrong(Exception):
    """An answer is not right yet; the message says why."""


def exercise(check: Callable[[Function], None]) -> Callable[[Function], None]:
    """Registers a check under its name, which is that of the function to write."""
    assert check.__name__ not in CHECKS, f"two exercises are called {check.__name__}"
    CHECKS[check.__name__] = check
    return check


def verdict(answer: Function) -> str | None:
    """What is wrong with an answer; none: nothing."""
    try:
        CHECKS[answer.__name__](answer)
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:  # the reader's code may do anything
        return f"{answer.__name__} stopped with {type(error).__name__}: {error}"
    return None


def check(answer: Function) -> None:
    """Prints whether an answer is right, or what is wrong with it."""
    problem = verdict(answer)
    print(f"Right: {answer.__name__} does what it should." if problem is None else f"Not yet: {problem}")


def values(got: Any) -> Tensor | None:
    """An answer as float64 numbers, if it is a tensor, a number or NumPy's kind of either; otherwise None."""
    if isinstance(got, Tensor | int | float):
        return torch.as_tensor(got).detach().double()
    if isinstance(got, np.ndarray | np.generic) and np.issubdtype(got.dtype, np.number):
        return torch.as_tensor(np.asarray(got, dtype=np.float64))
    return None


def expect(got: Any, expected: Tensor | float, hint: str, *, tolerance: float = 1e-4) -> None:
    """Raises `Wrong` with the hint unless ``got`` has the expected shape and values, to ``tolerance`` of their size.

    Where a single number is due, a tensor that holds one number is right in any shape.
    """
    if got is ...:
        raise Wrong("the stub is still empty; replace the ... by your code")
    value, truth = values(got), torch.as_tensor(expected).double()
    if value is None:
        raise Wrong(f"it returned {type(got).__name__}, where a tensor or a number is due")
    if truth.ndim == 0 and value.numel() == 1:
        value = value.reshape(())
    if value.shape != truth.shape:
        raise Wrong(f"it returned the shape {tuple(value.shape)}, where {tuple(truth.shape)} is due")
    if not bool((value - truth).abs().max() <= tolerance * max(1.0, float(truth.abs().max()))):
        raise Wrong(hint)


def same(got: Any, other: Tensor | float) -> bool:
    """Whether an answer is this particular, wrong, one."""
    value, wrong = values(got), torch.as_tensor(other).double()
    if value is None:
        return False
    if wrong.ndim == 0 and value.numel() == 1:
        value = value.reshape(())
    return value.shape == wrong.shape and torch.allclose(value, wrong, rtol=1e-4, atol=1e-7)


def refuse(got: Any, mistakes: Iterable[tuple[Tensor | float, str]]) -> None:
    """Raises `Wrong` with the hint of the first of these usual mistakes that an answer is."""
    for mistake, hint in mistakes:
        if same(got, mistake):
            raise Wrong(hint)


for _path in sorted(Path(__file__).parent.glob("chapter_*.py")):
    importlib.import_module(f"exercises.{_path.stem}")
