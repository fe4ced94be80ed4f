"""The checks of chapter 11 accept right answers of other forms, and say of wrong ones what is wrong."""

import math

import pytest
import torch
import torch.nn.functional as F

import exercises


def changed_in_place(mask, factor):
    mask.round_().neg_()
    return -mask[..., ::factor, ::factor]


@pytest.mark.parametrize(
    ("name", "answer", "problem"),
    [
        ("steps_left_out", lambda steps, strength: math.ceil(steps * (1 - strength)), None),
        ("steps_left_out", lambda steps, strength: steps - math.floor(steps * strength), None),
        ("steps_left_out", lambda steps, strength: torch.tensor(steps) - int(steps * strength), None),
        ("steps_left_out", lambda steps, strength: int(steps * strength), "those before them are left out"),
        ("steps_left_out", lambda steps, strength: int(steps * (1 - strength)), "rounded down"),
        ("steps_left_out", lambda steps, strength: steps * (1 - strength), "whole"),
        ("steps_left_out", lambda steps, strength: 13, "of 10 steps"),
        ("small_mask", lambda mask, f: F.interpolate(mask, scale_factor=1 / f, mode="nearest"), None),
        ("small_mask", lambda mask, f: mask.unflatten(2, (-1, f))[:, :, :, 0].unflatten(3, (-1, f))[..., 0], None),
        ("small_mask", lambda mask, f: F.avg_pool2d(mask, f), "average"),
        ("small_mask", lambda mask, f: F.max_pool2d(mask, f), "largest"),
        ("small_mask", lambda mask, f: mask[..., f - 1 :: f, f - 1 :: f], "lower right"),
        ("small_mask", lambda mask, f: mask[..., ::4, ::4], "not for 2"),
        ("small_mask", lambda mask, f: mask[..., ::f], "the shape"),
        ("small_mask", changed_in_place, "changed the mask"),
        ("ddim_up", lambda x, x0, a_u, s_u, a_t, s_t: s_t / s_u * x + (a_t - a_u * s_t / s_u) * x0, None),
        ("ddim_up", lambda x, x0, a_u, s_u, a_t, s_t: a_t * x0 + s_t * (x - x0) / s_u, "not x0_hat itself"),
        ("ddim_up", lambda x, x0, a_u, s_u, a_t, s_t: a_t * x + s_t * (x - a_u * x0) / s_u, "not x_u"),
        ("ddim_up", lambda x, x0, a_u, s_u, a_t, s_t: (x - a_u * x0) / s_u, "that is the noise"),
        ("word_guidance", lambda n, w, f, s, s_w: (1 - s) * n + (s - s_w) * w + s_w * f, None),
        ("word_guidance", lambda n, w, f, s, s_w: n + s * (f - n), "the word's own scale is not used"),
        ("word_guidance", lambda n, w, f, s, s_w: w + s_w * (f - w), "of the rest of the sentence is missing"),
        ("word_guidance", lambda n, w, f, s, s_w: n + s * (w - n) + s_w * (f - n), "what full has and without has not"),
    ],
)
def test_answers_of_other_forms(name, answer, problem):
    answer.__name__ = name
    verdict = exercises.verdict(answer)
    assert verdict is None if problem is None else problem in verdict
