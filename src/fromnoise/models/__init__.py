"""Models as values: a network, its noise, the space it works in and how it is asked; opened, saved and listed.

A name is imported when it is first asked for, so that listing models does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromnoise.models.hub import open_model
    from fromnoise.models.model import Model
    from fromnoise.models.saving import save_model
    from fromnoise.models.shipped import cached_models, shipped_models

__all__ = ["Model", "cached_models", "open_model", "save_model", "shipped_models"]
HOMES = {
    "Model": "model",
    "cached_models": "shipped",
    "open_model": "hub",
    "save_model": "saving",
    "shipped_models": "shipped",
}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
