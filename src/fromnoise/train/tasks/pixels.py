"""Images, with or without their labels, as what a diffusion model is trained on."""

from pathlib import Path

import torch
from torch import Tensor

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.models import Model
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import Draws
from fromnoise.train.task import Batch, device_of, load_splits


def unet_config(config: TrainingConfig, num_classes: int | None) -> UNetConfig:
    """The U-Net of a preset, for data with so many classes (none: unconditional).

    Raises:
        UserError: numbers that do not fit together.
    """
    shared = vars(config.network) | {"head_dim": config.network.head_dim or None}
    rows, colours = None if num_classes is None else num_classes + 1, config.data.channels
    try:
        return UNetConfig(colours, colours, config.data.size, num_class_embeds=rows, **shared)
    except ValueError as error:
        raise UserError(f"network: {error}") from error


class LabelledImages:
    """Images that the network sees as they are, see `Examples`; of data with classes it is told the label.

    Raises:
        UserError: a network or data that does not fit.
    """

    def __init__(self, config: TrainingConfig, source: str):
        unet_config(config, None)  # refuses, before the data is read, what does not fit together
        self.config = config
        self.images, self.held_out = load_splits(config.data, source, labelled=config.data.conditional)
        self.rows: int | None = len(self.images)
        self.held_out_rows: int | None = len(self.held_out)
        self.record = DataRecord.of(self.images)
        self.class_names = self.images.class_names
        self.network = UNet(unet_config(config, None if self.class_names is None else len(self.class_names)))
        self.shape: tuple[int, int, int] = (config.data.channels, config.data.size, config.data.size)

    def batch(self, indices: Tensor, seed: int, step: int, draws: Draws) -> Batch:
        """Some images are mirrored, and some labels dropped, as the preset says."""
        images, labels = self.images.batch(indices)
        if self.config.data.flip:
            images = torch.where(draws.flip[:, None, None, None], images.flip(-1), images)
        if labels is not None and self.class_names is not None:
            labels = torch.where(draws.drop < self.config.train.class_dropout, len(self.class_names), labels)
        return _batch(images, labels)

    def held_out_batch(self, indices: Tensor, number: int) -> Batch:
        return _batch(*self.held_out.batch(indices))

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def model(self, network: UNet, noise: NoiseConfig) -> Model:
        return Model.of_pixels(network, noise, self.class_names)

    def preview(self, model: Model) -> tuple[Tensor, int]:
        """A few images, of each class where there are some."""
        columns = 10 if self.class_names is None else min(10, len(self.class_names))
        classes = None if self.class_names is None else tuple(range(columns))
        request = Request(n=4 * columns, classes=classes, device=device_of(model.unet).type)
        return generate(model, request), columns

    def export(self, folder: Path) -> dict[str, str]:
        facts = {} if self.class_names is None else {"classes": f"{', '.join(self.class_names)}, and none"}
        return facts | ({"changed to fit": self.images.changes} if self.images.changes else {})


def _batch(images: Tensor, labels: Tensor | None) -> Batch:
    return {"x0": images} | ({} if labels is None else {"class_labels": labels})
