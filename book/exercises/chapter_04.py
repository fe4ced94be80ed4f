"""The checks of chapter 4: attention, sinusoids, group normalisation, receptive fields."""

import operator
import random

import torch
import torch.nn.functional as F

from exercises import Function, Wrong, exercise, expect
from fromnoise.nn.attention import attention
from fromnoise.nn.layers import timestep_embedding


def close(got: object, other: torch.Tensor) -> bool:
    """Whether an answer is this (wrong) one."""
    return (
        isinstance(got, torch.Tensor) and got.shape == other.shape and torch.allclose(got.to(other), other, atol=1e-4)
    )


@exercise
def attend(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn((5, 4), generator=generator) for _ in range(3))
    got, scores = answer(query, key, value), query @ key.T
    if close(got, torch.softmax(scores / 2, dim=0) @ value):
        raise Wrong("the softmax runs over the queries; each query's weights, a row of the scores, must sum to 1")
    if close(got, torch.softmax(scores, dim=1) @ value):
        raise Wrong("the scale is missing: divide the scores by sqrt(head_dim)")
    if close(got, torch.softmax(scores / 4, dim=1) @ value):
        raise Wrong("the scores were divided by head_dim; the standard deviation of a dot product is its square root")
    weights = torch.softmax(scores / 2, dim=1)
    if close(got, weights.diagonal()[:, None] * value) or close(got, value):
        raise Wrong("output i depends on value i alone; it must be the sum over all j of weight (i, j) times value j")
    if close(got, weights):
        raise Wrong("these are the weights; multiply them by the values")
    if close(got, weights.T @ value):
        raise Wrong("the weights are transposed: the rows belong to the queries")
    expect(got, attention(query, key, value), "the values are not softmax(Q K^T / sqrt(head_dim)) V")
    query, key, value = (torch.randn(shape, generator=generator) for shape in ((5, 16), (3, 16), (3, 2)))
    hint = "it is right for five queries and five keys, but not for five queries and three keys of 16 numbers"
    expect(answer(query, key, value), attention(query, key, value), hint)


@exercise
def sinusoids(answer: Function) -> None:
    t = torch.tensor([0.0, 1.0, 17.0, 250.0])
    got, dim = answer(t, 8), 8
    i = torch.arange(dim // 2)

    def waves(frequency: torch.Tensor) -> list[torch.Tensor]:
        return [(t[:, None] * frequency).sin(), (t[:, None] * frequency).cos()]

    right = waves(10_000.0 ** (-2 * i / dim))
    if close(got, torch.cat(right[::-1], dim=1)):
        raise Wrong("the cosines come first; here the sines are due first (both orders are in use, so it matters)")
    if close(got, torch.stack(right, dim=-1).flatten(1)):
        raise Wrong("sines and cosines alternate; here all sines are due first, then all cosines")
    if close(got, torch.cat(waves(10_000.0 ** (-i / dim)), dim=1)):
        raise Wrong("the exponent is -2i/d, not -i/d: i runs to d/2 - 1 only, and the frequencies stop at 1/100 or so")
    if close(got, torch.cat(waves(10_000.0 ** (2 * i / dim)), dim=1)):
        raise Wrong("the frequencies rise; the exponent is negative")
    expect(got, timestep_embedding(t, dim), "the frequencies are not 10000^(-2i/d) for i = 0 .. d/2 - 1")
    expect(answer(t, 32), timestep_embedding(t, 32), "it is right for 8 numbers, but not for 32")


@exercise
def normalise_groups(answer: Function) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 4.0, 0.5, 2.0, 3.0, 1.0]).view(6, 1, 1)
    x = (torch.randn((3, 6, 4, 4), generator=generator) + torch.arange(6).view(6, 1, 1)) * scale
    x = x * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    got = answer(x, 2)
    grouped = x.view(3, 2, 3, 4, 4)
    mean = grouped.mean((2, 3, 4), keepdim=True)
    variance = grouped.var((2, 3, 4), correction=0, keepdim=True)
    if close(got, F.group_norm(x, 6)):
        raise Wrong("every channel was normalised alone; average over the three channels of a group together")
    if close(got, F.group_norm(x, 1)):
        raise Wrong("all channels were normalised together; each group has its own mean and variance")
    if close(got, F.group_norm(x, 3)):
        raise Wrong("there are three groups of two channels; the second argument is the number of groups")
    if close(got, F.batch_norm(x, None, None, training=True)) or close(
        got, ((grouped - grouped.mean((0, 2, 3, 4), keepdim=True))
              / (grouped.var((0, 2, 3, 4), correction=0, keepdim=True) + 1e-5).sqrt()).view_as(x)
    ):  # fmt: skip
        raise Wrong("the average runs over the batch as well; each image must be normalised by itself")
    if close(got, ((grouped - mean) / (variance + 1e-5)).view_as(x)):
        raise Wrong("it divides by the variance; divide by its square root")
    if close(got, ((grouped - mean) / (grouped.var((2, 3, 4), keepdim=True) + 1e-5).sqrt()).view_as(x)):
        raise Wrong("the variance was divided by n - 1; here it is the plain average of the squares (correction=0)")
    expect(got, F.group_norm(x, 2), "a group's mean should be 0 and its variance 1, over its channels and all pixels")
    faint = 0.003 * (grouped - mean)[:, :1].flatten(1, 2)  # variances about as small as 1e-5, where it counts
    got, variance = answer(faint, 1), faint.square().mean((1, 2, 3), keepdim=True)
    if close(got, faint / variance.sqrt()):
        raise Wrong("where the variance is tiny it differs: the 1e-5 is missing under the root")
    if close(got, faint / (variance.sqrt() + 1e-5)):
        raise Wrong("the 1e-5 was added to the standard deviation; it belongs to the variance, under the root")
    expect(got, F.group_norm(faint, 1), "where the variance is tiny it differs: add 1e-5 to it, under the root")
    expect(answer(torch.ones((2, 4, 2, 2)), 2), torch.zeros((2, 4, 2, 2)), "a constant group must become 0")


