"""The classifier by which drawn digits are judged."""

import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.data.images import from_pixels
from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.nn.classifier import Classifier
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import generator_for
from fromnoise.train.task import Batch, device_of, load_splits, on_device

FILE = "classifier.safetensors"


class ClassifierTask:
    """Trains a `Classifier` on labelled digits, which are shifted, turned and stretched a little at random.

    Raises:
        UserError: the data is not grey digits.
    """

    objective = "cross-entropy"

    def __init__(self, config: TrainingConfig, source: str):
        self.batch_size = config.train.batch_size
        splits = load_splits(config.data, source, labelled=True)
        if splits[0].pixels.shape[1] != 1 or not set(splits[0].class_names or ()) <= set("0123456789"):
            raise UserError(f"the classifier reads grey digits, 0 to 9, and {source} holds others: give other data")
        self.images, self.held_out = (images.with_classes("0123456789") for images in splits)
        assert self.held_out.labels is not None
        self.rows: int | None = len(self.images)
        self.record = DataRecord.of(self.images)
        self.digits = self.held_out.labels
        self.network = Classifier()

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        images, labels = self.images.batch(indices)
        assert labels is not None
        return {"images": _distorted(images, generator_for(seed, 4, step)), "labels": labels}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(network(batch["images"]).float(), batch["labels"], reduction="none")

    def validate(self, network: Classifier) -> dict[str, Any]:
        """The mean loss on all held-out images, and which fraction of them is read right."""
        logits = self._logits(network)
        accuracy = (logits.argmax(1) == self.digits).double().mean().item()
        return {"validation_loss": F.cross_entropy(logits, self.digits).item(), "validation_accuracy": accuracy}

    def preview(self, network: Classifier) -> tuple[Tensor, int]:
        """The first few of the held-out images that are read wrong."""
        return self.held_out.pixels[self._logits(network).argmax(1) != self.digits][:40], 10

    def export(self, network: Classifier, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Writes the weights in half precision, with the fraction of the held-out images that they read right."""
        state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        stored = Classifier().eval()
        stored.load_state_dict(state)  # what is measured is what is saved
        accuracy = self.validate(stored)["validation_accuracy"]
        with atomic_write(folder / FILE) as partial:
            safetensors.torch.save_file(state, partial, {"test_accuracy": f"{accuracy:.4f}"})
        return {"held-out images read right": f"{100 * accuracy:.2f}%"}

    @torch.no_grad()
    def _logits(self, network: Classifier) -> Tensor:
        """What a network makes of the held-out images, ``(N, 10)``."""
        parts = ({"images": from_pixels(part)} for part in self.held_out.pixels.split(self.batch_size))
        return torch.cat([network(on_device(part, device_of(network))["images"]).float().cpu() for part in parts])


def _distorted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images turned by up to 12 degrees, stretched by up to a tenth and shifted by up to a 14th; black outside."""

    def between(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    angle, wide, high = between(math.radians(12)), 1 + between(0.1), 1 + between(0.1)
    across = torch.stack([angle.cos() * wide, -angle.sin(), between(4 / 28)], 1)
    down = torch.stack([angle.sin(), angle.cos() * high, between(4 / 28)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1
