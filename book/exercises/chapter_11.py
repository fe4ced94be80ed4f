"""Checks of chapter 11."""

import torch

from exercises import Function, Wrong, exercise, expect, same


@exercise
def steps_left_out(answer: Function) -> None:
    wrong = [
        (37, "that is how many steps are taken; those before them are left out"),
        (12, "you rounded the number of taken steps up; it is rounded down, and the rest is left out"),
        (12.5, "a number of steps is whole: round the number of taken ones down"),
    ]
    for value, hint in wrong:
        if same(answer(50, 0.75), value):
            raise Wrong(hint)
    expect(answer(50, 0.75), 13, "37 of 50 steps are taken at strength 0.75, so 13 are left out")
    expect(answer(10, 0.5), 5, "right for 50 steps at 0.75, but of 10 steps at strength 0.5 the first 5 are left out")
    expect(answer(10, 0.0), 10, "at strength 0 no step is taken, so all are left out")
    expect(answer(10, 1.0), 0, "at strength 1 all steps are taken")


@exercise
def small_mask(answer: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(2, 1, 8, 12, generator=generator) < 0.5).float()
    before = mask.clone()
    got = answer(mask, 4)
    if not torch.equal(mask, before):
        raise Wrong("it changed the mask that it was given")
    blocks = mask.unflatten(2, (2, 4)).unflatten(4, (3, 4))  # (2, 1, 2, 4, 3, 4)
    wrong = [
        (blocks.mean((3, 5)), "that is the average of each square, which is no mask of 0 and 1 any more"),
        (blocks.amax((3, 5)), "that is the largest value of each square; take the pixel in its upper left corner"),
        (mask[..., 3::4, 3::4], "that is the pixel in the lower right corner; begin at the first"),
        (mask[..., 2::4, 2::4], "that is a pixel in the middle of each square; take the upper left one"),
        (mask[..., :2, :3], "that is the upper left corner of the whole mask; go through it in steps of the factor"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, mask[..., ::4, ::4], "take every fourth row and every fourth column, from the first on")
    if same(answer(mask, 2), mask[..., ::4, ::4]):
        raise Wrong("right for a factor of 4, but not for 2: use the factor that is given")
    expect(answer(mask, 2), mask[..., ::2, ::2], "right for a factor of 4, but not for 2")
    expect(answer(mask, 1), mask, "with a factor of 1 the mask stays as it is")


@exercise
def ddim_up(answer: Function) -> None:
    x, x0 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    a_u, sigma_u, a_t, sigma_t = 0.8, 0.6, 0.28, 0.96
    noise = (x - a_u * x0) / sigma_u
    got = answer(x, x0, a_u, sigma_u, a_t, sigma_t)
    wrong = [
        (noise, "that is the noise; put it together with the guess again, at time t"),
        (a_t * x + sigma_t * noise, "the guess at the clean picture is multiplied by a_t, not x_u"),
        (a_u * x0 + sigma_u * noise, "that is x_u again; the second time the factors are those of t"),
        (a_t * x0 + sigma_t * (x - a_t * x0) / sigma_t, "the noise in x_u has the factors of u, not those of t"),
        (a_t * x0 + sigma_t * (x - x0) / sigma_u, "x_u holds a_u x0_hat, not x0_hat itself"),
        (a_t * x0 + sigma_t * (x - a_u * x0), "the noise is what is left after the picture, divided by sigma_u"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, a_t * x0 + sigma_t * noise, "the noise is (x_u - a_u x0_hat) / sigma_u, and x_t has the factors of t")
    expect(answer(x, x0, a_u, sigma_u, a_u, sigma_u), x, "if t is u, it must return x_u")
    expect(answer(x, x0, a_u, sigma_u, 0.0, 1.0), noise, "with a_t = 0 and sigma_t = 1 nothing but the noise is left")


@exercise
def word_guidance(answer: Function) -> None:
    null, without, full = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1))
    s, s_word = 3.0, 1.5
    right = null + s * (without - null) + s_word * (full - without)
    got = answer(null, without, full, s, s_word)
    wrong = [
        (null + s * (full - null), "that is ordinary guidance: the word's own scale is not used"),
        (null + s * (without - null) + s_word * (full - null), "the word alone is what full has and without has not"),
        (without + s_word * (full - without), "the scale s of the rest of the sentence is missing"),
        (null + s * (without - null) + s_word * (without - full), "the sign is turned: this leads away from the word"),
        (null + s * (without - null) + s * s_word * (full - without), "the word's scale stands by itself, not times s"),
        (s * (without - null) + s_word * (full - without), "begin at the guess for the null prompt"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, right, "begin at null, go s times to without, and from there s_word times what the word adds")
    expect(answer(null, without, full, s, 0.0), null + s * (without - null), "with s_word = 0 the word must not count")
    expect(answer(null, without, full, s, s), null + s * (full - null), "with s_word = s it is ordinary guidance")