@exercise
def receptive_field(answer: Function) -> None:
    got = width(answer([3, 3, 3], [1, 1, 1]))
    if got in (3, 9, 27):
        raise Wrong(f"three 3x3 convolutions see 7 pixels, not {got}: each adds its kernel size less one")
    expect(got, 7, f"three 3x3 convolutions of stride 1 see 7 pixels, not {got}")
    got = width(answer([3, 3, 3], [1, 2, 1]))
    if got == 7:
        raise Wrong("after a stride of 2, a neighbour is two input pixels away: a later kernel adds twice as much")
    if got == 11:
        raise Wrong(
            "the strided layer itself still reads neighbours at the old distance; only later layers stride wider"
        )
    expect(got, 9, f"kernels 3, 3, 3 with strides 1, 2, 1 see 9 pixels, not {got}")
    got = width(answer([3, 3, 5, 3], [2, 2, 1, 1]))
    if got == 3 + 2 * 2 + 4 * 2 + 2 * 2:
        raise Wrong("the strides multiply: after two layers of stride 2, neighbours are four input pixels apart")
    expect(got, 31, f"kernels 3, 3, 5, 3 with strides 2, 2, 1, 1 see 31 pixels, not {got}")
    generator = random.Random(0)
    for layers in (0, 1, 2, 4, 7):  # counted out, so that no list of known answers will do
        kernels = [generator.choice([1, 2, 3, 5]) for _ in range(layers)]
        strides = [generator.choice([1, 2, 3]) for _ in range(layers)]
        seen = counted(kernels, strides)
        got = width(answer(list(kernels), list(strides)))
        expect(got, seen, f"kernels {kernels} with strides {strides} see {seen} pixels, not {got}")


def width(got: object) -> object:
    """A whole number of any library as an int; all else as it is."""
    return operator.index(got) if hasattr(got, "__index__") else got


def counted(kernels: list[int], strides: list[int]) -> int:
    """The input pixels that one output pixel depends on, found by walking back through the layers."""
    first, last = 0, 0
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        first, last = first * stride, last * stride + kernel - 1
    return last - first + 1
