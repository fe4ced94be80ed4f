"""Everything random in training, as a function of the seed and the step alone.

Nothing is carried from one step to the next, so a resumed run draws what the uninterrupted one would have; and each
process of several draws the whole batch's and takes its share, so that no draw depends on who makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fromnoise.diffusion.losses import logit_normal_time


@dataclass(frozen=True)
class Draws:
    """What one step needs beyond the images, for the whole batch of B."""

    t: Tensor  # (B,) whole times in 1..T, float32
    noise: Tensor  # (B, C, H, W) standard normal
    drop: Tensor  # (B,) uniform in [0, 1): the label is dropped where this is below the dropout probability
    flip: Tensor  # (B,) bool, one half each


def generator_for(seed: int, *position: int) -> torch.Generator:
    """A CPU generator that depends on all the numbers, and is unrelated for different ones."""
    word = np.random.SeedSequence([len(position), seed, *position]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def step_draws(
    seed: int, step: int, shape: tuple[int, int, int, int], num_timesteps: int, timestep_sampling: str = "uniform"
) -> Draws:
    """The draws of a step, for a batch of images of ``shape`` ``(B, C, H, W)``.

    The times are spread evenly over 1..T from one random start, which halves the scatter of the loss. With
    ``uniform-and-logit-normal`` every other one is drawn from the law of `logit_normal_time` instead.
    Source: Kingma et al. 2021 (arXiv 2107.00630), appendix I.1.
    """
    generator = generator_for(seed, 1, step)
    batch = shape[0]
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    spread = (start + torch.arange(batch, dtype=torch.float64) / batch) % 1
    if timestep_sampling == "uniform-and-logit-normal":
        spread[1::2] = logit_normal_time(spread[1::2])
    t = (spread * num_timesteps).floor().clamp(max=num_timesteps - 1) + 1
    return Draws(
        t=t.float(),
        noise=torch.randn(shape, generator=generator),
        drop=torch.rand(batch, generator=generator),
        flip=torch.rand(batch, generator=generator) < 0.5,
    )


def batch_indices(seed: int, step: int, batch: int, count: int | None, shards: Sequence[int] = ()) -> Tensor:
    """Which of ``count`` images make up step number ``step`` (from 0): ``(batch,)``; of endless ones, the next few.

    The images are gone through in a new order each epoch, as `shuffled` has them; an epoch's last images and the next
    one's first may share a batch.
    """
    position = step * batch + torch.arange(batch)
    if count is None:
        return position
    epochs = position // count
    orders = ((_epoch_order(seed, int(epoch), count, tuple(shards)), epochs == epoch) for epoch in epochs.unique())
    return torch.cat([order[position[within] % count] for order, within in orders])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int, shards: tuple[int, ...]) -> Tensor:
    return shuffled(count, shards, generator_for(seed, 0, epoch))


def shuffled(count: int, shards: Sequence[int], generator: torch.Generator) -> Tensor:
    """The numbers 0 to ``count - 1``, ``(count,)``, one shard after the other: both they and what is in each shuffled.

    Args:
        shards: how many numbers each shard has, ``count`` together; none: all are one.
    """
    parts = torch.arange(count).split([*shards] or count)
    order = torch.randperm(len(parts), generator=generator).tolist()
    return torch.cat([parts[shard][torch.randperm(len(parts[shard]), generator=generator)] for shard in order])
