"""LoRA: a finished network learns something new by a small change of low rank, and its own weights stay."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fromnoise.errors import UserError


class LowRank(nn.Module):
    """A weight with a change of low rank: ``W + alpha / k B A``, of W's shape. Eq. lora.

    B is 0 at first, so that training begins at the network as it is. A weight of a convolution ``(D, C, h, w)`` counts
    as the matrix ``(D, C h w)``.

    Args:
        weight: W, ``(D, ...)``; it is not kept here.
        rank: k, the number of columns of B and of rows of A.
        alpha: how much the change counts; with alpha = rank it counts as it is.
        generator: draws A, whose numbers have the variance 1 / (columns of W).

    Attributes:
        A: ``(k, C h w)``; B: ``(D, k)``.

    Source: Hu et al. 2021 (arXiv 2106.09685), equation 3.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.flatten(1).shape
        drawn = torch.randn((rank, columns), generator=generator) / columns**0.5
        self.A = nn.Parameter(drawn.to(weight))
        self.B = nn.Parameter(torch.zeros((rows, rank), dtype=weight.dtype, device=weight.device))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.B @ self.A).view_as(weight)  # (D, ...)


def add_lora(
    network: nn.Module, rank: int, names: Sequence[str], generator: torch.Generator, *, alpha: float | None = None
) -> list[nn.Parameter]:
    """Freezes a network, and gives the layers of these names a change of low rank. Returns what is to be trained.

    The layers, linear or convolutions, work as before: their ``weight`` is now computed, see `LowRank`.

    Args:
        rank: of each change; alpha: see `LowRank`, by default the rank.
        names: ends of layers' names, such as ``to_q`` or ``conv1``; whole parts of a name.

    Raises:
        UserError: a rank below 1, a network that has such changes already, or a name that no layer has.
    """
    if rank < 1:
        raise UserError(f"a change of rank {rank} is none: give a rank of 1 or more")
    if any(True for _ in _changed(network)):
        raise UserError("this network has such changes already: merge them first")
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    chosen: dict[str, nn.Linear | nn.Conv2d] = {}
    for end in names:
        found = {name: layer for name, layer in layers.items() if f".{name}".endswith(f".{end}")}
        if not found:
            raise UserError(f"no layer is called {end}: give the ends of names such as {', '.join(list(layers)[:3])}")
        chosen |= found
    network.requires_grad_(False)
    for layer in chosen.values():
        change = LowRank(layer.weight, rank, rank if alpha is None else alpha, generator)
        parametrize.register_parametrization(layer, "weight", change)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def merge(network: nn.Module) -> None:
    """Adds each change to its weight for good. The network then computes the same as before, and no more slowly."""
    for layer in [*_changed(network)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _changed(network: nn.Module) -> Iterator[nn.Module]:
    """The layers with a change of low rank."""
    for layer in network.modules():
        changes = getattr(layer, "parametrizations", {})
        if "weight" in changes and isinstance(changes["weight"][0], LowRank):
            yield layer
