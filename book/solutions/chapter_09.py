"""Solutions of chapter 9."""

import torch


def best_width(slope, weight):
    # The derivative with respect to d^2 is g^2 + w/2 - w/(2 d^2); it vanishes at d^2 = w / (2 g^2 + w).
    return (weight / (2 * slope**2 + weight)) ** 0.5


def sharpest_guess(values, probabilities):
    # The median: the first value at which the probability of all that are not larger reaches one half.
    ordered, order = values.sort()
    reached = torch.cumsum(probabilities[order], dim=0) >= 0.5
    return ordered[int(reached.int().argmax())]


def unscaled_snr(alpha_bar, std):
    # z_t = a_t z + sigma_t epsilon: the variances of the two parts are alpha_bar std^2 and 1 - alpha_bar.
    return std**2 * alpha_bar / (1 - alpha_bar)
