"""The optimiser: AdamW for all weights, or Muon for the matrices within the network and AdamW for the rest."""

from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.train.config import LoopConfig

WITHIN = ("down_blocks.", "mid_block.", "up_blocks.")


def as_matrix(weight: Tensor) -> Tensor:
    """What a weight multiplies by: ``(out, in)`` as it is, ``(out, in, H, W)`` as ``(out, H * W * in)``.

    Of a channels-last convolution it is the same memory.
    """
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


class Optimizer:
    """Moves a network's weights along their gradients, and forgets the gradients.

    Muon moves a matrix equally far in all of its directions, where AdamW mostly follows the few that its gradients
    agree on. Its steps are scaled so that an entry moves about as far as by AdamW (0.2 of the learning rate), and one
    learning rate serves both. AdamW keeps what is no matrix (biases, normalisations), and the layers next to the image,
    the time and the class.

    Args:
        network: for Muon with channels-last convolutions.

    Raises:
        ValueError: they are not.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale from Liu et al. 2025
    (arXiv 2502.16982), section 2.2. Both optimisers are torch's.
    """

    def __init__(self, network: nn.Module, config: LoopConfig):
        self.parameters = dict(network.named_parameters())
        muon = config.optimizer == "muon"
        self.matrices = {
            name: nn.Parameter(as_matrix(parameter.detach()))
            for name, parameter in self.parameters.items()
            if muon and parameter.ndim >= 2 and name.startswith(WITHIN)
        }
        for name, matrix in self.matrices.items():
            if matrix.data_ptr() != self.parameters[name].data_ptr():
                raise ValueError(f"{name} is not channels-last: Muon would move a copy")
        settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        others = {name: parameter for name, parameter in self.parameters.items() if name not in self.matrices}
        adamw = torch.optim.AdamW(others.values(), **settings, fused=True)
        self.moved_by: dict[torch.optim.Optimizer, dict[str, nn.Parameter]] = {adamw: others}
        if self.matrices:
            orthogonal = torch.optim.Muon(self.matrices.values(), **settings, adjust_lr_fn="match_rms_adamw")
            self.moved_by[orthogonal] = self.matrices

    def step(self, learning_rate: float) -> None:
        """One step along the gradients that the network's weights have."""
        for name, matrix in self.matrices.items():
            gradient = self.parameters[name].grad
            matrix.grad = None if gradient is None else as_matrix(gradient)
            self.parameters[name].grad = None
        for optimizer in self.moved_by:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """What it remembers of the steps so far, as ``{"key.weight": tensor}``."""
        return {
            f"{key}.{name}": value
            for optimizer, weights in self.moved_by.items()
            for name, weight in weights.items()
            for key, value in optimizer.state[weight].items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Goes back to where `state` was taken."""
        kept: dict[str, dict[str, Tensor]] = {}
        for label, value in tensors.items():
            key, name = label.split(".", 1)
            kept.setdefault(name, {})[key] = value
        for optimizer, weights in self.moved_by.items():
            for name, weight in weights.items():
                optimizer.state[weight] = {
                    key: value.to(weight.device) if key == "step" else torch.empty_like(weight).copy_(value)
                    for key, value in kept[name].items()
                }

    def idle(self) -> list[str]:
        """The weights that have never had a gradient other than 0."""
        return [
            name
            for optimizer, weights in self.moved_by.items()
            for name, weight in weights.items()
            if not any(bool(value.any()) for key, value in optimizer.state[weight].items() if key != "step")
        ]
