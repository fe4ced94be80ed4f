"""Random numbers for the entries: the same ones each time, others for each label."""

import zlib

import torch
from torch import Tensor

F64 = torch.float64


class Draws:
    """Float64 numbers of a generator that is seeded by a label."""

    def __init__(self, label: str):
        self.generator = torch.Generator().manual_seed(zlib.crc32(label.encode()))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=F64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Between two bounds, a number if no shape is given."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=F64)

    def covariance(self, dims: int) -> Tensor:
        """A random positive definite matrix ``(D, D)``."""
        root = self.normal(dims, dims)
        return root @ root.T + 0.3 * torch.eye(dims, dtype=F64)
