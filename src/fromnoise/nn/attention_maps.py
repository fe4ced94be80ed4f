"""Where each word of a text is looked at while a picture is drawn: the weights of a U-Net's cross-attention."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fromnoise.nn.attention import CrossAttention
from fromnoise.nn.transformer import SpatialTransformer


@torch.no_grad()
def attention_weights(layer: CrossAttention, tokens: Tensor, context: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(head_dim))`` of a layer, averaged over its heads: for each token, shares that sum to 1.

    Shapes: tokens ``(B, N, channels)`` and context ``(B, M, context_dim)`` to ``(B, N, M)``, float32.
    """
    projected = layer.to_q(tokens).float(), layer.to_k(context).float()  # (B, N, C), (B, M, C)
    q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in projected)  # (B, heads, N or M, head_dim)
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-2, -1)  # (B, heads, N, M)
    return torch.softmax(scores, dim=-1).mean(1)  # (B, N, M)


@dataclass
class AttentionMaps:
    """What `recorded` has seen.

    Attributes:
        calls: for each call of the U-Net, by the name of the layer, the share of each token at each place of the
            layer's feature map, ``(B, M, h, w)``, float16 on the CPU. Over M it sums to 1.
    """

    calls: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, from the first to the last: ``down_blocks.0.attentions.0`` and so on."""
        return list(self.calls[0]) if self.calls else []

    def by_token(
        self, size: tuple[int, int], *, rows: int | None = None, layers: Sequence[str] | None = None
    ) -> Tensor:
        """The maps at one size ``(H, W)``, averaged over layers: ``(steps, B, M, H, W)``, float32.

        A step is one question to the denoiser. Heun's method asks twice. With guidance, the first half of the rows are
        those without the condition.

        Args:
            size: that of the latents is fine enough; at the picture's own, all tokens and steps would take gigabytes.
            rows: how many rows each question has, where the U-Net is shown fewer of them at a time, or is shown more to
                fill it up; none: as many as each call of the U-Net.
            layers: those that are averaged; none: all.

        Raises:
            ValueError: nothing was recorded, or the questions had different numbers of rows.
        """
        if not self.layers:
            raise ValueError("no attention was recorded: the U-Net was not called, or does not look at a text")
        merged = [_resized([call[name] for name in layers or self.layers], size) for call in self.calls]
        shown = len(merged[0])
        rows = rows or shown
        calls = -(-rows // shown)  # of each question
        if len(merged) % calls or any(len(call) != shown for call in merged):
            raise ValueError(f"{len(merged)} calls of the U-Net do not make questions of {rows} rows")
        return torch.stack([torch.cat(merged[i : i + calls])[:rows] for i in range(0, len(merged), calls)])


def _resized(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The mean of maps ``(B, M, h, w)`` of different sizes, ``(B, M, H, W)``."""
    return torch.stack([F.interpolate(x.float(), size=size, mode="bilinear") for x in maps]).mean(0)


def by_word(maps: Tensor, words: Sequence[tuple[str, int, int]]) -> Tensor:
    """The maps of words, each the sum of its tokens': ``(..., M, H, W)`` to ``(..., words, H, W)``.

    Args:
        words: with the places of its first token and of the one after its last (`interop.tokenizer.Tokens.words`).
    """
    belongs = maps.new_zeros(len(words), maps.shape[-3])  # (words, M)
    for i, (_, first, end) in enumerate(words):
        belongs[i, first:end] = 1
    return torch.einsum("wm,...mij->...wij", belongs, maps)


@contextmanager
def recorded(unet: nn.Module) -> Iterator[AttentionMaps]:
    """Records the attention to the text while the block runs. What the U-Net computes keeps its bits.

    Nothing is in its way before and after: hooks recompute the weights from what each layer is given, at the cost of a
    few more matrix products, and are gone when the block ends, by an error, too. For one picture of 512x512, Stable
    Diffusion's 16 layers take 4 MB a row and step.

    Args:
        unet: the one that is called, not one that a denoiser has made a copy of for another device or precision.
    """
    maps = AttentionMaps()
    hooks = [unet.register_forward_pre_hook(lambda *_: maps.calls.append({}))]
    for name, module in unet.named_modules():
        if isinstance(module, SpatialTransformer):
            hooks += _watch(name, module, maps)
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _watch(name: str, transformer: SpatialTransformer, maps: AttentionMaps) -> list[RemovableHandle]:
    """Has a layer enter its maps in the current call."""
    sizes: list[torch.Size] = []  # of the feature map that the layer is at work on

    def enter(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        sizes[:] = [inputs[0].shape[2:]]

    def look(module: CrossAttention, inputs: tuple[Tensor, Tensor]) -> None:
        shares = attention_weights(module, *inputs).mT.unflatten(2, sizes[0])  # (B, M, h, w)
        maps.calls[-1][name] = shares.to("cpu", torch.float16)

    attention = transformer.get_submodule("transformer_blocks.0.attn2")  # there is one block
    return [transformer.register_forward_pre_hook(enter), attention.register_forward_pre_hook(look)]
