"""The picture that a request begins with, and the mask that says which part of it is painted anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.data.decoding import FORMATS, MODES, check_room, own_limits, upright
from fromnoise.data.images import from_pixels
from fromnoise.data.table import MAX_BYTES
from fromnoise.diffusion.inpainting import InpaintingDenoiser, binarised, mask_to_latents, put_back, start_from
from fromnoise.diffusion.parameterization import Denoiser
from fromnoise.errors import told
from fromnoise.files import read_bytes
from fromnoise.models.conditioning import Condition
from fromnoise.models.space import Space
from fromnoise.sampling.request import Request
from fromnoise.terminal import warn


@dataclass(frozen=True)
class Edit:
    """What is drawn over."""

    picture: Tensor  # (1, C, H, W) uint8
    mask: Tensor | None  # (1, 1, H, W), 1 where the picture is painted anew and 0 where it stays; none: anew everywhere
    strength: float  # how much of the way the picture is taken back to noise

    def paste(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` with the picture's own pixels where it stays."""
        return images if self.mask is None else torch.where(self.mask == 1, images, self.picture)


class Canvas:
    """A picture as what the network sees, on a device, ready to be drawn over.

    Attributes:
        known: the picture, ``(1, c, h, w)``.
        mask: the mask at that size, ``(1, 1, h, w)``; none as in `Edit`.
        told: what a network that was trained to inpaint is told beside x, by name, ``(1, ...)`` each.
    """

    def __init__(self, edit: Edit, space: Space, inpaints: bool, device: torch.device):
        picture = from_pixels(edit.picture.to(device))  # (1, C, H, W)
        self.known, self.mask, self.told = space.encode(picture), None, Condition()
        self.all_the_way = edit.strength == 1
        if edit.mask is not None:
            mask = edit.mask.to(device)  # (1, 1, H, W)
            self.mask = mask_to_latents(mask, (self.known.shape[2], self.known.shape[3]))
            if inpaints:
                self.told = {"mask": self.mask, "masked": space.encode(picture * (1 - mask))}

    def begin(self, denoise: Denoiser, x: Tensor, noise: Tensor, times: Sequence[float]) -> tuple[Tensor, Denoiser]:
        """Where a sampler begins, ``(B, c, h, w)``, and what it asks.

        Args:
            x: where it would begin without a picture. As in diffusers, a picture with a mask begins there if it is
                taken all the way back to noise.
            noise: that of the picture, ``(B, c, h, w)``.
        """
        known = self.known.expand_as(noise)
        if self.mask is None or not self.all_the_way:
            x = start_from(denoise.schedule, known, times[0], noise)
        if self.mask is None or self.told:
            return x, denoise
        return x, InpaintingDenoiser(denoise, known, self.mask, noise, times[0])

    def end(self, x: Tensor) -> Tensor:
        """x ``(B, c, h, w)`` with what is known of the picture, even if the last time is not quite clean."""
        return x if self.mask is None or self.told else put_back(self.known, x, self.mask)


def read_edit(request: Request, channels: int, trained: int, multiple: int) -> Edit:
    """Reads a picture and its mask, and brings them to a size that the model can draw; says what it has done.

    Args:
        request: what is asked for. Without a height and width the picture keeps its shape, and is made smaller until
            its shorter side has no more than ``trained`` pixels.
        channels: of the picture, 1 or 3.
        multiple: of which height and width are multiples.

    Raises:
        UserError: a file is not a picture.
    """
    assert request.init_image is not None
    picture, mask = request.init_image, request.mask
    strength = (0.8 if mask is None else 1.0) if request.strength is None else request.strength
    image = _read(picture, "--init-image").convert(MODES[channels])
    shorter = min(image.size)
    fitting = [max(1, side * min(trained, shorter) // shorter // multiple) * multiple for side in image.size]
    width, height = request.width or fitting[0], request.height or fitting[1]
    if image.size != (width, height):
        warn(f"--init-image {picture} is {image.width}x{image.height}: it is resized to {width}x{height}")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).reshape(height, width, channels)
    drawn = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]  # (1, C, H, W)
    if mask is None:
        return Edit(drawn, None, strength)
    grey = _read(mask, "--mask", over="black").convert("L")
    if grey.size != image.size:
        warn(f"--mask {mask} is {grey.width}x{grey.height}, the picture is not: it is resized to {width}x{height}")
    levels = np.asarray(grey.resize((width, height), Image.Resampling.NEAREST))
    return Edit(drawn, binarised(torch.from_numpy(levels / np.float32(255))[None, None]), strength)


def _read(path: Path, flag: str, over: str = "white") -> Image.Image:
    """A picture, upright, over a colour where it is transparent."""
    content, place = read_bytes(path, MAX_BYTES), f"{flag} {path}"
    problem = told(f"{place} cannot be read as a picture", f"give one of {', '.join(FORMATS)}")
    with problem, own_limits(), Image.open(BytesIO(content), formats=FORMATS) as stored:
        check_room(stored, place)
        image = upright(stored, place).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, over), image)
