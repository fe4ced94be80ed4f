"""Solutions of chapter 7."""

import math


def euler_step(y, x0_hat, r, r_next):
    # The direction is the noise in y, and the step is as long as the noise level falls.
    return y + (r_next - r) * (y - x0_hat) / r


def guess_ahead(now, before, h_before, h):
    # It changed by now - before over h_before; half of the coming step lies ahead.
    return now + h / 2 * (now - before) / h_before


def added_std(r, r_raised):
    # Variances of independent noises add up.
    return math.sqrt(r_raised**2 - r**2)
