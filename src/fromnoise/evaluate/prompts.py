"""Whether drawn scenes show what their prompts say, whether an autoencoder keeps it, and how well CLIP thinks they fit.

Each figure stands beside that of true scenes; those of digits are painted from ones that no model was trained on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fromnoise.data.images import from_pixels, to_pixels
from fromnoise.data.scene_captions import Scene
from fromnoise.data.things import Kind
from fromnoise.diffusion.reconstruction import psnr
from fromnoise.evaluate.likeness import clip_scores
from fromnoise.evaluate.metrics import Measurement
from fromnoise.evaluate.scene_reader import EVERYTHING
from fromnoise.models.space import Space

Reader = Callable[[Tensor, Sequence[Scene]], list[dict[str, bool]]]
"""pictures, uint8 ``(N, 3, S, S)``, and what each should show, to what `scene_reader.matches` says of each"""

Embedder = Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor]]
"""pictures, uint8 ``(N, 3, S, S)``, and captions to their vectors, ``(N, D)`` each"""

KINDS: dict[Kind, str] = {
    "seen": "prompts for one {noun}, in combinations that training had,",
    "unseen": "prompts for one {noun}, in combinations that training never had,",
    "composed": "prompts for one {noun}, with a look that training had with others alone,",
    "two": "prompts for two {noun}s",
}
"""the sets of prompts, as `Scenes.prompts` takes them, in words; things have some of them"""

BATCH = 100


@dataclass(frozen=True)
class Asked:
    """N scenes that a model is asked for, as the model draws them and as they are."""

    scenes: Sequence[Scene]
    true: Tensor  # (N, 3, S, S) uint8
    drawn: Tensor  # (N, 3, S, S) uint8


def measure_prompts(read: Reader, sets: Mapping[Kind, Asked]) -> dict[str, Measurement]:
    """How many pictures have everything right that their prompts name, as ``prompts_KIND`` for each set of scenes.

    The details have each attribute by itself (``attributes``), and the same of true scenes (``true``): what the reader
    misses of them is its own error.
    """
    measured = {}
    for kind, asked in sets.items():
        noun = asked.scenes[0].things[0].noun
        drawn, true = (_fractions(read(pixels, asked.scenes)) for pixels in (asked.drawn, asked.true))
        value, error, count = drawn["together"], _error_of(drawn["together"], len(asked.scenes)), len(asked.scenes)
        parts = ", ".join(f"{name} {part:.2%}" for name, part in drawn["attributes"].items())
        meaning = (
            f"{value:.2%} +- {error:.2%} of {count} {KINDS[kind].format(noun=noun)} have everything right "
            f"that they name ({parts}); "
            f"of true scenes {true['together']:.2%} are read so"
        )
        true["standard_error"] = _error_of(true["together"], count)
        details = {"standard_error": error, "images": count, "attributes": drawn["attributes"], "true": true}
        measured[f"prompts_{kind}"] = Measurement(value, meaning, details)
    return measured


def _fractions(right: Sequence[Mapping[str, bool]]) -> dict[str, Any]:
    """Which part of the pictures is right, together and in each attribute, of those whose captions name it."""
    names = dict.fromkeys(name for picture in right for name in picture if name != EVERYTHING)
    columns = {name: [picture[name] for picture in right if name in picture] for name in names}
    together = sum(picture[EVERYTHING] for picture in right) / len(right)
    return {"together": together, "attributes": {name: sum(found) / len(found) for name, found in columns.items()}}


def measure_sharpness(sets: Mapping[Kind, Asked]) -> dict[str, Measurement]:
    """How sharp the drawn pictures are beside true ones of the same scenes, as ``sharpness``: 1 is as sharp.

    It is the ratio of what their neighbouring pixels differ by, squared. Blur spreads the step of an outline over
    several pixels, whose differences have the same sum and a smaller sum of squares.
    """
    edges = {
        name: torch.cat([_edges(part) for asked in sets.values() for part in getattr(asked, name).split(BATCH)])  # (N,)
        for name in ("drawn", "true")
    }
    (drawn, drawn_error), (true, true_error) = (_mean_and_error(values) for values in edges.values())
    value, count = drawn / true, len(edges["true"])
    error = (drawn_error**2 + (value * true_error) ** 2) ** 0.5 / true
    meaning = (
        f"{value:.3f} +- {error:.3f}, how much the neighbouring pixels of {count} pictures differ, squared, over how "
        "much those of true scenes do"
    )
    return {"sharpness": Measurement(value, meaning, {"standard_error": error, "images": count})}


def _edges(pixels: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels, of uint8 ``(N, C, S, S)``: ``(N,)``."""
    images = from_pixels(pixels)
    return torch.stack([images.diff(dim=axis).square().flatten(1).mean(1) for axis in (2, 3)]).mean(0)


