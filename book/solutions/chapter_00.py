"""Solutions of chapter 0."""


def pixels_to_unit(pixels):
    # 127.5 is half of 255: pixels / 127.5 runs from 0 to 2. The float comes first, as uint8 knows no negative numbers.
    return pixels.float() / 127.5 - 1


def noise_of_variance(noise, variance):
    # Var(c * noise) = c^2 Var(noise), so the factor is the root of the variance.
    return variance**0.5 * noise


def scale_each(images, factors):
    # A 1 for each axis but the first, so that the factors are repeated over all of a picture's numbers.
    return images * factors.reshape(-1, *[1] * (images.ndim - 1))


def expected_square(mean, variance, c, d):
    # c x + d has the mean c m + d and the variance c^2 V, and for every y, E[y^2] = Var(y) + E[y]^2.
    return c**2 * variance + (c * mean + d) ** 2
