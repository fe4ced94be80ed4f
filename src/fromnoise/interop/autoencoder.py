"""The config file of diffusers' ``AutoencoderKL``, translated in both directions, and its weights of older releases."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from fromnoise.configs import Count, Counts, Positive, refused
from fromnoise.errors import UserError
from fromnoise.interop.rules import headed, modern_attention_name, read_public, renamed
from fromnoise.nn.autoencoder import AutoencoderConfig

# What means the same in both: our name and diffusers'.
_SAME = {name: name for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block")}
_SAME |= {"scaling_factor": "scaling_factor", "channels": "block_out_channels", "norm_groups": "norm_num_groups"}
_SAME |= {"middle_attention": "mid_block_add_attention"}
_SAME |= {"quant_conv": "use_quant_conv", "post_quant_conv": "use_post_quant_conv"}


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLFile:
    """The keys of a ``config.json`` whose ``_class_name`` is ``AutoencoderKL``, with diffusers' defaults."""

    # what an AutoencoderConfig is made of
    in_channels: Count = 3
    out_channels: Count = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: Counts = (64,)
    layers_per_block: Count = 1
    latent_channels: Count = 4
    norm_num_groups: Count = 32
    sample_size: Count | tuple[Count, Count] = 32
    scaling_factor: Positive = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    # what must be as it is here
    act_fn: Literal["silu", "swish"] = "silu"
    shift_factor: None = None
    latents_mean: None = None
    latents_std: None = None
    # what changes nothing in float32
    force_upcast: bool = True


def autoencoder_config_from_diffusers(content: Mapping[str, Any], origin: str = "config.json") -> AutoencoderConfig:
    """The `AutoencoderConfig` of a ``config.json`` whose ``_class_name`` is ``AutoencoderKL``.

    Raises:
        UserError: the network is another one, or would compute something else; names ``origin`` and the key.
    """
    class_name = content.get("_class_name")
    if class_name != "AutoencoderKL":
        raise refused(origin, "_class_name", class_name, "it should be 'AutoencoderKL'")
    file = read_public(AutoencoderKLFile, content, origin)
    levels = len(file.block_out_channels)
    for key in ("down_block_types", "up_block_types"):
        if len(getattr(file, key)) != levels:
            raise refused(origin, key, getattr(file, key), f"it should have {levels} entries, as block_out_channels")
    size = max(file.sample_size) if isinstance(file.sample_size, tuple) else file.sample_size
    try:
        return AutoencoderConfig(sample_size=size, **{ours: getattr(file, theirs) for ours, theirs in _SAME.items()})
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(f"{origin}: {problem}") from None


def autoencoder_config_to_diffusers(config: AutoencoderConfig) -> dict[str, Any]:
    """The ``config.json`` with which diffusers builds the same network."""
    values = {theirs: getattr(config, ours) for ours, theirs in _SAME.items()}
    for key in ("down_block_types", "up_block_types"):  # one kind of block, at each level
        values[key] = getattr(AutoencoderKLFile, key) * len(config.channels)
    return headed("AutoencoderKL", asdict(AutoencoderKLFile(sample_size=config.sample_size, **values)))


def modern_autoencoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under today's names, its attention's 1x1 convolutions ``(D, C, 1, 1)`` as matrices ``(D, C)``.

    Raises:
        UserError: a weight is there by its old and its new name.
    """
    named = renamed(state, modern_attention_name)
    flat = {key for key, tensor in named.items() if ".attentions." in key and tensor.ndim == 4}
    return {key: tensor.flatten(1) if key in flat else tensor for key, tensor in named.items()}
