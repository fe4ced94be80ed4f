"""Has emoji-sd draw what training never showed, and looks for the nearest picture that training did show.

python book/figures/nearest_emoji.py    writes nearest-emoji.png and nearest-emoji.json beside this file

It takes the font that emoji-sd was trained on, Noto Color Emoji, and about five minutes of one core.
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fromnoise.data.cutouts import Cutouts, Named, framed
from fromnoise.data.emoji import emoji_things, find_font
from fromnoise.data.images import from_pixels, to_pixels
from fromnoise.data.resampling import ink_edges
from fromnoise.data.scene_captions import COLOURS, Scene
from fromnoise.data.scenes import Scenes
from fromnoise.data.things import Kind
from fromnoise.evaluate.scene_reader import Seen, read_scenes
from fromnoise.files import atomic_write
from fromnoise.models import Model, open_model
from fromnoise.sampling.generate import draw
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import style  # noqa: E402

SIZE = 64
PROMPTS: dict[Kind, int] = {"composed": 60, "unseen": 20, "seen": 20}  # so many of each kind are measured
COLUMNS: dict[Kind, int] = {"composed": 4, "unseen": 2}  # the first prompts of each kind, as they come
FEW = 100  # so many drawings are compared at the size of the drawn thing, the nearest of all at one size
ROWS = ("drawn", "nearest\nthat training\nshowed", "true, and\nnever shown")


@dataclass(frozen=True)
class Parts:
    """The things in T pictures, each cut out."""

    images: Tensor  # (T, 3, 32, 32) in [-1, 1], as the classifier of things sees them
    background: Tensor  # (T, 3) in 0..255
    centre: Tensor  # (T, 2) in the picture
    length: Tensor  # (T,) in pixels


@dataclass(frozen=True)
class Comparison:
    """A drawn thing beside what was asked for and beside the nearest other thing that training showed."""

    drawn: Tensor  # (3, 32, 32) in [-1, 1]
    asked: Tensor  # (3, 32, 32)
    other: Tensor  # (3, 32, 32)
    name: str  # of the other
    to_asked: float  # root mean square over pixels, in grey levels
    to_other: float


class Cutter:
    """Names nothing, and keeps what a classifier of things would be shown; see `ThingReader`."""

    lengths = Cutouts.lengths
    longest = {"rows": math.inf, "columns": math.inf}  # all that is not background is one thing

    def __init__(self) -> None:
        self.found: list[Parts] = []

    def look(self, images: Tensor, background: Tensor, masks: Tensor) -> Seen:
        edges = ink_edges(masks.float(), 0.5)  # (T, 2, 2)
        centre, length = edges.mean(2), (edges[..., 1] - edges[..., 0]).amax(1)  # (T, 2), (T,)
        self.found.append(Parts(framed(images / 127.5 - 1, centre, length), background, centre, length))
        return Seen(edges, length, lambda part, size: Named("", size))


def cut_out(pictures: Tensor) -> Parts:
    """The thing in each picture, uint8 ``(N, 3, S, S)``, as the reader of scenes finds it.

    Raises:
        ValueError: there is nothing in one of them.
    """
    cutter = Cutter()
    if not all(scene.things for scene in read_scenes(pictures, cutter)):
        raise ValueError("one of the pictures shows nothing but a background")
    columns = ([getattr(part, name) for part in cutter.found] for name in ("images", "background", "centre", "length"))
    return Parts(*map(torch.cat, columns))


def painted_like(things: Cutouts, rows: Tensor, background: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Pictures, uint8 ``(M, 3, 64, 64)``, of cut-outs ``(M,)`` on one background, at one place and of one length.

    Args:
        background: its colour in 0..255, ``(3,)``.
        centre: row and column ``(2,)`` in pixels.
        length: of the longer side in pixels, ``()``.
    """
    edges = things.edges[rows]  # (M, 2, 2)
    zoom = things.zoom(length.expand(len(rows)), edges[..., 1] - edges[..., 0])  # (M, 2)
    cutouts = torch.stack([things.pixels[rows], torch.zeros_like(things.pixels[rows])], 1)  # with no second thing
    both = {"zoom": zoom, "from": edges.mean(-1), "to": centre.expand(len(rows), 2)}
    drawn = {name: values[:, None].expand(-1, 2, -1) for name, values in both.items()}  # (M, 2, 2) each
    colours = (background / 127.5 - 1).expand(len(rows), 1, 3)
    return to_pixels(things.painted({"cutouts": cutouts, "colours": colours, **drawn}, SIZE))


def shown_on(things: Cutouts, background: int) -> Tensor:
    """Which of the pictures of things training showed on a background, ``(M,)``."""
    seen = things.combinations("seen").flatten(0, 1)  # (G * M, 3), some of them several times
    number, look, _ = seen[seen[:, 2] == background].unique(dim=0).T
    return things.row[number, look]


def nearest_few(drawn: Tensor, background: Tensor, cut: Tensor) -> Tensor:
    """Which of the things ``(M, 4, 32, 32)``, cut out of their own pictures, are nearest to a drawn one, ``(few,)``.

    Args:
        drawn: ``(3, 32, 32)`` in [-1, 1].
        background: its colour in 0..255, ``(3,)``.
        cut: red, green and blue times alpha, and alpha, in [0, 1].
    """
    on_it = cut[:, :3] + (1 - cut[:, 3:]) * background[:, None, None] / 255  # (M, 3, 32, 32)
    return distances(drawn, 2 * on_it - 1).topk(min(FEW, len(cut)), largest=False).indices


