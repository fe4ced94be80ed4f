"""Checks of chapter 6."""

import math

import torch

from exercises import Function, Wrong, exercise, expect, same


@exercise
def guided_guess(answer: Function) -> None:
    u, c = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    s = 2.5
    got = answer(u, c, s)
    wrong = [
        ((1 + s) * c - s * u, "that takes the scale for w; here the scale is s = 1 + w, so w is s - 1"),
        (c + s * (c - u), "that takes the scale for w; begin at the unconditional guess, or use w = s - 1"),
        (c + s * (u - c), "the two guesses are swapped: it goes from the conditional one to the unconditional one"),
        (u + s * (u - c), "the sign is turned: this goes away from the condition"),
        (c - s * (c - u), "the sign is turned: this goes away from the condition"),
        (u + s * c, "the difference of the two guesses is to be scaled, not the conditional guess"),
        (s * (c - u), "the difference is right; add it to the unconditional guess"),
        (s * c, "the unconditional guess is missing"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, u + s * (c - u), "begin at the unconditional guess and go s times the way to the conditional one")
    expect(answer(u, c, 0.0), u, "right for s = 2.5, but at s = 0 it must be the unconditional guess")
    expect(answer(u, c, 1.0), c, "right for s = 2.5, but at s = 1 it must be the conditional guess")


@exercise
def guided_std(answer: Function) -> None:
    d_c, d, s = 0.6, 0.9, 3.0
    truth = d_c * (d_c / d) ** (s - 1)
    got = answer(d_c, d, s)
    wrong = [
        ((s / d_c**2 - (s - 1) / d**2) ** -0.5, "that is the tilted density's, which guidance does not draw from"),
        (
            (s / d_c**2 - (s - 1) / d**2) ** -1,
            "that is the variance of the tilted density, which guidance does not draw",
        ),
        (d_c * (d_c / d) ** s, "that takes the scale for w; the scale is s = 1 + w"),
        (truth**2, "that is the variance; the standard deviation is due"),
        (truth**0.5, "you took a root too many: d_c and d are standard deviations already"),
        (d * (d / d_c) ** (s - 1), "the two are swapped: at s = 1 it must be the class's own"),
        (d_c * (d / d_c) ** (s - 1), "the fraction is upside down: guidance makes it narrower"),
        (d + s * (d_c - d), "the guesses are extrapolated along a line, but the standard deviations are not"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "Eq. cfg-gauss at r = 0 is d_c^(1 + w) d^(-w), and w = s - 1")
    expect(answer(d_c, d, 1.0), d_c, "right for s = 3, but at s = 1 it must be the class's own")
    expect(answer(d_c, d, 0.0), d, "right for s = 3, but at s = 0 the label is ignored: it must be that of all data")
    expect(answer(0.2, 1.5, 1.7), 1.5 * (0.2 / 1.5) ** 1.7, "right for some numbers, but not for d_c = 0.2, d = 1.5")


@exercise
def drop_labels(answer: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (4000,), generator=generator)
    draws, probability = torch.rand(4000, generator=generator), 0.2
    before = labels.clone()
    got = answer(labels, draws, probability, 10)
    low, high = draws < probability, draws > 1 - probability  # either end of the draws has the probability
    dropped = high if same(got, torch.where(high, 10, labels)) else low
    if not torch.equal(labels, before):
        raise Wrong("it changed the labels that it was given; they are the data set's, so make new ones (torch.where)")
    if torch.is_tensor(got) and got.dtype == torch.bool and got.shape == labels.shape:
        raise Wrong("that says which labels to drop; return the labels themselves, with those replaced")
    wrong = [
        (torch.where(dropped, labels, 10), "it is the probability of NO label; you keep a label with that probability"),
        (torch.where(dropped, 0, labels), "0 is a class of its own; the null class has the number num_classes"),
        (torch.where(dropped, 9, labels), "num_classes - 1 is the last class; the null class is the row after it"),
        (torch.where(dropped, 11, labels), "one too far: num_classes rows have the numbers 0 to num_classes - 1"),
        (torch.where(dropped, -1, labels), "-1 is no row of the table; the null class has the number num_classes"),
        (labels[~dropped], "pictures must not get lost: the labels are replaced, not removed"),
        (labels[~high], "pictures must not get lost: the labels are replaced, not removed"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    if torch.is_tensor(got) and got.shape == labels.shape and torch.equal(got, labels):
        raise Wrong("no label was replaced")
    if torch.is_tensor(got) and got.shape == labels.shape:
        share = (got == 10).double().mean().item()
        if abs(share - probability) > 0.05:
            raise Wrong(f"{share:.0%} of the labels became the null class, where {probability:.0%} should")
    expect(
        got, torch.where(dropped, 10, labels), "use the draws: where one is below the probability, replace the label"
    )
    if torch.is_tensor(got) and got.is_floating_point():
        raise Wrong("labels are rows of a table, so they must stay whole numbers")
    expect(answer(labels[:5], draws[:5], 0.0, 10), labels[:5], "with the probability 0 no label may be replaced")
    expect(answer(labels[:5], draws[:5], 1.0, 3), 0 * labels[:5] + 3, "the null class is num_classes, not always 10")


@exercise
def cancelling_scale(answer: Function) -> None:
    for good, worse, true in ((0.6, 0.8, 0.5), (1.2, 2.0, 1.0), (0.9, 0.8, 1.1)):
        case = f"for {good}, {worse} and {true}: "
        truth = math.log(true / worse) / math.log(good / worse)
        got = answer(good, worse, true)
        wrong = [
            (truth - 1, "that is w; the scale is s = 1 + w"),
            ((true - worse) / (good - worse), "standard deviations are not extrapolated along a line; take logarithms"),
            (
                (true**2 - worse**2) / (good**2 - worse**2),
                "variances are not extrapolated along a line; take logarithms",
            ),
            (
                math.log(true / good) / math.log(worse / good),
                "the two networks are swapped: s = 0 is the worse one alone",
            ),
            (
                good**1.5 * worse**-0.5,
                "that is the spread at s = 1.5; asked for is the scale at which the spread is true",
            ),
            (1.0, "at s = 1 it is the good network alone, which errs"),
        ]
        for value, hint in wrong:
            if same(got, value):
                raise Wrong(case + hint)
        expect(got, truth, case + "solve good^s worse^(1 - s) = true for s; the logarithm makes it linear in s")
