"""Where the ink of a picture is, and the picture drawn larger or smaller onto a square."""

import torch
from torch import Tensor


def ink_edges(ink: Tensor, level: float) -> Tensor:
    """Where the ink of pictures ``(N, h, w)`` begins and ends, in pixels ``(N, 2, 2)``: by rows, then by columns.

    Between two pixels, ink is interpolated; an edge is where it is ``level``. Without ink, the edges mean nothing.
    """
    edges = []
    for other in (2, 1):
        most = torch.nn.functional.pad(ink.amax(other).float(), (1, 1))  # (N, length + 2)
        for profile, backwards in ((most, False), (most.flip(1), True)):
            first = (profile >= level).int().argmax(1, keepdim=True).clamp(min=1)  # (N, 1)
            inside, outside = profile.gather(1, first)[:, 0], profile.gather(1, first - 1)[:, 0]
            # the middle of pixel i lies at i + 0.5, and the padding is one pixel
            at = first[:, 0] - 0.5 - (inside - level) / (inside - outside).clamp(min=1e-6)
            edges.append(profile.shape[1] - 2 - at if backwards else at)
    return torch.stack(edges, 1).unflatten(1, (2, 2))


def resample(images: Tensor, zoom: Tensor, source: Tensor, target: Tensor, size: int, *, even: bool = False) -> Tensor:
    """Grey images ``(N, h, w)`` drawn larger or smaller onto a square ``(N, size, size)``, empty elsewhere.

    They may have channels: ``(N, C, h, w)`` becomes ``(N, C, size, size)``.

    The point ``source`` of an image comes to lie at ``target``, both ``(N, 2)``, row and column in pixels, and lengths
    become ``zoom`` ``(N, 2)`` times what they were. Pixels are interpolated linearly, and averaged where they get
    smaller: with weights of about 1 in all, or, if it has to be ``even``, of exactly 1 (which is for images whose edges
    are empty).
    """
    weights = []
    to = torch.arange(size, device=images.device) + 0.5  # (size,)
    for axis in (0, 1):
        of = torch.arange(images.shape[axis - 2], device=images.device) + 0.5  # (h,) or (w,)
        at = (to - target[:, axis, None]) / zoom[:, axis, None] + source[:, axis, None]  # (N, size) in the image
        sharp = zoom[:, axis, None, None].clamp(max=1)  # 1 over how far a pixel reaches
        distance = (at[..., None] * sharp**2 - of * sharp**2).abs_()  # (N, size, h or w)
        weight = (sharp - distance).clamp_(min=0)
        weights.append(weight / weight.sum(-1, keepdim=True).clamp_(min=1e-6) if even else weight)
    if images.ndim == 4:
        weights = [weight[:, None] for weight in weights]
    return weights[0] @ images @ weights[1].mT