@torch.inference_mode()
def measure_reconstruction(
    read: Reader, space: Space, device: torch.device, pixels: Tensor, scenes: Sequence[Scene]
) -> dict[str, Measurement]:
    """What is left of true scenes after an autoencoder's two ways.

    ``reconstruction``: of the things that are read right in the original, which part is read right in what comes out.
    ``psnr``: the mean of the peak signal-to-noise ratios of the pictures, in dB.

    Args:
        device: where the space is.
        pixels: the scenes, uint8 ``(N, 3, S, S)``.
    """
    parts = tqdm(pixels.split(BATCH), "reconstructing", unit="batch", leave=False, delay=1, disable=None)
    outcome = torch.cat([to_pixels(space.decode(space.encode(from_pixels(part.to(device))))).cpu() for part in parts])
    pairs = zip(read(pixels, scenes), read(outcome, scenes), strict=True)
    noun = scenes[0].things[0].noun
    names = (noun, f"second {noun}")
    kept = [after[name] for before, after in pairs for name in names if before.get(name)]
    value = sum(kept) / max(len(kept), 1)
    error, ratios = _error_of(value, max(len(kept), 1)), psnr(from_pixels(outcome), from_pixels(pixels))
    meaning = (
        f"{value:.2%} +- {error:.2%} of the {len(kept)} {noun}s that are read right in {len(pixels)} true scenes are "
        "read right after encoding and decoding"
    )
    details = {"standard_error": error, "images": len(pixels), f"{noun}s": len(kept)}
    db, spread = _mean_and_error(ratios)
    return {
        "reconstruction": Measurement(value, meaning, details),
        "psnr": Measurement(
            db,
            f"{db:.2f} +- {spread:.2f} dB, the mean ratio of peak signal to noise in {len(pixels)} reconstructions",
            {"standard_error": spread, "images": len(pixels)},
        ),
    }


@torch.inference_mode()
def measure_clip(embed: Embedder, sets: Mapping[Kind, Asked]) -> dict[str, Measurement]:
    """The mean CLIP score of the drawn pictures with their prompts, as ``clip``.

    The details have that of true scenes with the same captions (``true``), and with captions of others of the same
    kind (``shuffled``); and all three by the kind of the prompts.
    """
    found: dict[Kind, dict[str, Tensor]] = {}
    for kind, asked in sets.items():
        captions = [scene.caption for scene in asked.scenes]
        drawn, texts = embed(asked.drawn, captions)  # (N, D) each
        true, _ = embed(asked.true, captions)  # (N, D)
        pairs = {"drawn": (drawn, texts), "true": (true, texts), "shuffled": (true, texts.roll(1, 0))}
        found[kind] = {name: clip_scores(*pair) for name, pair in pairs.items()}  # (N,) each
    together = {name: _mean_and_error(torch.cat([scores[name] for scores in found.values()])) for name in pairs}
    (value, error), (true_value, _), (shuffled, _) = (together[name] for name in ("drawn", "true", "shuffled"))
    count = sum(len(asked.scenes) for asked in sets.values())
    meaning = (
        f"{value:.2f} +- {error:.2f}, the mean CLIP score of {count} pictures with their prompts; of true scenes it is "
        f"{true_value:.2f}, and with captions of others {shuffled:.2f}"
    )
    by_kind = {kind: {name: scores[name].mean().item() for name in scores} for kind, scores in found.items()}
    details = {"standard_error": error, "images": count, "true": true_value, "shuffled": shuffled, "kinds": by_kind}
    return {"clip": Measurement(value, meaning, details)}


def _error_of(fraction: float, count: int) -> float:
    """The standard error of a fraction of so many."""
    return (fraction * (1 - fraction) / count) ** 0.5


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of ``(N,)`` values and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()
