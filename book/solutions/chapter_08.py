"""Solutions of chapter 8."""

import math

import torch


def grey_level_bits(log_density, dims):
    # Nats for a picture become bits for a pixel; stretching each pixel by 127.5 makes its density so much lower.
    return -log_density / (dims * math.log(2)) + math.log2(127.5)


def frechet_of_features(mean_1, std_1, mean_2, std_2):
    # With diagonal covariances the matrix root is the product of the standard deviations.
    return ((mean_1 - mean_2).square() + (std_1 - std_2).square()).sum()


def likeness_within(features):
    count, dims = features.shape
    table = (features @ features.T / dims + 1) ** 3
    # A point is not to be compared with itself.
    return (table.sum() - table.diagonal().sum()) / (count * (count - 1))


def covered_share(points, centres, radii):
    # A row for each point, a column for each ball; one ball is enough.
    return (torch.cdist(points, centres) <= radii).any(1).double().mean()
