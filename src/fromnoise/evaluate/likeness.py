"""How alike a picture and its text are."""

import torch.nn.functional as F
from torch import Tensor


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """A hundred times the cosine of the angle between each picture's and its text's vector. Eq. clip-score.

    The vectors are ``(N, D)`` each, of any length; the result is ``(N,)`` float64. Negative values are kept.
    Source: Hessel et al. 2021 (arXiv 2104.08718), section 3, with 100 in place of their 2.5.
    """
    return 100 * F.cosine_similarity(images.double(), texts.double())
