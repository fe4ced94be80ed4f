"""Models as values: a network, its noise, the space it works in and how it is asked; opened, saved and listed."""

from fromnoise.models.hub import cached_models, open_model, shipped_models
from fromnoise.models.model import Model
from fromnoise.models.saving import save_model

__all__ = ["Model", "cached_models", "open_model", "save_model", "shipped_models"]
