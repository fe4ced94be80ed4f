"""The optimiser: AdamW for all weights, or Muon for the matrices within the network and AdamW for the rest."""

import math

import torch
from torch import Tensor, nn

from fromnoise.train.config import LoopConfig

WITHIN = ("down_blocks", "mid_block", "up_blocks", "layers")
"""what the parts in the middle of a network are called: those of U-Nets and autoencoders, and of transformers"""
MOMENTUM = 0.95


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """The learning rate of step number ``step`` (from 0): a linear rise, then half a cosine down."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64)).item())
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


def as_matrix(weight: Tensor) -> Tensor:
    """What a weight multiplies by: ``(out, in)`` as it is, ``(out, in, H, W)`` as ``(out, H * W * in)``.

    Of a channels-last convolution it is the same memory.
    """
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with nearly the same singular vectors whose singular values are all near 1, computed in ``dtype``.

    Each of five steps maps every singular value s to ``a s + b s^3 + c s^5``, with coefficients that bring even small
    ones up fast; they end between 0.7 and 1.2.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype).T if tall else matrix.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Optimizer:
    """Moves a network's weights along their gradients, and forgets the gradients.

    Muon moves a matrix along its orthogonalised momentum: equally far in all directions, where AdamW mostly follows the
    few that the gradients agree on. Its steps are scaled so that an entry moves about as far as by AdamW (0.2 of the
    learning rate), and one learning rate serves both. AdamW moves all that is not a matrix (biases, normalisations),
    and the layers next to the image, the time and the class.

    This is ``torch.optim.Muon``, which however computes in bf16 even where that takes longer than the rest of a step.

    Args:
        network: for Muon with channels-last convolutions.
        dtype: the precision in which Muon orthogonalises, that of the run.

    Raises:
        ValueError: a convolution is not channels-last.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale from Liu et al. 2025
    (arXiv 2502.16982), section 2.2.
    """

    def __init__(self, network: nn.Module, config: LoopConfig, dtype: torch.dtype = torch.float32):
        self.parameters, self.weight_decay, self.dtype = dict(network.named_parameters()), config.weight_decay, dtype
        self.matrices = {
            name: as_matrix(parameter.detach())
            for name, parameter in self.parameters.items()
            if config.optimizer == "muon" and parameter.ndim >= 2 and not set(WITHIN).isdisjoint(name.split("."))
        }
        for name, matrix in self.matrices.items():
            if matrix.data_ptr() != self.parameters[name].data_ptr():
                raise ValueError(f"{name} is not channels-last: Muon would move a copy")
        self.momenta = {name: torch.zeros_like(matrix) for name, matrix in self.matrices.items()}
        self.others = {name: value for name, value in self.parameters.items() if name not in self.matrices}
        self.adamw = torch.optim.AdamW(self.others.values(), weight_decay=config.weight_decay, fused=True)
        for weight in self.others.values():  # as AdamW would at its first step
            moments = {key: torch.zeros_like(weight, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            self.adamw.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One step along the gradients that the network's weights have."""
        self.adamw.param_groups[0]["lr"] = learning_rate
        self.adamw.step()
        for name, matrix in self.matrices.items():
            if (gradient := self.parameters[name].grad) is not None:
                momentum = self.momenta[name].lerp_(as_matrix(gradient), 1 - MOMENTUM)
                ahead = as_matrix(gradient).lerp(momentum, MOMENTUM)  # Nesterov's
                matrix.mul_(1 - learning_rate * self.weight_decay)
                rate = 0.2 * math.sqrt(max(matrix.shape)) * learning_rate
                matrix.add_(orthogonalized(ahead, self.dtype), alpha=-rate)
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What it remembers of the steps so far, as ``{"key.weight": tensor}``; whoever changes it changes that."""
        kept = {name: self.adamw.state[weight] for name, weight in self.others.items()}
        moments = {f"{key}.{name}": value for name, state in kept.items() for key, value in state.items()}
        return moments | {f"momentum_buffer.{name}": momentum for name, momentum in self.momenta.items()}

    def never_had_gradient(self) -> list[str]:
        """The names of the weights whose gradient has been 0 in every step."""
        moments = {name: self.adamw.state[weight]["exp_avg"] for name, weight in self.others.items()}
        return [name for name, moment in (moments | self.momenta).items() if not moment.any()]
