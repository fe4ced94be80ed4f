"""The U-Net: one class, from the digits network to Stable Diffusion's, told apart by the numbers in its config.

Its state-dict names are those of diffusers' ``UNet2DModel``, or ``UNet2DConditionModel`` where it attends to a text;
`unet_config_from_diffusers` and `unet_config_to_diffusers` (in `fromnoise.interop.unet`) translate the config file.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fromnoise.nn.attention import AttentionBlock
from fromnoise.nn.layers import (
    Downsample,
    Embedding,
    GroupNorm,
    ResidualBlock,
    TimestepEmbedding,
    Upsample,
    timestep_embedding,
    zeroed,
)
from fromnoise.nn.transformer import SpatialTransformer


@dataclass(frozen=True)
class UNetConfig:
    """The numbers that make one U-Net differ from another.

    A level is one resolution: level 0 is the image's own, each further one has half the height and width.
    """

    in_channels: int = 1
    """channels of the image"""
    out_channels: int = 1
    """channels of the prediction"""
    sample_size: int = 28
    """height and width the network was trained at, in pixels"""
    channels: tuple[int, ...] = (64, 128, 128)
    """feature channels at each level"""
    attention_levels: tuple[bool, ...] = (False, False, True)
    """at which levels residual blocks are followed by attention, on the way down and up alike"""
    middle_attention: bool = True
    """attention between the two middle blocks"""
    layers_per_block: int = 2
    """residual blocks at each level on the way down (one more on the way up)"""
    head_dim: int | None = None
    """channels of one attention head; none: a single head"""
    context_dim: int | None = None
    """channels of a text's tokens: all attention is by spatial transformers; none: self-attention alone"""
    heads: tuple[int, ...] | None = None
    """a spatial transformer's attention heads at each level; ``head_dim`` is none then"""
    linear_projection: bool = False
    """a spatial transformer begins and ends with linear layers instead of 1x1 convolutions"""
    upcast_attention: bool = False
    """a spatial transformer has its scores in float32, whatever the dtype"""
    num_class_embeds: int | None = None
    """rows of the class table, the null class included; none: unconditional"""
    norm_groups: int = 32
    norm_eps: float = 1e-5
    scale_shift: bool = False
    """the time scales and shifts the second normalisation instead of being added before it"""
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    downsample_padding: int = 1
    """0 pads below and to the right only, as the DDPM release does"""

    def __post_init__(self) -> None:
        levels = len(self.channels)
        for name in ("attention_levels", "heads"):
            given = getattr(self, name)
            if given is not None and len(given) != levels:
                raise ValueError(f"{len(given)} {name} for {levels} levels of channels")
        if self.context_dim is None and (self.heads or self.linear_projection or self.upcast_attention):
            raise ValueError("heads, linear_projection and upcast_attention need a context_dim")
        if self.context_dim is not None and (self.heads is None or self.head_dim or not self.middle_attention):
            raise ValueError("with a context_dim there are heads, no head_dim, and attention in the middle")
        if self.channels[0] // 2 == self.freq_shift:
            raise ValueError(f"channels {self.channels[0]} leave no frequency to tell times by at freq_shift 1")
        for level, width in enumerate(self.channels):
            if width % self.norm_groups:
                raise ValueError(f"channels {width} is not a multiple of norm_groups {self.norm_groups}")
            if self.attention_levels[level] or (self.middle_attention and level == levels - 1):
                name, divisor = ("heads", self.heads[level]) if self.heads else ("head_dim", self.head_dim or width)
                if width % divisor:
                    raise ValueError(f"channels {width} is not a multiple of {name} {divisor}")
        if self.sample_size % 2 ** (levels - 1):
            raise ValueError(f"sample_size {self.sample_size} is not a multiple of {2 ** (levels - 1)}")

    @property
    def size_multiple(self) -> int:
        """Height and width of an input must be multiples of this.

        With padding on both sides any size will do: an odd one is rounded up on the way down and cut on the way up.
        """
        return 1 if self.downsample_padding else 2 ** (len(self.channels) - 1)


class _Blocks(nn.Module):
    """One level's residual blocks, each followed by attention where the level has it."""

    def __init__(self, config: UNetConfig, level: int, widths: list[tuple[int, int]]):
        super().__init__()
        self.attend = config.attention_levels[level]
        self.resnets = nn.ModuleList(_residual(config, width_in, width_out) for width_in, width_out in widths)
        self.attentions = nn.ModuleList(_attention(config, level) for _ in widths if self.attend)

    def layer(self, i: int, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        x = self.resnets[i](x, time)  # (B, C, H, W), C for the channels of this level
        return self.attentions[i](x, context) if self.attend else x


class DownBlock(_Blocks):
    """Residual blocks, then half the resolution (not at the last level). Every result is kept for the way up."""

    def __init__(self, config: UNetConfig, level: int, widths: list[tuple[int, int]], downsample: bool):
        super().__init__(config, level, widths)
        down = [Downsample(widths[-1][1], config.downsample_padding)] if downsample else []
        self.downsamplers = nn.ModuleList(down)

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor], context: Tensor | None) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, context)  # (B, C, H, W), C for the channels of this level
            skips.append(x)
        for downsample in self.downsamplers:  # one, or none
            x = downsample(x)  # (B, C, H/2, W/2)
            skips.append(x)
        return x


