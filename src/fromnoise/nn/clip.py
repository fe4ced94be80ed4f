"""CLIP: an image encoder and a text encoder that put a picture and its caption at the same place.

Its state-dict names are those of transformers' ``CLIPModel``; `fromnoise.interop.clip` translates the config file.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.image_encoder import ImageEncoder, ImageEncoderConfig
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig

FIRST_LOGIT_SCALE = 2.6592  # log(1 / 0.07)
MOST_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class ClipConfig:
    """The numbers that make one CLIP differ from another; the defaults are those of ViT-B/32."""

    text: TextEncoderConfig = field(default_factory=lambda: TextEncoderConfig(width=512, mlp_width=2048, heads=8))
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    embedding: int = 512
    """length of the vector in which pictures and texts are compared"""
    eos: int = 49_407
    """id of the token that ends a text"""


def infonce(similarity: Tensor) -> Tensor:
    """How surely a picture is told from its caption, and the caption from its picture, ``(B,)``. Eq. infonce.

    It is ``-log softmax(s)_ii`` over the captions for picture i and over the pictures for caption i, averaged: the
    cross-entropy of naming what belongs to what. It is log B where all similarities are alike, and 0 where all is sure.

    Args:
        similarity: ``(B, B)``, of picture i and caption j, already divided by the temperature; its diagonal has what
            belongs together.

    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3; van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
    """
    captions, pictures = F.log_softmax(similarity, dim=1).diagonal(), F.log_softmax(similarity, dim=0).diagonal()
    return -(captions + pictures) / 2  # (B,)


class Clip(nn.Module):
    """Images ``(B, C, H, W)`` and tokens ``(B, N)`` to vectors ``(B, embedding)`` of length 1 for each, in float32.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 2.
    """

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.text_model = TextEncoder(config.text)
        self.vision_model = ImageEncoder(config.image)
        self.text_projection = nn.Linear(config.text.width, config.embedding, bias=False)
        self.visual_projection = nn.Linear(config.image.width, config.embedding, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_LOGIT_SCALE))

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_images(images), self.embed_texts(tokens)

    def embed_images(self, images: Tensor) -> Tensor:
        return _of_length_one(self.visual_projection(self.vision_model(images)))  # (B, embedding)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """A text is what its last token knows, which has seen all of it: the first token of the id ``config.eos``."""
        vectors = self.text_model(tokens)  # (B, N, width)
        last = (tokens == self.config.eos).int().argmax(1)  # (B,)
        pooled = vectors[torch.arange(len(tokens), device=tokens.device), last]  # (B, width)
        return _of_length_one(self.text_projection(pooled))  # (B, embedding)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines of the angles between vectors of images ``(M, E)`` and of texts ``(N, E)``, over the temperature.

        They are ``(M, N)``, in float32 whatever else is computed in.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.logit_scale.exp() * images.float() @ texts.float().T  # (M, N)


def _of_length_one(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
