"""The classifier by which the things in drawn scenes are judged."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.data.cutouts import Cutouts, framed
from fromnoise.data.images import to_pixels
from fromnoise.data.resampling import ink_edges
from fromnoise.data.scenes import Scenes, load_things
from fromnoise.errors import UserError
from fromnoise.evaluate.cutout_reader import FILE, classifier_of, read_logits, vocabulary_of
from fromnoise.files import atomic_write
from fromnoise.nn.classifier import Classifier
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import generator_for
from fromnoise.train.task import Batch, device_of, on_device

VALIDATION_BATCHES, VALIDATION_BATCH = 8, 128
JITTER = 0.06  # of a thing's length: how far the part of a picture that is looked at may be off
GAIN = 0.15  # by which each colour may be stronger or weaker


class ReaderTask:
    """Trains a `Classifier` to tell things, and their looks, in parts of true scenes that are blurred at random.

    Raises:
        UserError: the data is not scenes of cut-out things.
    """

    objective = "cross-entropy of the thing, and of its look where it has several"

    def __init__(self, config: TrainingConfig, source: str):
        if source != "scenes" or config.data.things == "digits":
            raise UserError("a reader tells the things of scenes: give data.things, emoji say, and leave --data out")
        things = load_things(config.data)
        assert isinstance(things, Cutouts)
        self.things = things
        self.scenes = Scenes(things, config.data.size, held_out=True)  # all combinations
        self.rows: int | None = None
        self.record = DataRecord.of_captioned(self.scenes)
        self.network = classifier_of(things)

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        return self._batch(len(indices), generator_for(seed, 5, step))

    def _batch(self, count: int, generator: torch.Generator) -> Batch:
        """What scenes are made from, which thing stands first in each and in which look, and how it is looked at."""
        drawn, scenes = self.scenes.draw_scenes(count, generator)
        labels = torch.tensor([self.things.numbers(scene.things[0]) for scene in scenes])  # (B, 2)
        several = (self.things.row >= 0).sum(1)[labels[:, 0]] > 1  # (B,)
        chances = torch.rand(count, 7, generator=generator)
        return {**drawn, "labels": labels, "several": several, "chances": chances}

    @torch.no_grad()
    def _seen(self, batch: Batch) -> Tensor:
        """The parts of the pictures that show the first things ``(B, 3, 32, 32)``, a little off, tinted, blurred."""
        with torch.autocast(batch["labels"].device.type, enabled=False):
            images = self.scenes.images(batch)  # (B, 3, S, S)
            edges = ink_edges(batch["cutouts"][:, 0, 3], 255 / 2)  # (B, 2, 2)
            length = (batch["zoom"][:, 0] * (edges[..., 1] - edges[..., 0])).amax(1)  # (B,)
            off = JITTER * (2 * batch["chances"][:, :3] - 1) * length[:, None]  # (B, 3)
            seen = framed(images, batch["to"][:, 0] + off[:, :2], length + off[:, 2])  # (B, 3, 32, 32)
            blur, gain = batch["chances"][:, 3, None, None, None], batch["chances"][:, 4:, None, None]
            seen = seen + blur * (F.avg_pool2d(F.pad(seen, (1, 1, 1, 1), "replicate"), 3, 1) - seen)
            seen = (seen + 1) * (1 + GAIN * (2 * gain - 1)) - 1
        return seen.clamp(-1, 1).contiguous(memory_format=torch.channels_last)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        logits, (number, look) = network(self._seen(batch)).float(), batch["labels"].T
        count = len(self.things.names)
        of_look = F.cross_entropy(logits[:, count:], look, reduction="none")
        return F.cross_entropy(logits[:, :count], number, reduction="none") + batch["several"] * of_look

    def validate(self, network: Classifier) -> dict[str, Any]:
        """The mean loss, and which fraction of things, and of looks of those that have several, is read right."""
        losses, right, several = [], [], []
        for number in range(VALIDATION_BATCHES):
            batch = on_device(self._batch(VALIDATION_BATCH, generator_for(0, 8, number)), device_of(network))
            losses.append(self.loss(network, batch).cpu())
            found = torch.stack(read_logits(self.things, network(self._seen(batch)).float()), 1)  # (B, 2)
            right.append((found == batch["labels"]).cpu())
            several.append(batch["several"].cpu())
        things, looks = torch.cat(right).double().T  # (N,) each
        looks = looks[torch.cat(several)]
        measured = {"validation_loss": torch.cat(losses).mean().item(), "validation_accuracy": things.mean().item()}
        return measured | ({"look_accuracy": looks.mean().item()} if len(looks) else {})

    @torch.no_grad()
    def preview(self, network: Classifier) -> tuple[Tensor, int]:
        """The first few held-out things that are read wrong."""
        batch = on_device(self._batch(4 * VALIDATION_BATCH, generator_for(0, 8, 0)), device_of(network))
        seen = self._seen(batch)
        wrong = read_logits(self.things, network(seen).float())[0] != batch["labels"][:, 0]
        return to_pixels(seen[wrong][:40]).cpu(), 10

    def export(self, network: Classifier, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Writes the weights in half precision, with what their outputs mean."""
        state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        stored = classifier_of(self.things).eval()
        stored.load_state_dict(state)  # what is measured is what is saved
        with torch.no_grad():
            accuracy = self.validate(stored)["validation_accuracy"]
        with atomic_write(folder / FILE) as partial:
            safetensors.torch.save_file(state, partial, {"things": vocabulary_of(self.things)})
        return {
            "things": f"{len(self.things.names)}, in {len(self.things.pixels)} pictures",
            "things in new scenes read right": f"{100 * accuracy:.2f}%",
        }
