"""How the book's pictures look, and the ways of drawing that chapters share. Importing it sets the looks."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

INK, BLUE, ORANGE, GREEN, RED, GREY = "#22303c", "#2f6db3", "#e08214", "#2a9d6f", "#c8453b", "#9aa5b1"

plt.rcParams.update(
    {
        "figure.figsize": (7.0, 2.8),
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, GREY]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "image.cmap": "gray",
        "image.interpolation": "nearest",
    }
)


def picture(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draws an image ``(C, H, W)`` or ``(H, W)`` in [-1, 1], or uint8, without ticks."""
    pixels = image / 255 if image.dtype.is_floating_point is False else (image.float() + 1) / 2
    pixels = pixels.clamp(0, 1)
    pixels = pixels.squeeze(0) if pixels.ndim == 3 and len(pixels) == 1 else pixels
    axes.imshow(pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels, vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def pictures(images: Tensor, columns: int, titles: list[str] | None = None, scale: float = 0.7) -> None:
    """Draws images ``(N, C, H, W)`` as a grid, row by row, with a title above each or none."""
    rows = -(-len(images) // columns)
    height = scale + (0.22 if titles else 0)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * scale, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        picture(axes.flat[i], image, titles[i] if titles else "")
    plt.show()
