"""The exponential moving average of a network's weights: what is evaluated, sampled from and shipped."""

from collections.abc import Iterable

import torch
from torch import Tensor


class EMA:
    """A running average ``shadow = decay * shadow + (1 - decay) * parameter`` after each step. Eq. ema.

    Early on the decay is ``(1 + n) / (10 + n)`` at update n, if that is less, so that the random start is forgotten.

    Args:
        parameters: copied, never changed.
        decay: in [0, 1): about ``1 / (1 - decay)`` steps are averaged.

    Attributes:
        shadow: the averages, in the order and dtype of ``parameters``: float32, or small updates are lost.
        updates: how many there have been.

    Source: Ho et al. 2020 (arXiv 2006.11239), section 4 (decay 0.9999).
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float):
        self.decay = decay
        self.updates = 0
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor]) -> None:
        """Takes in the parameters after one more step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in parameters], 1 - decay)


def power_decay(step: int, gamma: float) -> float:
    """The decay at step n = 1, 2, ... of an average whose width grows with the run: ``(1 - 1/n)^(gamma + 1)``.

    Eq. power-ema. A past step's weights then count like a power of how far the run had come, ``(step / n)^gamma``, for
    a run of any length. Gamma 6.94 makes the standard deviation of the averaged steps a tenth of the run. The first
    decay is 0: the random start is not averaged.

    Source: Karras et al. 2024 (arXiv 2312.02696), section 3.1.
    """
    return (1 - 1 / step) ** (gamma + 1)
