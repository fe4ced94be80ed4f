"""The text transformer of CLIP: tokens to one vector each, which is what Stable Diffusion is told.

Its state-dict names are those of transformers' ``CLIPTextModel``; `fromnoise.interop.text_encoder` translates the
config file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.nn.attention import attention
from fromnoise.nn.layers import Embedding

Activation = Literal["quick_gelu", "gelu"]


class LayerConfig(Protocol):
    """The numbers of a transformer layer, which CLIP's text encoder and its image encoder share."""

    @property
    def width(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def norm_eps(self) -> float: ...


@dataclass(frozen=True)
class TextEncoderConfig:
    """The numbers that make one text encoder differ from another; the defaults are those of Stable Diffusion 1."""

    vocabulary: int = 49_408
    """number of tokens that there are"""
    width: int = 768
    """length of a token's vector"""
    mlp_width: int = 3072
    layers: int = 12
    heads: int = 12
    max_length: int = 77
    """tokens of the longest text, with those that begin and end it"""
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention in which a token sees itself and those before it: its weight ``A[i, j]`` is 0 for j > i. Eq. causal.

    Shapes: query, key, value and result ``(..., N, head_dim)``.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.3; Radford et al. 2021 (arXiv 2103.00020), section 2.4.
    """
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (..., N, N)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)  # (..., N, N), where j > i
    return torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1) @ value  # (..., N, head_dim)


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``: an approximation of GELU with which the first CLIP was trained."""
    return x * torch.sigmoid(1.702 * x)


class Embeddings(nn.Module):
    """A learned vector for each token and one for its place, added: ``(B, N)`` to ``(B, N, C)``."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.token_embedding = Embedding(config.vocabulary, config.width)
        self.position_embedding = Embedding(config.max_length, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)  # (N,)
        return self.token_embedding(tokens) + self.position_embedding(places)  # (B, N, C)


class SelfAttention(nn.Module):
    """Attention over the tokens ``(B, N, C)``, with ``heads`` heads of C / heads channels.

    Args:
        causal: whether a token sees itself and those before it alone, and not those after it.
    """

    def __init__(self, config: LayerConfig, causal: bool = True):
        super().__init__()
        self.heads, self.attention = config.heads, causal_attention if causal else attention
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))  # as _heads
        return self.out_proj(self.attention(q, k, v).transpose(1, 2).flatten(2))  # (B, N, C)

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, heads, N, head_dim)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, head_dim)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, for each token by itself."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = quick_gelu if config.activation == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))  # (B, N, C)


class Layer(nn.Module):
    """Attention between the tokens, then a feed-forward network on each; both normalise first and are added."""

    def __init__(self, config: LayerConfig, causal: bool = True):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.self_attn = SelfAttention(config, causal)
        self.layer_norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))  # (B, N, C)
        return x + self.mlp(self.layer_norm2(x))  # (B, N, C)


class TextEncoder(nn.Module):
    """The vectors ``(B, N, width)`` of tokens ``(B, N)``, N at most ``config.max_length``.

    They are those of the last layer, after the final normalisation. Each vector knows its token and those before it.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4; Rombach et al. 2022 (arXiv 2112.10752), section 3.3.
    """

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*(Layer(config) for _ in range(config.layers)))})
        self.final_layer_norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)  # (B, N, width)
        return self.final_layer_norm(self.encoder["layers"](x))  # (B, N, width)
