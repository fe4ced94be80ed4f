"""Solutions of chapter 3."""


def kl_of_normals(mean_p, std_p, mean_q, std_q):
    # The average of log P(x)/Q(x) over P. Only Q's variance stands in a denominator: it is Q that is surprised.
    ratio = (std_p / std_q) ** 2
    return 0.5 * (ratio - 1 - ratio.log() + ((mean_p - mean_q) / std_q) ** 2)


def x0_from_velocity(x, v, alpha, sigma):
    # (x, v) is (x0, noise) turned by an angle. Turning back swaps the sign of the sine, and needs no division.
    return alpha * x - sigma * v


def noise_loss_to_image_loss(alpha, sigma):
    # x0 = (x - sigma noise) / alpha at a fixed x: an error d in the noise is -sigma / alpha d in the picture.
    return (sigma / alpha) ** 2


def kappa_of_variance(variance, beta, beta_tilde):
    # The mix is a straight line in the logarithm: the share of the way from log beta_tilde to log beta.
    return (variance / beta_tilde).log() / (beta / beta_tilde).log()
