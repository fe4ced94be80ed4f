"""Checks of chapter 9."""

import math

import torch

from exercises import Function, Wrong, exercise, expect, same


@exercise
def best_width(answer: Function) -> None:
    g, w = 1.5, 0.8
    truth = math.sqrt(w / (2 * g**2 + w))
    got = answer(g, w)
    wrong = [
        (truth**2, "that is the variance d^2; the standard deviation is due"),
        (math.sqrt(w / (g**2 + w)), "the divergence has the factor 1/2: set g^2 + w/2 - w/(2 d^2) to zero"),
        (math.sqrt(w / (2 * g**2)), "you left out the term w/2 d^2, which also pulls the width towards 1"),
        (1.0, "1 is best for the divergence alone; the error of the picture wants it smaller"),
        (math.sqrt(w / (2 * g + w)), "the slope counts squared"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "differentiate with respect to d^2: g^2 + w/2 - w/(2 d^2) = 0")
    expect(answer(0.0, 0.3), 1.0, "right for one case, but where the decoder ignores the latent, d must be 1")
    expect(answer(4.0, 0.01), math.sqrt(0.01 / 32.01), "right for one case, but not for a steep decoder")


@exercise
def sharpest_guess(answer: Function) -> None:
    values = torch.tensor([-0.4, 0.1, -1.0, 0.9, 0.5])
    probabilities = torch.tensor([0.06, 0.05, 0.35, 0.2, 0.34])
    got = answer(values.clone(), probabilities.clone())
    wrong = [
        ((values * probabilities).sum(), "that is the mean, which is best for the squared error"),
        (values[probabilities.argmax()], "that is the most likely value; the median need not be"),
        (values.median(), "that is the median of the list; each value counts with its probability"),
        (torch.tensor(0.9), "you went through the values in the order in which they are given: sort them first"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, torch.tensor(0.5), "sort the values, add up their probabilities, and stop where half is reached")
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        values = torch.randn(7, generator=generator)
        probabilities = torch.softmax(torch.randn(7, generator=generator), dim=0)
        costs = ((values[:, None] - values).abs() * probabilities).sum(1)  # (7,)
        best = values[costs.argmin()]
        expect(answer(values.clone(), probabilities.clone()), best, "right for one case, but not for others")


@exercise
def unscaled_snr(answer: Function) -> None:
    alpha_bar, std = torch.tensor([0.99, 0.5, 0.01]), 5.5
    truth = std**2 * alpha_bar / (1 - alpha_bar)
    got = answer(alpha_bar.clone(), std)
    wrong = [
        (std * alpha_bar / (1 - alpha_bar), "the ratio is one of variances: the standard deviation counts squared"),
        (alpha_bar / (1 - alpha_bar), "that is the ratio for latents of variance 1"),
        (alpha_bar / (1 - alpha_bar) / std**2, "larger latents drown less: it grows with their variance"),
        (std**2 * alpha_bar.sqrt() / (1 - alpha_bar).sqrt(), "a_t and sigma_t are roots; their squares are due"),
        (truth.sqrt(), "that is the ratio of standard deviations"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "the latent's part of z_t is a_t z, the noise's is sigma_t epsilon: divide their variances")
    expect(answer(torch.tensor(0.2), 1.0), torch.tensor(0.25), "right for one case, but not for latents of variance 1")
