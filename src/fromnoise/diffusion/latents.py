"""What makes an autoencoder's latents fit for diffusion: close to a standard normal, and of unit variance."""

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, variance) || N(0, I))`` in nats, summed over each sample, ``(B,)``. Eq. vae-kl.

    Shapes: mean and log_variance ``(B, ...)``; the covariance is diagonal.
    Source: Kingma and Welling 2013 (arXiv 1312.6114), appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def scaling_factor(latents: Tensor) -> Tensor:
    """What latents are multiplied with for a standard deviation of 1: one positive number. Eq. scale.

    The deviation is that of all entries of the batch ``(B, C, H, W)`` together. Stable Diffusion 1 and 2 have 0.18215.

    Source: Rombach et al. 2022 (arXiv 2112.10752), appendix G.
    """
    return 1 / latents.std(correction=0)
