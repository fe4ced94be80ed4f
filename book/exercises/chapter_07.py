"""Checks of chapter 7."""

import math

import torch

from exercises import Function, Wrong, exercise, expect, same


@exercise
def euler_step(answer: Function) -> None:
    y, x0_hat = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    r, r_next = 2.0, 0.5
    noise = (y - x0_hat) / r
    got = answer(y, x0_hat, r, r_next)
    wrong = [
        (y + (r - r_next) * noise, "the sign is turned: r_next is below r, and the step goes towards less noise"),
        (y + (r_next - r) * (y - x0_hat), "the direction is the noise (y - x0_hat) / r; you left out the division"),
        (y + (r_next - r) * (x0_hat - y) / r, "the direction is turned: it leads from the guess to y"),
        (x0_hat, "that is where r_next = 0 would lead; the noise that r_next leaves is missing"),
        (y + r_next * noise, "go by how much the noise level falls, r_next - r"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, y + (r_next - r) * noise, "from y go (r_next - r) times the direction (y - x0_hat) / r")
    expect(answer(y, x0_hat, r, 0.0), x0_hat, "right for r_next = 0.5, but at r_next = 0 it must be the guess")


@exercise
def guess_ahead(answer: Function) -> None:
    now, before = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    h_before, h = 0.5, 0.8
    rise = (now - before) / h_before
    got = answer(now, before, h_before, h)
    wrong = [
        (now + h * rise, "that is the end of the coming step; the middle is asked for"),
        (now + h_before / 2 * (now - before) / h, "the two lengths are swapped"),
        (now + (now - before) / 2, "right if both steps were of the same length"),
        (now - h / 2 * rise, "that goes back: the line goes on from before through now"),
        ((now + before) / 2, "that is the middle of the last step"),
        (now, "that leaves the guess as it is, which is DDIM"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, now + h / 2 * rise, "the guess rises by (now - before) / h_before for each unit, and h / 2 lie ahead")


@exercise
def added_std(answer: Function) -> None:
    r, r_raised = 0.7, 1.3
    got = answer(r, r_raised)
    wrong = [
        (r_raised - r, "variances of independent noises add up, not standard deviations"),
        (r_raised**2 - r**2, "that is the variance; the standard deviation is due"),
        (math.sqrt(r_raised**2 + r**2), "the noise that is there counts already: subtract its variance"),
        (r_raised, "the noise that is there counts already: subtract its variance"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, math.sqrt(r_raised**2 - r**2), "r^2 plus the variance that is added must be r_raised^2")
    expect(answer(1.5, 1.5), 0.0, "right for 0.7 and 1.3, but if the level stays as it is nothing is added")
    expect(answer(0.0, 2.0), 2.0, "right for 0.7 and 1.3, but on a clean picture the whole level is added")
