"""Solutions of chapter 6."""

import math

import torch


def guided_guess(unconditional, conditional, guidance_scale):
    # From the guess without the label, s times the way to the guess with it; s = 1 arrives there exactly.
    return unconditional + guidance_scale * (conditional - unconditional)


def guided_std(class_std, all_std, guidance_scale):
    # Eq. cfg-gauss at r = 0 is d_c^(1+w) d^(-w), and 1 + w = s. At s = 0 it is all data's: the label is ignored.
    return class_std**guidance_scale * all_std ** (1 - guidance_scale)


def drop_labels(labels, draws, probability, num_classes):
    # A uniform draw is below p with probability p. The null class is the row after the last class.
    return torch.where(draws < probability, num_classes, labels)


def cancelling_scale(good_std, worse_std, true_std):
    # Eq. cfg-gauss at r = 0, with s = 1 + w, is good^s worse^(1-s). Set it equal to true and take logarithms:
    # s ln(good) + (1 - s) ln(worse) = ln(true), which is linear in s.
    return math.log(true_std / worse_std) / math.log(good_std / worse_std)
