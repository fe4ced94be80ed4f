"""Solutions of chapter 1."""

import math

import torch


def variance_after_two_steps(beta_1, beta_2):
    # The second step multiplies x_1 by sqrt(1 - beta_2), so the first noise's variance by 1 - beta_2.
    # Then the variances add.
    return (1 - beta_2) * beta_1 + beta_2


def add_noise(betas, x0, t, noise):
    # A 1 in front makes entry t belong to time t, so that t = 0 keeps the picture.
    # The products are taken in float64 and rounded at the end.
    alpha_bar = torch.cat([torch.ones(1), torch.cumprod(1 - betas.double(), dim=0)])
    kept = alpha_bar[t].reshape(-1, 1, 1, 1)
    return kept.sqrt().to(x0) * x0 + (1 - kept).sqrt().to(x0) * noise


def time_of_equal_parts(betas):
    # SNR <= 1 means a^2 <= sigma^2 = 1 - a^2, so alpha-bar <= 1/2. Entry 0 of the products belongs to t = 1.
    alpha_bar = torch.cumprod(1 - betas.double(), dim=0)
    return int((alpha_bar <= 0.5).nonzero()[0]) + 1


def steps_until(beta, left):
    # After n steps a = (1 - beta)^(n / 2), which is at most left when n ln(1 - beta) / 2 <= ln(left). Both logarithms
    # are negative, and dividing by a negative number turns the sign round: n >= 2 ln(left) / ln(1 - beta).
    return math.ceil(2 * math.log(left) / math.log(1 - beta))
