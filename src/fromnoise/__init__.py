"""fromnoise: diffusion models from the mathematics to the running model."""

__version__ = "0.1.0"
