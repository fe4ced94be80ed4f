"""How far a reconstruction is from its picture, for an autoencoder that is trained on nothing but pictures."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a picture's values of the absolute error, ``(B, ...)`` to ``(B,)``, in float32 or wider.

    Where a value is uncertain the best guess is its median, one of the colours that are there. For a squared error it
    is the mean, a blend of them.
    """
    return _error(output, target).abs().flatten(1).mean(1)


def edge_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of neighbouring pixels' differences, at full and half resolution, ``(B,)``. Eq. edge-error.

    It stands in for what Stable Diffusion's autoencoder was trained with beside the error of each pixel: LPIPS, the
    distance in the features of a network that has seen a million photographs, and a discriminator of patches, a second
    network that learns to tell reconstructions from pictures. Both are there because an error of pixels alone hardly
    minds blur. The first needs somebody else's weights, and the second a game between two networks that takes long to
    become steady. In pictures of flat surfaces and sharp outlines, blur shows at the outlines, which are few of the
    pixels but nearly all of the differences: a blurred outline is wrong in every difference across it, and a surface
    that is a shade too light in none. At half resolution, squares of 2x2 pixels averaged, outlines count that are
    blurred over several pixels or in another place.

    Args:
        output, target: ``(B, C, H, W)``, at least 4 pixels high and wide.

    Source: the gradient difference loss of Mathieu et al. 2016 (arXiv 1511.05440), section 3.2, but with signs: it
    compares the differences themselves, and so is linear in the error; what it stands in for is in Rombach et al. 2022
    (arXiv 2112.10752), appendix G.
    """
    error = _error(output, target)  # (B, C, H, W)
    parts = []
    for scale in (error, F.avg_pool2d(error, 2)):  # (B, C, H, W), (B, C, H/2, W/2)
        parts += [scale.diff(dim=axis).abs().flatten(1).mean(1) for axis in (2, 3)]  # (B,) each
    return torch.stack(parts).mean(0)  # (B,)


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """The peak signal-to-noise ratio in decibels, ``10 log10(2^2 / mean squared error)``, ``(B,)``. Eq. psnr.

    Values range over [-1, 1], and what lies outside is clipped, as in the picture that is saved. A difference of one
    grey level everywhere is 48 dB. An exact copy counts as one that differs by one level in one value, so that the
    ratio is finite.

    Args:
        output, target: ``(B, ...)``.
    """
    squares = _error(output.clamp(-1, 1), target).square().flatten(1)  # (B, ...)
    least = (2 / 255) ** 2 / squares.shape[1]
    return 20 * math.log10(2) - 10 * squares.mean(1).clamp(min=least).log10()


def _error(output: Tensor, target: Tensor) -> Tensor:
    high = torch.promote_types(output.dtype, torch.float32)
    return output.to(high) - target.to(high)
