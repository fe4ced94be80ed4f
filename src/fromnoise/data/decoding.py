"""One stored image as pixels of the wanted size."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from fromnoise.data.table import File
from fromnoise.errors import UserError
from fromnoise.files import read_bytes

Resize = Literal["crop", "none"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no others are opened: EPS would start a program
MAX_BYTES = 2**30  # of one encoded image, or of another file that is read whole
MAX_PIXELS = 2**28  # of one image: more than the largest cameras of phones have
MODES = {1: "L", 3: "RGB"}  # Pillow's names for grey and colour


class Decoded(NamedTuple):
    """An image, and what was done to it."""

    pixels: np.ndarray  # (C, H, W) uint8
    resized: bool
    blended: bool  # whether it had transparency
    animated: bool  # whether it had more pictures, which were left out


@contextmanager
def own_limits() -> Iterator[None]:
    """In which Pillow, which has a lower limit than ours and warns of what we judge, says nothing of its own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def colour(name: str) -> tuple[int, ...]:
    """Red, green and blue, 0..255, of a colour's name or ``#rrggbb``; a `UserError` if there is none of that name."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UserError(
            f"data.background: there is no colour {name!r}: give a name, such as white, or #rrggbb"
        ) from None


def decode(
    cell: Any, place: str, channels: int, size: int, resize: Resize = "none", background: tuple[int, ...] = (255,) * 3
) -> Decoded:
    """One image, upright, ``size`` pixels high and wide.

    Args:
        cell: the image, as a `Table` holds it.
        place: names it in errors.
        resize: ``crop`` makes the shorter side ``size`` long, antialiased, and crops the longer one to its middle; an
            image that has the size is never touched. ``none`` refuses all others.
        background: the colour that shows where an image is transparent.

    Raises:
        UserError: it is missing, unreadable, too large, of more than 8 bits, or of another size.
    """
    if isinstance(cell, np.ndarray) and cell.shape == (size, size, 3)[: 2 if channels == 1 else 3]:
        return Decoded(cell.reshape(size, size, channels).transpose(2, 0, 1), False, False, False)
    content, place = (cell, place) if isinstance(cell, np.ndarray) else _encoded(cell, place)
    try:
        with Image.fromarray(content) if isinstance(content, np.ndarray) else _opened(content) as stored:
            pixels = stored.width * stored.height
            if pixels <= MAX_PIXELS:
                animated = stored.format != "MPO" and getattr(stored, "is_animated", False)
                if resize == "crop" and stored.size != (size, size):
                    stored.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size
                image = ImageOps.exif_transpose(stored)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UserError(f"{place} cannot be read as an image: replace or remove it") from error
    if pixels > MAX_PIXELS:
        raise UserError(f"{place} has {pixels / 2**20:.0f} megapixels, more than {MAX_PIXELS >> 20}: make it smaller")
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{place} has more than 8 bits for each channel: save it with 8")
    resized = image.size != (size, size)
    if resized and resize == "none":
        width, height = image.size
        raise UserError(
            f"{place} is {width}x{height}, not {size}x{size}: "
            "resize the images, set the size to theirs, or give --data.resize crop"
        )
    blended = image.has_transparency_data
    try:
        image = image.convert("RGBA" if blended else MODES[channels])
        if resized:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        if blended:
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert(MODES[channels])
    except Exception as error:
        raise UserError(f"{place} cannot be converted to pixels: replace or remove it") from error
    array = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    return Decoded(array, resized, blended, animated)


def _opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content), formats=FORMATS)


def _encoded(cell: Any, place: str) -> tuple[bytes, str]:
    """An encoded image, and where it is."""
    if isinstance(cell, File):
        return cell.read(), str(cell.path)
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise UserError(f"{place} has no image: remove it")
    content, path = cell["bytes"], cell["path"]
    return (read_bytes(Path(path), MAX_BYTES), path) if content is None else (content, f"{place} ({path})")
