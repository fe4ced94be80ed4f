"""The vision transformer of CLIP: an image to one vector.

Its state-dict names are those of transformers' ``CLIPVisionModel``; `fromnoise.interop.clip` translates the config.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise.nn.layers import Embedding
from fromnoise.nn.text_encoder import Activation, Layer


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The numbers that make one image encoder differ from another; the defaults are those of CLIP's ViT-B/32."""

    channels: int = 3
    """of the images"""
    size: int = 224
    """their height and width, in pixels"""
    patch_size: int = 32
    """height and width of a patch, in pixels"""
    width: int = 768
    """length of a patch's vector"""
    mlp_width: int = 3072
    layers: int = 12
    heads: int = 12
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.size < self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} is larger than the images, which are of size {self.size}")

    @property
    def patches(self) -> int:
        """How many patches an image has; what is left over at its lower and right edges is in none."""
        return (self.size // self.patch_size) ** 2


class PatchEmbeddings(nn.Module):
    """A vector for each patch of an image and, before them, one that is learned; each with one for its place added.

    Shapes: ``(B, channels, size, size)`` to ``(B, 1 + patches, C)``.
    """

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        width, patch = config.width, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.channels, width, patch, stride=patch, bias=False)
        self.position_embedding = Embedding(1 + config.patches, width)
        if not self.class_embedding.is_meta:
            nn.init.normal_(self.class_embedding, std=width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, patches, C)
        first = self.class_embedding.expand(len(images), 1, -1)  # (B, 1, C)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight  # (B, 1 + patches, C)


class ImageEncoder(nn.Module):
    """One vector ``(B, width)`` for each image ``(B, channels, size, size)``, in [-1, 1] or as it was trained.

    The learned vector before the patches sees all of them in each layer, and its last state is normalised.

    Source: Dosovitskiy et al. 2020 (arXiv 2010.11929), section 3.1; Radford et al. 2021 (arXiv 2103.00020),
    section 2.4.
    """

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width, config.norm_eps)  # transformers' spelling
        layers = (Layer(config, causal=False) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*layers)})
        self.post_layernorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pre_layrnorm(self.embeddings(images))  # (B, 1 + patches, width)
        return self.post_layernorm(self.encoder["layers"](x)[:, 0])  # (B, width)
