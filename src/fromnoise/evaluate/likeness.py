"""How alike two pictures are, and a picture and its text."""

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each picture, in dB. Eq. psnr

    ``10 log10(255^2 / MSE)``, of uint8 pictures ``(N, C, H, W)``. An exact copy counts as one that differs by one level
    in one value, so that the ratio is finite. The result is ``(N,)`` float64.

    Source: Rombach et al. 2022 (arXiv 2112.10752), table 8, names it; it is the usual ratio.
    """
    squares = (images.double() - reference.double()).square().flatten(1)  # (N, C H W)
    return 10 * torch.log10(255**2 / squares.mean(1).clamp(min=1 / squares.shape[1]))


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """A hundred times the cosine of the angle between each picture's and its text's vector. Eq. clip-score

    The vectors are ``(N, D)`` each, of any length; the result is ``(N,)`` float64. Negative values are kept.
    Source: Hessel et al. 2021 (arXiv 2104.08718), section 3, with 100 in place of their 2.5.
    """
    return 100 * F.cosine_similarity(images.double(), texts.double())
