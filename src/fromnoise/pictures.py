"""Images on disk: grids, folders of PNGs, and arrays."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fromnoise.files import atomic_write
from fromnoise.sampling.words import WordMaps

PADDING = 2
NONE: Mapping[str, str] = {}
INFERNO = (0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)  # matplotlib's, at every quarter


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images uint8 ``(N, C, H, W)`` in rows of ``columns``, a little apart on white; small ones enlarged.

    One image alone stays as it is, so that another request can begin with it.
    """
    count, channels, height, width = images.shape
    if count == 1:
        return _picture(images[0].permute(1, 2, 0).numpy())
    scale = max(1, 56 // height)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height * scale + PADDING, width * scale + PADDING
    canvas = np.full((rows * cell_height + PADDING, columns * cell_width + PADDING, channels), 255, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * cell_height + PADDING, i % columns * cell_width + PADDING
        canvas[top : top + height * scale, left : left + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return _picture(canvas)


def save_grid(path: Path, images: Tensor, columns: int, facts: Mapping[str, str] = NONE) -> None:
    """Writes `grid` as one PNG, with what made it in its text chunks, by name."""
    with atomic_write(path) as partial:
        grid(images, columns).save(partial, format="PNG", pnginfo=_chunks(facts))


def save_array(path: Path, images: Tensor, wishes: Sequence[int | str]) -> None:
    """Writes an ``.npz``: ``images`` uint8 ``(N, H, W, C)`` and, if asked for, ``labels`` or ``prompts`` ``(N,)``."""
    arrays: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).numpy()}
    if wishes:
        arrays["prompts" if isinstance(wishes[0], str) else "labels"] = np.array(wishes)
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def save_folder(path: Path, images: Tensor, wishes: Sequence[int | str], facts: Mapping[str, str] = NONE) -> None:
    """Writes a new folder with one PNG for each image, called by its number and the class that was asked for.

    Each has what made it in its text chunks: the facts, its number and what was asked for.
    """
    with atomic_write(path) as partial:
        partial.mkdir()
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            wish = wishes[i] if wishes else ""
            name = f"{i:05d}-{wish}.png" if isinstance(wish, int) else f"{i:05d}.png"
            own = {"image": str(i), "wish": str(wish)}
            _picture(image).save(partial / name, format="PNG", pnginfo=_chunks({**facts, **own}))


def save_maps(path: Path, images: Tensor, maps: Sequence[WordMaps]) -> None:
    """Writes a new folder: for each image its words' maps over it as PNGs, and all maps as an ``.npz``.

    The arrays are ``(steps, words, h, w)``, named by their layer; ``words`` are their words.
    """
    with atomic_write(path) as partial:
        partial.mkdir()
        for i, (image, attention) in enumerate(zip(images, maps, strict=True)):
            arrays: dict[str, Any] = {name: layer.half().numpy() for name, layer in attention.layers.items()}
            np.savez_compressed(partial / f"{i:05d}.npz", words=np.array(attention.words), **arrays)
            for k, (word, heat) in enumerate(zip(attention.words, attention.mean(), strict=True)):
                name = re.sub(r"[^\w-]", "_", word)[:40]
                picture = _picture(overlay(image, heat).permute(1, 2, 0).numpy())
                picture.save(partial / f"{i:05d}-{k:02d}-{name}.png", format="PNG")


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """A map over an image: half the image in grey, half colours from black, the map's least, to yellow, its most.

    Args:
        image: uint8 ``(C, H, W)``; heat: ``(h, w)``, enlarged to the image's size.

    Returns:
        uint8 ``(3, H, W)``. A map that is the same everywhere is black.
    """
    heat = F.interpolate(heat[None, None].float(), size=image.shape[1:], mode="bilinear")[0, 0]  # (H, W)
    least, most = heat.aminmax()
    place = (heat - least) / (most - least).clamp(min=1e-12) * (len(INFERNO) - 1)  # (H, W), 0 to 4
    below = place.long().clamp(max=len(INFERNO) - 2)  # (H, W)
    colours = torch.tensor(INFERNO, dtype=torch.float32)  # (5, 3)
    colour = torch.lerp(colours[below], colours[below + 1], (place - below)[..., None])  # (H, W, 3)
    return ((image.float().mean(0) + colour.permute(2, 0, 1)) / 2).round().to(torch.uint8)  # (3, H, W)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _chunks(facts: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for name, text in facts.items():
        chunks.add_itxt(name, text)
    return chunks
