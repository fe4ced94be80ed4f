"""One stored image as pixels of the wanted size."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

from fromnoise.data.table import MAX_BYTES, File
from fromnoise.errors import UserError, told
from fromnoise.files import read_bytes

Resize = Literal["crop", "none"]
Decoded = tuple[np.ndarray, list[str]]  # uint8 pixels (C, H, W), and what was done to them, in words

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no others are opened: EPS would start a program
MAX_MEGAPIXELS = 256  # of one image: more than the largest cameras of phones have
MODES = {1: "L", 3: "RGB"}  # Pillow's names for grey and colour


@contextmanager
def own_limits() -> Iterator[None]:
    """In which Pillow, which has a lower limit than ours and warns of what we judge, says nothing of its own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def check_colour(name: str) -> None:
    """Refuses with a `UserError` what is neither the name of a colour nor ``#rrggbb``."""
    with told(f"data.background: there is no colour {name!r}", "give a name, such as white, or #rrggbb"):
        ImageColor.getrgb(name)


def decode(
    cell: Any, row: str, *, channels: int, size: int, resize: Resize = "none", background: str = "white"
) -> Decoded:
    """One image, upright, ``size`` pixels high and wide.

    Args:
        cell, row: the image, as a `Table` holds it, and where; errors name the row, or the file.
        channels: 1 for grey, 3 for colour; images are converted.
        resize: ``crop`` makes the shorter side ``size`` long, antialiased, and crops the longer one to its middle; an
            image that has the size is never touched. ``none`` refuses all others.
        background: the colour that shows where an image is transparent.

    Raises:
        UserError: it is missing, unreadable, too large, of more than 8 bits, or of another size.
    """
    if isinstance(cell, np.ndarray) and cell.shape == (size, size, 3)[: 2 if channels == 1 else 3]:
        return cell.reshape(size, size, channels).transpose(2, 0, 1), []
    place = place_of(cell, row)
    with told(f"{place} cannot be read as an image", "replace or remove it"), _opened(cell, place) as stored:
        check_room(stored, place)
        animated = stored.format != "MPO" and getattr(stored, "is_animated", False)
        if resize == "crop" and stored.size != (size, size):
            stored.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size
        image = upright(stored, place)
        resized, blended = image.size != (size, size), image.has_transparency_data
        if resized and resize == "none":
            other = f"{image.width}x{image.height}, not {size}x{size}"
            way = "resize the images, set the size to theirs, or give --data.resize crop"
            raise UserError(f"{place} is {other}: {way}")
        image = image.convert("RGBA" if blended else MODES[channels])
        if resized:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        if blended:
            canvas = Image.new("RGBA", image.size, ImageColor.getrgb(background)[:3])
            image = Image.alpha_composite(canvas, image).convert(MODES[channels])
    done = {
        f"resized, the shorter side to {size} pixels, and cropped to the middle": resized,
        f"transparent, laid over {background}": blended,
        "animated, of which the first picture is read": animated,
    }
    array = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    return array, [words for words, so in done.items() if so]


def upright(stored: Image.Image, place: str) -> Image.Image:
    """An image as whoever took it held the camera; refuses with a `UserError` one of more than 8 bits."""
    stored.load()
    image = stored
    with suppress(Exception):  # of all kinds, if what the camera wrote cannot be read: the picture can
        image = ImageOps.exif_transpose(stored)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{place} has more than 8 bits for each channel: save it with 8")
    return image


def check_room(stored: Image.Image, place: str) -> None:
    """Refuses with a `UserError` an image that says it has too many pixels, before any of them is decoded."""
    if (megapixels := stored.width * stored.height / 2**20) > MAX_MEGAPIXELS:
        raise UserError(f"{place} has {megapixels:.0f} megapixels, more than {MAX_MEGAPIXELS}: make it smaller")


def place_of(cell: Any, row: str) -> str:
    """What errors call an image: its file, if it is one, or else its row."""
    if isinstance(cell, File):
        return str(cell.path)
    return f"{row} ({cell['path']})" if isinstance(cell, dict) and cell["path"] else row


def _opened(cell: Any, place: str) -> Image.Image:
    if isinstance(cell, np.ndarray):
        return Image.fromarray(cell)
    if isinstance(cell, File):
        content = cell.read()
    elif cell and cell["bytes"] is not None:
        content = cell["bytes"]
    elif cell and cell["path"] is not None:
        content = read_bytes(Path(cell["path"]), MAX_BYTES)
    else:
        raise UserError(f"{place} has no image: remove it")
    return Image.open(BytesIO(content), formats=FORMATS)
