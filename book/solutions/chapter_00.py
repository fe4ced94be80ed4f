"""Solutions of chapter 0."""


def pixels_to_unit(pixels):
    # 127.5 is half of 255: pixels / 127.5 runs from 0 to 2. The float comes first, as uint8 knows no negative numbers.
    return pixels.float() / 127.5 - 1


def noise_of_variance(noise, variance):
    # Var(c * noise) = c^2 Var(noise), so the factor is the root of the variance.
    return variance**0.5 * noise
