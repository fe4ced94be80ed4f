"""Reads which things there are in a picture, by a classifier that ``fromnoise train emoji-classifier`` makes."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.data.cutouts import Cutouts, framed
from fromnoise.data.resampling import ink_edges
from fromnoise.data.things import Lengths
from fromnoise.errors import UserError
from fromnoise.evaluate.scene_reader import Seen
from fromnoise.nn.classifier import Classifier

FILE = "thing-classifier.safetensors"
RUN = Path("runs/emoji-classifier")
"""where the classifier is looked for, after the folder of the model"""
MADE = "fromnoise train emoji-classifier makes one, with the model's --data.things and --data.font"
WIDTHS = (32, 64, 128, 192)


@dataclass(frozen=True)
class CutoutReader:
    """Reads things that are cut out; see `ThingReader`."""

    things: Cutouts
    classifier: Classifier  # whose outputs are the things, and then the tones

    @property
    def lengths(self) -> Lengths:
        return self.things.lengths

    @property
    def longest(self) -> dict[str, float]:
        most = self.lengths.large[1] + 2
        return {"rows": most, "columns": most}

    def look(self, images: Tensor, background: Tensor, masks: Tensor) -> Seen:
        edges = ink_edges(masks.float(), 0.5)  # (T, 2, 2)
        length = (edges[..., 1] - edges[..., 0]).amax(1)  # (T,)
        logits = self.classifier(framed(images / 127.5 - 1, edges.mean(2), length))
        numbers, looks = (found.tolist() for found in read_logits(self.things, logits))
        return Seen(edges, length, lambda part, size: self.things.thing(numbers[part], looks[part], size))


def read_logits(things: Cutouts, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest things, and of the looks that each has the likeliest: ``(T,)`` each, from ``(T, K + L)``."""
    count = len(things.names)
    numbers = logits[:, :count].argmax(1)  # (T,)
    there = things.row.to(logits.device)[numbers] >= 0  # (T, L)
    return numbers, logits[:, count:].masked_fill(~there, -torch.inf).argmax(1)


def classifier_of(things: Cutouts) -> Classifier:
    """An untrained network that can tell these things."""
    return Classifier(WIDTHS, channels=3, outputs=len(things.names) + len(things.tones))


def vocabulary_of(things: Cutouts) -> str:
    """What the outputs of the classifier mean, as JSON."""
    return json.dumps([[name.names[0] for name in things.names], things.tones])


def open_cutout_reader(things: Cutouts, folder: Path) -> CutoutReader:
    """The reader of these things, with the classifier from a model's folder or from the run that makes it.

    Raises:
        UserError: it is not there, is damaged, or knows other things.
    """
    found = [place / FILE for place in (folder, RUN) if (place / FILE).is_file()]
    if not found:
        raise UserError(f"things are read by a classifier, and there is none in {RUN}, and no {folder / FILE}: {MADE}")
    classifier = classifier_of(things)
    try:
        with safetensors.safe_open(found[0], "pt") as file:
            known = (file.metadata() or {})["things"]
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        if known != vocabulary_of(things):
            raise UserError(f"{found[0]} knows other things than the model's scenes: {MADE}")
        classifier.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        raise UserError(f"{found[0]} holds no classifier: {MADE}") from None
    return CutoutReader(things, classifier.eval().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