def distances(one: Tensor, others: Tensor) -> Tensor:
    """Root mean squares over pixels between ``(3, h, w)`` and ``(M, 3, h, w)``, in grey levels: ``(M,)``."""
    return 127.5 * (others - one).square().mean((1, 2, 3)).sqrt()


def compare(things: Cutouts, scene: Scene, drawn: Parts, place: int) -> Comparison:
    """One of the drawn things, by its place among them, beside those that training showed on its background."""
    row = things.row[things.numbers(scene.things[0])]  # ()
    shown = shown_on(things, COLOURS.index(scene.background))
    shown = shown[shown != row]
    edges = things.edges[shown]  # (M, 2, 2)
    cut = framed(things.pixels[shown] / 255, edges.mean(2), (edges[..., 1] - edges[..., 0]).amax(1))  # (M, 4, 32, 32)
    shown = shown[nearest_few(drawn.images[place], drawn.background[place], cut)]
    where = (drawn.background[place], drawn.centre[place], drawn.length[place])
    of_asked = cut_out(painted_like(things, row[None], *where)).images
    of_shown = cut_out(painted_like(things, shown, *where)).images
    found = distances(drawn.images[place], of_shown)
    nearest = int(found.argmin())
    (number,), (look,) = (things.row == shown[nearest]).nonzero(as_tuple=True)
    name = things.names[int(number)].names[0] + (f", {tone} skin" if (tone := things.tones[int(look)]) else "")
    to_asked = float(distances(drawn.images[place], of_asked))
    return Comparison(drawn.images[place], of_asked[0], of_shown[nearest], name, to_asked, float(found[nearest]))


@torch.inference_mode()
def reconstruction_error(model: Model, pictures: Tensor) -> float:
    """The median distance of things, in pictures uint8 ``(N, 3, S, S)``, from what the autoencoder makes of them."""
    after = to_pixels(model.space.decode(model.space.encode(from_pixels(pictures))))
    pairs = zip(cut_out(pictures).images, cut_out(after).images, strict=True)
    return float(torch.cat([distances(before, after[None]) for before, after in pairs]).median())


def measure(things: Cutouts, model: Model, kind: Kind, n: int) -> tuple[dict[str, Any], list[Scene], list[Comparison]]:
    """What is told of n prompts of a kind, the prompts, and what came of each."""
    held_out = Scenes(things, SIZE, held_out=True)
    scenes = held_out.prompts(kind, n, seed=0)
    asked = plan(model, Request(prompts=tuple(scene.caption for scene in scenes), steps=15, guidance=3.0))
    drawn = cut_out(draw(replace(asked, many=True)))  # many rows at a time, which is faster
    parts = tqdm(scenes, f"looking for the nearest, {kind}", leave=False, delay=1, disable=None)
    found = [compare(things, scene, drawn, place) for place, scene in enumerate(parts)]
    true = to_pixels(held_out.images(held_out.paint(scenes, torch.Generator().manual_seed(0))))
    to_asked, to_other = (
        torch.tensor([getattr(one, name) for one in found], dtype=torch.float64) for name in ("to_asked", "to_other")
    )
    told = {
        "prompts": n,
        "nearer_to_asked": int((to_asked < to_other).sum()),
        "to_asked": round(float(to_asked.median()), 2),
        "to_nearest_shown": round(float(to_other.median()), 2),
        "autoencoder": round(reconstruction_error(model, true), 2),
    }
    return told, scenes, found


def draw_figure(path: Path, scenes: Sequence[Scene], found: Sequence[Comparison]) -> None:
    """The figure: a column for each prompt."""
    figure, axes = plt.subplots(3, len(found), figsize=(1.22 * len(found), 4.7), squeeze=False)
    for column, scene, one in zip(axes.T, scenes, found, strict=True):
        for axis, image in zip(column, (one.drawn, one.other, one.asked), strict=True):
            style.picture(axis, image)
        column[0].set_title("\n".join(textwrap.wrap(scene.caption, 20, break_on_hyphens=False)), fontsize=6.5)
        column[1].set_xlabel(
            "\n".join([*textwrap.wrap(one.name, 22, break_on_hyphens=False), f"{one.to_other:.1f}"]), fontsize=6.5
        )
        column[2].set_xlabel(f"{one.to_asked:.1f}", fontsize=6.5)
    for axis, text in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(text, fontsize=7)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
        small = Image.open(partial).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(partial, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--font", default="", help="the file of Noto Color Emoji (default: where the system has it)")
    parser.add_argument("--most", type=int, default=max(PROMPTS.values()), help="prompts of each kind, at most")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of the figure and of its figures")
    given = parser.parse_args()
    things, model = emoji_things(find_font(given.font), SIZE), open_model("emoji-sd")
    told: dict[str, Any] = {"model": "emoji-sd", "steps": 15, "guidance": 3.0, "pictures": len(things.pixels)}
    told["kinds"], shown = {}, list[tuple[Scene, Comparison]]()
    for kind, n in PROMPTS.items():
        told["kinds"][kind], scenes, found = measure(things, model, kind, min(n, given.most))
        shown += list(zip(scenes, found, strict=True))[: COLUMNS.get(kind, 0)]
    told["columns"] = [
        {
            "prompt": scene.caption,
            "nearest_shown": one.name,
            "to_asked": round(one.to_asked, 2),
            "to_nearest_shown": round(one.to_other, 2),
        }
        for scene, one in shown
    ]
    draw_figure(given.out / "nearest-emoji.png", *zip(*shown, strict=True))
    (given.out / "nearest-emoji.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
