"""Solutions of the exercises in chapter 5."""

import math


def loss_of_zero(schedule, t, mean_square):
    # The error is v itself. In its square the mixed term has mean 0, since the noise has, and is independent of x_0;
    # what is left is a^2 times the noise's variance, 1, and sigma^2 times the pixels' mean square.
    return schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 * mean_square


def one_ancestral_step(x, noise_hat, z, beta, alpha_bar, alpha_bar_before):
    # The posterior's mean written with the noise, and its standard deviation. Where alpha_bar_before is 1, the step to
    # t = 0, the variance is 0 by itself: the last step needs no case of its own.
    mean = (x - beta / (1 - alpha_bar) ** 0.5 * noise_hat) / (1 - beta) ** 0.5
    variance = (1 - alpha_bar_before) / (1 - alpha_bar) * beta
    return mean + variance**0.5 * z


def one_ddim_step(x, x0_hat, z, a_t, a_u, eta):
    # The noise that the guess leaves in x is used again; what comes fresh is taken from its variance, so that the sum
    # is sigma_u^2 for every eta.
    sigma_t, sigma_u = (1 - a_t**2) ** 0.5, (1 - a_u**2) ** 0.5
    noise_hat = (x - a_t * x0_hat) / sigma_t
    std = eta * sigma_u / sigma_t * (1 - a_t**2 / a_u**2) ** 0.5
    return a_u * x0_hat + (sigma_u**2 - std**2) ** 0.5 * noise_hat + std * z


def updates_until_forgotten(decay, left):
    # Each update multiplies the share of the first weights by decay, so after n updates it is decay^n. The logarithm of
    # decay is negative, so decay^n < left means n > log(left) / log(decay): 4603 updates for 0.999 and 0.01.
    return math.floor(math.log(left) / math.log(decay)) + 1