class MiddleBlock(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width, level = config.channels[-1], len(config.channels) - 1
        self.resnets = nn.ModuleList(_residual(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_attention(config, level)] if config.middle_attention else [])

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        x = self.resnets[0](x, time)  # (B, C, H, W), as all that follows
        for attention in self.attentions:  # one, or none
            x = attention(x, context)
        return self.resnets[1](x, time)


class UpBlock(_Blocks):
    """Residual blocks that each take one result of the way down beside them, then twice the resolution."""

    def __init__(self, config: UNetConfig, level: int, widths: list[tuple[int, int]], upsample: bool):
        super().__init__(config, level, widths)
        self.upsamplers = nn.ModuleList([Upsample(widths[-1][1])] if upsample else [])

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor], context: Tensor | None) -> Tensor:
        for i in range(len(self.resnets)):
            x = torch.cat([x, skips.pop()], dim=1)  # (B, C below + C of the skip, H, W)
            x = self.layer(i, x, time, context)  # (B, C, H, W)
        for upsample in self.upsamplers:  # one, or none
            x = upsample(x, skips[-1].shape[2:])  # (B, C, 2H, 2W), or an odd size that the way down had here
        return x


class UNet(nn.Module):
    """Predicts noise, image or velocity from a noisy image, or a noisy latent, and its timestep.

    Call it with ``x`` ``(B, in_channels, H, W)``, ``timestep`` ``(B,)`` (the index 0..T-1) and whatever the network is
    told: ``class_labels`` ``(B,)`` of integers, a text as ``context`` ``(B, M, context_dim)``. It returns
    ``(B, out_channels, H, W)``.

    Raises:
        ValueError: labels or a context that are missing or not wanted; a height or width that is no multiple of
            ``config.size_multiple``.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597); Ho et al. 2020 (arXiv 2006.11239), appendix B; Rombach et al.
    2022 (arXiv 2112.10752), section 3.3.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, layers = config.channels, config.layers_per_block
        time_dim = 4 * widths[0]
        last = len(widths) - 1

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim)
        if config.num_class_embeds is not None:
            self.class_embedding = Embedding(config.num_class_embeds, time_dim)  # small beside the time embedding

        skips = [widths[0]]  # the widths of what the way down leaves for the way up, last one on top
        self.down_blocks = nn.ModuleList()
        for level, (width_in, width) in enumerate(pairwise((widths[0], *widths))):
            pairs = [(width_in if i == 0 else width, width) for i in range(layers)]
            self.down_blocks.append(DownBlock(config, level, pairs, downsample=level < last))
            skips += [width] * (layers + (level < last))

        self.mid_block = MiddleBlock(config)

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for level in range(last, -1, -1):
            width = widths[level]
            pairs = [((below if i == 0 else width) + skips.pop(), width) for i in range(layers + 1)]
            self.up_blocks.append(UpBlock(config, level, pairs, upsample=level > 0))
            below = width

        self.conv_norm_out = GroupNorm(config.norm_groups, widths[0], config.norm_eps)
        self.conv_out = zeroed(nn.Conv2d(widths[0], config.out_channels, 3, padding=1))

    def forward(
        self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        self._check(x, context)
        time = self._time(timestep, class_labels, x.dtype)  # (B, 4 * channels[0])
        x = self.conv_in(x)  # (B, channels[0], H, W)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, time, skips, context)  # in the end (B, channels[-1], H / 2**(levels-1), W / 2**(levels-1))
        x = self.mid_block(x, time, context)  # of the same shape
        for block in self.up_blocks:
            x = block(x, time, skips, context)  # in the end (B, channels[0], H, W)
        return self.conv_out(self.conv_norm_out(x, silu=True))  # (B, out_channels, H, W)

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        height, width = x.shape[2:]
        if height % self.config.size_multiple or width % self.config.size_multiple:
            raise ValueError(f"{height}x{width}: height and width must be multiples of {self.config.size_multiple}")
        if (context is None) != (self.config.context_dim is None):
            kind = "a network without text" if context is not None else "a text-conditional network"
            raise ValueError(f"context {'missing' if context is None else 'given'} for {kind}")

    def _time(self, timestep: Tensor, class_labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Time and class as the one vector that reaches every residual block."""
        config = self.config
        sinusoids = timestep_embedding(
            timestep, config.channels[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )  # (B, channels[0])
        time = self.time_embedding(sinusoids.to(dtype))  # (B, 4 * channels[0])
        if (class_labels is None) != (config.num_class_embeds is None):
            kind = "an unconditional" if config.num_class_embeds is None else "a class-conditional"
            raise ValueError(f"class_labels {'missing' if class_labels is None else 'given'} for {kind} network")
        return time if class_labels is None else time + self.class_embedding(class_labels)


def _residual(config: UNetConfig, width_in: int, width_out: int) -> ResidualBlock:
    time_dim, groups, eps = 4 * config.channels[0], config.norm_groups, config.norm_eps
    return ResidualBlock(width_in, width_out, time_dim, groups=groups, eps=eps, scale_shift=config.scale_shift)


def _attention(config: UNetConfig, level: int) -> AttentionBlock | SpatialTransformer:
    width, groups = config.channels[level], config.norm_groups
    if config.context_dim is None or config.heads is None:  # both are none, or neither
        return AttentionBlock(width, head_dim=config.head_dim or width, groups=groups, eps=config.norm_eps)
    return SpatialTransformer(
        width,
        config.context_dim,
        heads=config.heads[level],
        groups=groups,
        linear_projection=config.linear_projection,
        upcast=config.upcast_attention,
    )
