"""Solutions of chapter 12."""


def straight_velocity(x, t, mean, std):
    # On these pairs the picture is mean + std eps. Solve x = (1 - t) (mean + std eps) + t eps for the noise eps.
    eps = (x - (1 - t) * mean) / ((1 - t) * std + t)
    return eps - (mean + std * eps)


def apply_lora(x, W, A, B, alpha):
    # First down to k numbers, then up again: B A itself, as large as W, is never made.
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T


def largest_rank(rows, columns):
    # k (rows + columns) < rows columns, so k is the largest whole number below the quotient.
    return (rows * columns - 1) // (rows + columns)
