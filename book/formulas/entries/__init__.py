"""What the symbols of each numbered formula stand for, one module for a chapter or two.

A new formula needs one generator here, named like its label. See `formulas.check`.
"""

from formulas.entries import (
    beyond,
    bounds,
    editing,
    forward,
    guidance,
    latents,
    metrics,
    networks,
    posterior,
    sampling,
    score,
    solvers,
    words,
)

__all__ = [
    "beyond",
    "bounds",
    "editing",
    "forward",
    "guidance",
    "latents",
    "metrics",
    "networks",
    "posterior",
    "sampling",
    "score",
    "solvers",
    "words",
]
