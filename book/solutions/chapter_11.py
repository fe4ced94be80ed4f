"""Solutions of chapter 11."""


def steps_left_out(steps, strength):
    # int rounds down: at 0.75 of 50 steps 37 are taken.
    return steps - int(steps * strength)


def small_mask(mask, factor):
    # Every factor-th row and column, from the first on: the upper left corner of each square.
    return mask[..., ::factor, ::factor]


def ddim_up(x_u, x0_hat, a_u, sigma_u, a_t, sigma_t):
    # x_u = a_u x0_hat + sigma_u noise_hat says what noise_hat is; at t the same two have other factors.
    noise_hat = (x_u - a_u * x0_hat) / sigma_u
    return a_t * x0_hat + sigma_t * noise_hat


def word_guidance(null, without, full, s, s_word):
    # The way from null to full in two pieces, each with a scale of its own.
    return null + s * (without - null) + s_word * (full - without)
