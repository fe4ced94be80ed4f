"""Checks of chapter 8."""

import math

import torch

from exercises import Function, Wrong, exercise, expect, same


@exercise
def grey_level_bits(answer: Function) -> None:
    log_density, dims = torch.tensor([-300.0, 900.0, 2000.0], dtype=torch.float64), 784
    nats = -log_density / dims
    scale = math.log2(127.5)
    got = answer(log_density, dims)
    wrong = [
        (nats / math.log(2), "a density on [-1, 1] is 127.5 times that on 0 to 255, for each pixel; that is missing"),
        (nats / math.log(2) - scale, "the wider scale has the lower density, and so the more bits: add, not subtract"),
        (nats / math.log(2) + math.log(127.5), "right, but for the unit: 127.5 counts log2(127.5) bits, not nats"),
        (nats + math.log(127.5), "these are nats for each dimension; divide by ln 2"),
        (nats / math.log(2) + scale / dims, "each of the pixels is stretched by 127.5: do not divide that by dims"),
        (nats / math.log(2) + 7, "grey levels are 2/255 apart on [-1, 1], not 2/256"),
        (nats / math.log(2) + 8, "the pixels' range is 2 wide already: stretch it by 255 / 2"),
        (log_density / dims / math.log(2) + scale, "the surprise is minus the logarithm of the density"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, nats / math.log(2) + scale, "bits are -log p / (dims ln 2), plus log2 of how much a pixel is stretched")


@exercise
def frechet_of_features(answer: Function) -> None:
    mean_1, mean_2, a, b = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    std_1, std_2 = a.abs() + 0.3, b.abs() + 0.3
    means, stds = (mean_1 - mean_2).square(), (std_1 - std_2).square()
    got = answer(mean_1, std_1, mean_2, std_2)
    wrong = [
        ((means + stds).sum().sqrt(), "the distance of Eq. fid is a squared one: no root"),
        ((means + stds).mean(), "a trace is a sum over the features, not a mean"),
        (means + stds, "one number is due: sum over the features"),
        (means.sum(), "that only compares the means"),
        (
            (means + (std_1.square() - std_2.square()).square()).sum(),
            "the standard deviations are subtracted and squared, not the variances",
        ),
        (
            (means + std_1 + std_2 - 2 * (std_1 * std_2).sqrt()).sum(),
            "the covariances have the variances on their diagonal, and you put the standard deviations there",
        ),
        (
            (means + std_1.square() + std_2.square() - 2 * std_1.square() * std_2.square()).sum(),
            "the root of the product of the variances is missing",
        ),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, (means + stds).sum(), "it is the sum over the features of (mean_1 - mean_2)^2 + (std_1 - std_2)^2")
    expect(answer(mean_1, std_1, mean_1, std_1), 0.0, "right for different laws, but from a law to itself it must be 0")


@exercise
def likeness_within(answer: Function) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    count, dims = x.shape
    table = (x @ x.T / dims + 1) ** 3
    others = table.sum() - table.diagonal().sum()
    got = answer(x)
    unscaled = (x @ x.T + 1) ** 3
    wrong = [
        (table.mean(), "the points with themselves are counted, too: leave out the diagonal"),
        (others / count**2, "the diagonal is left out of the sum: now there are N (N - 1) pairs, not N^2"),
        (table.sum() / (count * (count - 1)), "it is the sum that must leave out the diagonal, not only the number"),
        ((unscaled.sum() - unscaled.diagonal().sum()) / (count * (count - 1)), "x.y is divided by D in the kernel"),
        (others / (count * (count - 1) / 2), "the sum has each pair twice, so divide by N (N - 1)"),
        (others, "that is the sum; the average is due"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, others / (count * (count - 1)), "average (x.y / D + 1)^3 over all pairs of two different points")


@exercise
def covered_share(answer: Function) -> None:
    generator = torch.Generator().manual_seed(7)
    points = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    centres = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    radii = torch.tensor([0.3, 1.8, 0.6, 1.0, 0.4], dtype=torch.float64)
    inside = torch.cdist(points, centres) <= radii
    share = inside.any(1).double().mean()
    nearest = torch.cdist(points, centres).min(1)
    got = answer(points, centres, radii)
    wrong = [
        (inside.any(0).double().mean(), "that is the share of balls with a point in them: points are asked for"),
        (inside.any(1).double().sum() / len(centres), "divide by the number of points, not by that of the balls"),
        (inside.any(1).double().sum(), "that is how many, and the share is due: divide by the number of points"),
        (inside.double().mean(), "that averages over pairs; a point counts once, in however many balls it lies"),
        (inside.double().sum() / len(points), "a point in two balls counts once: any, not sum"),
        (inside.all(1).double().mean(), "one ball is enough: any, not all"),
        (
            (nearest.values <= radii[nearest.indices]).double().mean(),
            "the nearest centre is not enough: a point may lie outside its ball, and inside the larger one of another",
        ),
        (1 - share, "that is the share outside"),
        (
            (torch.cdist(points, centres, p=math.inf) <= radii).any(1).double().mean(),
            "that asks each coordinate by itself, which makes cubes: take the distance, the root of the sum of squares",
        ),
        (
            (torch.cdist(points, centres, p=1) <= radii).any(1).double().mean(),
            "that sums the differences of the coordinates: take the distance, the root of the sum of squares",
        ),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, share, "count the points that lie in one ball at least, and divide by the number of points")
