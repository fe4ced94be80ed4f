"""The classifier that judges drawn digits: its answer is the accuracy's, its features are the Fréchet distance's.

It ships, trained by ``python -m fromnoise.evaluate.classifier`` on MNIST's 60,000 training images.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import tyro
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from fromnoise.data.images import Images, from_pixels, load_images
from fromnoise.devices import computes_in_bf16
from fromnoise.errors import UserError
from fromnoise.files import written_whole

WEIGHTS = Path(__file__).with_name("mnist-classifier.safetensors")
"""the weights that ship"""

SHAPE = (1, 28, 28)
BATCH = 250


class Classifier(nn.Module):
    """Six convolutions at three resolutions, an average over the image, and one linear layer: 0.29M parameters.

    Call it with images ``(B, 1, 28, 28)`` in [-1, 1]; it returns the logits ``(B, 10)``. `features` is what the linear
    layer sees, ``(B, 128)``.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in zip((1, *widths), widths, strict=False):
            layers += [*_convolution(width_in, width), *_convolution(width, width), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(widths[-1], 10)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _convolution(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


@dataclass(frozen=True)
class Judgement:
    """What the classifier makes of N images.

    Attributes:
        digits: ``(N,)`` int64, as what each image is read.
        features: ``(N, 128)`` float64, for Fréchet distances.
    """

    digits: Tensor
    features: Tensor


@torch.inference_mode()
def judge(classifier: Classifier, pixels: Tensor) -> Judgement:
    """Reads images, uint8 ``(N, 1, 28, 28)``."""
    features = torch.cat([classifier.features(from_pixels(part)) for part in pixels.split(BATCH)])
    return Judgement(classifier.head(features).argmax(1), features.double())


def open_classifier(path: Path = WEIGHTS) -> tuple[Classifier, float]:
    """The trained classifier, and which fraction of MNIST's test images it reads right.

    Raises:
        UserError: the file is missing or not this classifier's.
    """
    classifier = Classifier()
    try:
        with safetensors.safe_open(path, "pt") as file:
            accuracy = float((file.metadata() or {})["test_accuracy"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        classifier.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        raise UserError(f"{path} holds no classifier: python -m fromnoise.evaluate.classifier trains one") from None
    return classifier.eval().to(memory_format=torch.channels_last), accuracy  # type: ignore[call-overload]


def train_classifier(images: Images, *, epochs: int, seed: int = 0, bf16: bool = False) -> Classifier:
    """Trains a classifier on labelled images, shifted, turned and stretched a little at random.

    Args:
        bf16: convolve in bf16, which is twice as fast on a processor with instructions for it.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier: Classifier = Classifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    with tqdm(total=steps, unit="step", disable=None) as bar:
        for _ in range(epochs):
            for part in torch.randperm(len(images), generator=generator).split(BATCH):
                x, labels = images.batch(part)
                assert labels is not None
                x = _disturbed(x, generator).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = F.cross_entropy(classifier(x).float(), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return classifier.eval()


def _disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images turned by up to 12 degrees, stretched by up to a tenth and shifted by up to 2 pixels; black outside."""

    def between(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    angle, wide, high = between(math.radians(12)), 1 + between(0.1), 1 + between(0.1)
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * wide, -angle.sin(), between(4 / 28)], 1),
            torch.stack([angle.sin(), angle.cos() * high, between(4 / 28)], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


@dataclass(frozen=True)
class Options:
    """Trains the classifier by which digits are judged, on MNIST."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|DIR")] = "ylecun/mnist"
    """the hub id, or where a local copy of MNIST lies"""
    out: Path = Path("mnist-classifier.safetensors")
    """where the weights go"""
    epochs: int = 12
    """how often every image is seen"""
    seed: int = 0


def main(options: Options) -> None:
    train, test = (load_images(options.data, split, channels=1, size=28, labelled=True) for split in ("train", "test"))
    classifier = train_classifier(
        train, epochs=options.epochs, seed=options.seed, bf16=computes_in_bf16(torch.device("cpu"))
    )
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in classifier.state_dict().items()
    }
    classifier.load_state_dict(state)  # what is measured is what is saved
    assert test.labels is not None
    accuracy = (judge(classifier, test.pixels).digits == test.labels).double().mean().item()
    state = {key: value.contiguous() for key, value in state.items()}
    metadata = {"test_accuracy": f"{accuracy:.4f}", "epochs": str(options.epochs), "seed": str(options.seed)}
    with written_whole(options.out) as partial:
        safetensors.torch.save_file(state, partial, metadata)
    print(f"{100 * accuracy:.2f} % of {len(test)} test images are read right: {options.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except UserError as error:
        sys.exit(f"fromnoise: {error}")
