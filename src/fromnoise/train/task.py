"""What the trainer knows of what it trains, and what several tasks share."""

from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fromnoise.data.images import Images, load_images
from fromnoise.terminal import warn
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import DataConfig

Batch = dict[str, Tensor]  # what a loss is computed from, by name, each tensor with the batch first
Network = TypeVar("Network", bound=nn.Module)


class Task(Protocol[Network]):
    """A network to be trained, the data and the loss."""

    network: Network  # what is trained, on the CPU until the trainer moves it
    rows: int | None  # how many images are trained on; none: they are drawn without end
    record: DataRecord  # the checksums by which a run recognises its data
    objective: str  # what the loss is, in the words of the model card

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        """The whole batch of a step, on the CPU: the rows at ``indices`` ``(B,)`` and all that is drawn for them.

        What is drawn without end has the numbers ``step * B`` to ``(step + 1) * B - 1``.

        It depends on nothing but the arguments, so that a resumed run and each of several processes draw the same.
        """

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of each row, ``(B,)``, by `network` or a wrapper of it."""

    def validate(self, network: Network) -> dict[str, Any]:
        """What to log of a network on held-out data: ``validation_loss`` and more, from the same draws each time."""

    def preview(self, network: Network) -> tuple[Tensor, int]:
        """Pictures of what a network can do, uint8 ``(n, C, H, W)``, and in how many columns to show them."""

    def export(self, network: Network, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Writes a network as it will be used, in a precision; returns what the model card says of it, by name."""


def load_splits(config: DataConfig, source: str, *, labelled: bool) -> tuple[Images, Images]:
    """The images to train on and those held out.

    Raises:
        UserError: they cannot be read, or are not what the config says.
    """
    names = ("channels", "size", "image_column", "label_column", "configuration", "resize", "background")
    reading = {name: getattr(config, name) for name in names}
    train, test = (load_images(source, split, labelled=labelled, **reading) for split in ("train", "test"))
    if train.labels is not None and train.class_names is not None:
        there = set(train.labels.tolist())
        if missing := [name for number, name in enumerate(train.class_names) if number not in there]:
            more = f", and {len(missing) - 1} more classes have none" if missing[1:] else ""
            warn(f"{source}: class {missing[0]} has no image to train on{more}")
    return train, test


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch moved to a device, its images channels-last."""
    moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    last = torch.channels_last
    return {name: v.contiguous(memory_format=last) if v.ndim == 4 else v for name, v in moved.items()}


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device
