"""Checks of chapter 12."""

import torch

from exercises import Function, exercise, expect, refuse


@exercise
def straight_velocity(answer: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    noise, t = torch.randn(5, generator=generator), torch.tensor([0.1, 0.4, 0.5, 0.8, 1.0])
    mean, std = 0.7, 0.25
    end = mean + std * noise
    x = (1 - t) * end + t * noise
    got = answer(x, t, mean, std)
    variance = (1 - t) ** 2 * std**2 + t**2
    shrunk = (x - (1 - t) * mean) / variance  # minus the score
    mistakes = [
        (end - noise, "the sign is turned: the velocity is the noise minus the picture"),
        (noise, "that is the noise; subtract the picture to which it leads"),
        (end, "that is the picture; the velocity is the noise minus the picture"),
        (t * shrunk - mean - (1 - t) * std**2 * shrunk, "that is the flow before reflow, the mean of crossing lines"),
        (x - mean - std * x, "this takes x for the noise; only at t = 1 it is"),
    ]
    refuse(got, mistakes)
    expect(got, noise - end, "solve x = (1 - t) (mean + std eps) + t eps for eps; then take eps - (mean + std eps)")
    expect(answer(noise[:1], torch.ones(1), 0.0, 1.0), torch.zeros(1), "for N(0, 1) nothing has to move")


@exercise
def apply_lora(answer: Function) -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(7, 6, generator=generator), torch.randn(5, 6, generator=generator)
    low, up, alpha = torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator), 3.0
    before, change = x @ weight.T, (x @ low.T) @ up.T
    got = answer(x, weight, low, up, alpha)
    mistakes = [
        (before, "that is the layer without its change"),
        (before + change, "the factor alpha / k is missing; k is the number of rows of A"),
        (before + alpha * change, "alpha is divided by the rank k, the number of rows of A"),
        (before + alpha / 5 * change, "the rank is the number of rows of A, not of B"),
        (alpha / 2 * change, "that is the change alone; add what the layer gives without it"),
        (alpha / 2 * (before + change), "the factor belongs to the change alone"),
    ]
    refuse(got, mistakes)
    expect(got, before + alpha / 2 * change, "x @ W.T, plus alpha / k times (x @ A.T) @ B.T")
    expect(answer(x[:1], weight, low, 0 * up, alpha), before[:1], "with B = 0 it must be the layer as it was")


@exercise
def largest_rank(answer: Function) -> None:
    hints = "k (rows + columns) numbers must be fewer than rows * columns"
    refuse(answer(10, 10), [(5, "at rank 5 the change has 100 numbers, as many as the weight: not fewer"), (10, hints)])
    refuse(
        answer(320, 2880), [(288, "at rank 288 it has exactly as many numbers as the weight: not fewer"), (320, hints)]
    )
    for rows, columns in ((10, 10), (320, 2880), (48, 432), (7, 5), (2, 3)):
        right = max(k for k in range(rows) if k * (rows + columns) < rows * columns)
        expect(answer(rows, columns), right, f"{hints}; for {rows} rows and {columns} columns the answer is {right}")
