"""The space in which a model's noise is added and removed."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Space(Protocol):
    """How images become what the network sees, and back."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""

    @property
    def limit(self) -> float | None:
        """Predictions lie in [-limit, limit] and may be clipped to it; none: they have no such range."""

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as what the network sees, both ``(B, C, H, W)``."""

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`, as far as there is one."""


@dataclass(frozen=True)
class Pixels:
    """The network sees the image itself."""

    shape: tuple[int, int, int]
    limit: float | None = 1.0

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x
