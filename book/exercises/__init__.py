"""The book's exercises: a stub in a chapter, a check here that says right or wrong and why.

A check is a function decorated with ``@exercise``, named like the function that the reader writes. It calls that
function and raises `Wrong` with a hint. The solutions stand in ``solutions/``.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def expect(got: Any, expected: Tensor | float, hint: str, *, tolerance: float = 1e-4) -> None:
    """Raises `Wrong` with the hint unless ``got`` has the expected shape and values, to ``tolerance`` of their size."""
    if got is ...:
        raise Wrong("the stub is still empty; replace the ... by your code")
    if not isinstance(got, Tensor | int | float):
        raise Wrong(f"it returned {type(got).__name__}, where a tensor or a number is due")
    value, truth = torch.as_tensor(got).double(), torch.as_tensor(expected).double()
    if value.shape != truth.shape:
        raise Wrong(f"it returned the shape {tuple(value.shape)}, where {tuple(truth.shape)} is due")
    if not bool((value - truth).abs().max() <= tolerance * max(1.0, float(truth.abs().max()))):
        raise Wrong(hint)


def same(got: object, other: Tensor | float) -> bool:
    """Whether an answer is this particular, wrong, one."""
    if not isinstance(got, Tensor | int | float):
        return False
    value, other = torch.as_tensor(got).double(), torch.as_tensor(other).double()
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-4, atol=1e-7)


for _path in sorted(Path(__file__).parent.glob("chapter_*.py")):
    importlib.import_module(f"exercises.{_path.stem}")
