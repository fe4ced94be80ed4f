"""The config file of diffusers' ``UNet2DModel``, translated in both directions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from fromnoise.configs import Count, refused
from fromnoise.errors import UserError
from fromnoise.interop.rules import headed, read_public
from fromnoise.nn.unet import UNetConfig

Size = Annotated[int, Gt(0), Le(8192)]  # pixels
Width = Annotated[int, Gt(0), Le(2**16)]  # channels
DownBlock = Literal["DownBlock2D", "AttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D"]
_DOWN_BLOCKS: tuple[DownBlock, DownBlock] = ("DownBlock2D", "AttnDownBlock2D")  # without and with attention
_UP_BLOCKS: tuple[UpBlock, UpBlock] = ("UpBlock2D", "AttnUpBlock2D")

# What means the same in both: our name and diffusers'.
_SAME = {name: name for name in ("in_channels", "out_channels", "layers_per_block", "num_class_embeds", "norm_eps")}
_SAME |= {name: name for name in ("flip_sin_to_cos", "freq_shift", "downsample_padding")}
_SAME |= {"channels": "block_out_channels", "middle_attention": "add_attention"}
_SAME |= {"head_dim": "attention_head_dim", "norm_groups": "norm_num_groups"}

OF_AVERAGES = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")


@dataclass(frozen=True, kw_only=True)
class UNet2DModelFile:
    """The keys of a ``config.json`` whose ``_class_name`` is ``UNet2DModel``, with diffusers' defaults."""

    # what a UNetConfig is made of
    sample_size: Size | tuple[Size, Size] | None = None
    in_channels: Width = 3
    out_channels: Width = 3
    block_out_channels: Annotated[tuple[Width, ...], MinLen(1), MaxLen(12)] = (224, 448, 672, 896)
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[UpBlock, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    add_attention: bool = True
    layers_per_block: Annotated[int, Gt(0), Le(32)] = 2
    attention_head_dim: Count | None = 8
    num_class_embeds: Annotated[int, Gt(0), Le(2**24)] | None = None
    norm_num_groups: Count = 32
    attn_norm_num_groups: Count | None = None
    norm_eps: Annotated[float, Gt(0), Lt(1)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    time_embedding_dim: Count | None = None
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Ge(0), Le(1)] = 0
    downsample_padding: Annotated[int, Ge(0), Le(1)] = 1
    # what must be as it is here
    act_fn: Literal["silu", "swish"] = "silu"
    center_input_sample: Literal[False] = False
    class_embed_type: None = None
    downsample_type: Literal["conv"] = "conv"
    mid_block_scale_factor: Annotated[float, Ge(1), Le(1)] = 1
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    time_embedding_type: Literal["positional"] = "positional"
    upsample_type: Literal["conv"] = "conv"
    # what changes no prediction
    dropout: float = 0.0
    num_train_timesteps: Count | None = None
    # what diffusers' EMAModel writes beside the others, of how the weights were averaged
    decay: float | None = None
    min_decay: float | None = None
    optimization_step: int | None = None
    update_after_step: int | None = None
    use_ema_warmup: bool | None = None
    inv_gamma: float | None = None
    power: float | None = None


def unet_config_from_diffusers(content: Mapping[str, Any], origin: str = "config.json") -> UNetConfig:
    """The `UNetConfig` of a ``config.json`` whose ``_class_name`` is ``UNet2DModel``.

    Raises:
        UserError: the network is another one, or would compute something else; names ``origin`` and the key.
    """
    class_name = content.get("_class_name")
    if class_name == "UNet2DConditionModel":
        raise UserError(f"{origin}: {class_name}: text-conditional U-Nets are not supported by this version")
    if class_name != "UNet2DModel":
        raise refused(origin, "_class_name", class_name, "it should be 'UNet2DModel'")
    file = read_public(UNet2DModelFile, content, origin)

    def require(accepted: bool, key: str, wanted: str) -> None:
        if not accepted:
            raise refused(origin, key, getattr(file, key), f"it should be {wanted}")

    size = file.sample_size
    if isinstance(size, tuple) and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int):
        raise refused(origin, "sample_size", size, "it should be a number of pixels, height and width alike")
    time_dim = 4 * file.block_out_channels[0]
    require(file.time_embedding_dim in (None, time_dim), "time_embedding_dim", f"{time_dim} or null")
    attention_levels = tuple(block == "AttnDownBlock2D" for block in file.down_block_types)
    mirrored = tuple(_UP_BLOCKS[attend] for attend in reversed(attention_levels))
    require(file.up_block_types == mirrored, "up_block_types", f"the mirror of down_block_types, {list(mirrored)}")
    # With scale_shift, null means that the middle attention has no normalisation at all.
    scale_shift, groups = file.resnet_time_scale_shift == "scale_shift", file.norm_num_groups
    alike = (groups,) if scale_shift else (groups, None)
    same_groups = not file.add_attention or file.attn_norm_num_groups in alike
    require(same_groups, "attn_norm_num_groups", f"the same as norm_num_groups, {groups}")
    try:
        same = {ours: getattr(file, theirs) for ours, theirs in _SAME.items()}
        return UNetConfig(sample_size=size, attention_levels=attention_levels, scale_shift=scale_shift, **same)
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(f"{origin}: {problem}") from None


def unet_config_to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The ``config.json`` with which diffusers builds the same network."""
    file = UNet2DModelFile(
        sample_size=config.sample_size,
        down_block_types=tuple(_DOWN_BLOCKS[attend] for attend in config.attention_levels),
        up_block_types=tuple(_UP_BLOCKS[attend] for attend in reversed(config.attention_levels)),
        attn_norm_num_groups=config.norm_groups,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
        **{theirs: getattr(config, ours) for ours, theirs in _SAME.items()},
    )
    return headed("UNet2DModel", {key: value for key, value in asdict(file).items() if key not in OF_AVERAGES})
