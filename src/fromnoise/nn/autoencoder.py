"""The KL autoencoder of latent diffusion: images to a Gaussian over latents, and latents back to images.

Its state-dict names are those of diffusers' ``AutoencoderKL``; `fromnoise.interop.autoencoder` translates the config.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from fromnoise.nn.attention import AttentionBlock
from fromnoise.nn.layers import Downsample, GroupNorm, ResidualBlock, Upsample

NORM_EPS = 1e-6


@dataclass(frozen=True)
class AutoencoderConfig:
    """The numbers that make one autoencoder differ from another; the defaults are those of Stable Diffusion 1.

    A level is one resolution: level 0 is the image's own, each further one has half the height and width, and the last
    is that of the latents.
    """

    in_channels: int = 3
    """channels of the image that is encoded"""
    out_channels: int = 3
    """channels of the image that is decoded"""
    latent_channels: int = 4
    sample_size: int = 512
    """height and width of the images it was trained on, in pixels"""
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """feature channels at each level"""
    layers_per_block: int = 2
    """residual blocks at each level of the encoder (the decoder has one more)"""
    middle_attention: bool = True
    """self-attention at the resolution of the latents, in encoder and decoder alike"""
    quant_conv: bool = True
    """a 1x1 convolution after the encoder"""
    post_quant_conv: bool = True
    """a 1x1 convolution before the decoder"""
    norm_groups: int = 32
    scaling_factor: float = 0.18215
    """what the latents are multiplied with before a U-Net sees them"""

    def __post_init__(self) -> None:
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(f"channels {width} is not a multiple of norm_groups {self.norm_groups}")

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this, and those of its latents are that much smaller."""
        return 2 ** (len(self.channels) - 1)


class EncoderBlock(nn.Module):
    """Residual blocks, then half the resolution (not at the last level)."""

    def __init__(self, config: AutoencoderConfig, width_in: int, width: int, downsample: bool):
        super().__init__()
        self.resnets = _residuals(config, width_in, width, config.layers_per_block)
        self.downsamplers = nn.Sequential(*[Downsample(width, padding=0)] * downsample)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsamplers(self.resnets(x))  # (B, C, H/2, W/2), or (B, C, H, W) at the last level


class MiddleBlock(nn.Module):
    """Two residual blocks at the resolution of the latents, with attention of a single head between them."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        width = config.channels[-1]
        attention = AttentionBlock(width, head_dim=width, groups=config.norm_groups, eps=NORM_EPS)
        self.resnets = _residuals(config, width, width, 2)
        self.attentions = nn.Sequential(*[attention] * config.middle_attention)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions(self.resnets[0](x)))  # (B, C, H, W)


class DecoderBlock(nn.Module):
    """Residual blocks, then twice the resolution (not at level 0)."""

    def __init__(self, config: AutoencoderConfig, width_in: int, width: int, upsample: bool):
        super().__init__()
        self.resnets = _residuals(config, width_in, width, config.layers_per_block + 1)
        self.upsamplers = nn.Sequential(*[Upsample(width)] * upsample)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsamplers(self.resnets(x))  # (B, C, 2H, 2W), or (B, C, H, W) at level 0


class Encoder(nn.Module):
    """An image ``(B, in_channels, H, W)`` to ``(B, 2 * latent_channels, h, w)``, where h is H / size_multiple."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.Sequential(
            *(
                EncoderBlock(config, width_in, width, downsample=level < last)
                for level, (width_in, width) in enumerate(pairwise((widths[0], *widths)))
            )
        )
        self.mid_block = MiddleBlock(config)
        self.conv_norm_out = GroupNorm(config.norm_groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)  # (B, channels[0], H, W)
        x = self.mid_block(self.down_blocks(x))  # (B, channels[-1], h, w)
        return self.conv_out(self.conv_norm_out(x, silu=True))  # (B, 2 * latent_channels, h, w)


class Decoder(nn.Module):
    """Latents ``(B, latent_channels, h, w)`` to an image ``(B, out_channels, H, W)``."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels[::-1]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(config)
        self.up_blocks = nn.Sequential(
            *(
                DecoderBlock(config, width_in, width, upsample=i < last)
                for i, (width_in, width) in enumerate(pairwise((widths[0], *widths)))
            )
        )
        self.conv_norm_out = GroupNorm(config.norm_groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))  # (B, channels[-1], h, w)
        x = self.up_blocks(x)  # (B, channels[0], H, W)
        return self.conv_out(self.conv_norm_out(x, silu=True))  # (B, out_channels, H, W)


class Autoencoder(nn.Module):
    """An encoder to a Gaussian over latents, and a decoder from a latent.

    Latents are as the network has them: whoever gives them to a U-Net multiplies with ``config.scaling_factor``.

    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G; Esser et al. 2021 (arXiv 2012.09841).
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(z, z, 1) if config.post_quant_conv else None

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction of images from a draw of their latents, and the mean and log-variance of these.

        This is what is trained: the noise ``(B, latent_channels, h, w)``, standard normal, teaches the decoder that
        latents nearby mean nearly the same picture. Whoever uses an autoencoder takes the mean.

        Returns:
            ``(B, out_channels, H, W)``, not clipped, and two ``(B, latent_channels, h, w)``.

        Source: Kingma and Welling 2013 (arXiv 1312.6114), section 2.4.
        """
        mean, log_variance = self.encode(images)  # (B, latent_channels, h, w) each
        latents = mean + (log_variance / 2).exp() * noise  # (B, latent_channels, h, w)
        return self.decode(latents), mean, log_variance

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, ``(B, latent_channels, h, w)`` each; the latter within [-30, 20].

        The images ``(B, in_channels, H, W)`` are in [-1, 1], and H and W multiples of ``config.size_multiple``.
        """
        moments = self.encoder(images)  # (B, 2 * latent_channels, h, w)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        mean, log_variance = moments.chunk(2, dim=1)  # (B, latent_channels, h, w) each
        return mean, log_variance.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """The images ``(B, out_channels, H, W)`` of latents ``(B, latent_channels, h, w)``, not clipped to [-1, 1]."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))


def _residuals(config: AutoencoderConfig, width_in: int, width: int, count: int) -> nn.Sequential:
    """Residual blocks without a time; the first takes ``width_in`` channels, all others ``width``."""
    widths_in = [width_in, *[width] * (count - 1)]
    return nn.Sequential(*(ResidualBlock(w, width, groups=config.norm_groups, eps=NORM_EPS) for w in widths_in))
