"""The network that reads digits, or things: it judges those that are drawn."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Six convolutions at three resolutions, an average over the image, and one linear layer: 0.29M parameters.

    Call it with images ``(B, 1, 28, 28)`` in [-1, 1]; it returns the logits ``(B, 10)``. `features` is what the linear
    layer sees, ``(B, 128)``. Other widths make as many resolutions, and there may be more channels and outputs.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), channels: int = 1, outputs: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in zip((channels, *widths), widths, strict=False):
            layers += [*_convolution(width_in, width), *_convolution(width, width), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(widths[-1], outputs)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _convolution(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
