"""The solutions of chapter 4."""

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # A dot product of head_dim terms has variance head_dim, so its root brings the scores back to order one.
    # Row i of the weights belongs to query i: it sums to 1 over the keys, the last axis.
    scores = query @ key.T / query.shape[-1] ** 0.5
    weights = torch.softmax(scores, dim=-1)
    return weights @ value


def sinusoids(t: Tensor, dim: int) -> Tensor:
    # Each frequency gives a sine and a cosine, so dim/2 frequencies fill dim numbers.
    frequency = 10_000.0 ** (-2 * torch.arange(dim // 2) / dim)
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def normalise_groups(x: Tensor, groups: int) -> Tensor:
    # One mean and one variance for each image and group: flatten what they are taken over into the last axis.
    # The small number under the root keeps a constant group from a division by zero.
    flat = x.reshape(len(x), groups, -1)
    centred = flat - flat.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).view_as(x)


def receptive_field(kernels: list[int], strides: list[int]) -> int:
    # A kernel adds (size - 1) neighbours, each as many input pixels away as the strides before it multiply to.
    # The layer's own stride counts only from the next layer on.
    field, distance = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * distance
        distance *= stride
    return field
