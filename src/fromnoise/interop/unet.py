"""The config files of diffusers' ``UNet2DModel`` and ``UNet2DConditionModel``, translated in both directions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from torch import Tensor

from fromnoise.configs import Count, refused
from fromnoise.errors import UserError
from fromnoise.interop.rules import headed, modern_attention_name, read_public, renamed
from fromnoise.nn.unet import UNetConfig

Size = Annotated[int, Gt(0), Le(8192)]  # pixels
Width = Annotated[int, Gt(0), Le(2**16)]  # channels
Widths = Annotated[tuple[Width, ...], MinLen(1), MaxLen(12)]
Layers = Annotated[int, Gt(0), Le(32)]
Classes = Annotated[int, Gt(0), Le(2**24)]
Epsilon = Annotated[float, Gt(0), Lt(1)]
Shift = Annotated[float, Ge(0), Le(1)]
DownBlock = Literal["DownBlock2D", "AttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D"]
TextDownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
TextUpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
Padding = Annotated[int, Ge(0), Le(1)]
One = Annotated[float, Ge(1), Le(1)]

# What means the same in all three: our name and diffusers'.
_SAME = {name: name for name in ("in_channels", "out_channels", "num_class_embeds", "norm_eps")}
_SAME |= {name: name for name in ("flip_sin_to_cos", "freq_shift", "downsample_padding")}
_SAME |= {"channels": "block_out_channels", "norm_groups": "norm_num_groups"}

OF_AVERAGES = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")


@dataclass(frozen=True, kw_only=True)
class _UNetFile:
    """The keys that both classes have, with the same defaults."""

    # what a UNetConfig is made of
    sample_size: Size | tuple[Size, Size] | None = None
    num_class_embeds: Classes | None = None
    norm_num_groups: Count = 32
    norm_eps: Epsilon = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    time_embedding_dim: Count | None = None
    flip_sin_to_cos: bool = True
    freq_shift: Shift = 0
    downsample_padding: Padding = 1
    # what must be as it is here
    act_fn: Literal["silu", "swish"] = "silu"
    center_input_sample: Literal[False] = False
    class_embed_type: None = None
    mid_block_scale_factor: One = 1
    time_embedding_type: Literal["positional"] = "positional"
    # what changes no prediction
    dropout: float = 0.0
    # what diffusers' EMAModel writes beside the others, of how the weights were averaged
    decay: float | None = None
    min_decay: float | None = None
    optimization_step: int | None = None
    update_after_step: int | None = None
    use_ema_warmup: bool | None = None
    inv_gamma: float | None = None
    power: float | None = None


@dataclass(frozen=True, kw_only=True)
class UNet2DModelFile(_UNetFile):
    """The keys of a ``config.json`` whose ``_class_name`` is ``UNet2DModel``, with diffusers' defaults."""

    # what a UNetConfig is made of
    in_channels: Width = 3
    out_channels: Width = 3
    block_out_channels: Widths = (224, 448, 672, 896)
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[UpBlock, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    add_attention: bool = True
    layers_per_block: Layers = 2
    attention_head_dim: Count | None = 8
    attn_norm_num_groups: Count | None = None
    # what must be as it is here
    downsample_type: Literal["conv"] = "conv"
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    upsample_type: Literal["conv"] = "conv"
    # what changes no prediction
    num_train_timesteps: Count | None = None


@dataclass(frozen=True, kw_only=True)
class UNet2DConditionModelFile(_UNetFile):
    """The keys of a ``config.json`` whose ``_class_name`` is ``UNet2DConditionModel``, with diffusers' defaults."""

    # what a UNetConfig is made of
    in_channels: Width = 4
    out_channels: Width = 4
    block_out_channels: Widths = (320, 640, 1280, 1280)
    down_block_types: tuple[TextDownBlock, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple[TextUpBlock, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    layers_per_block: Layers | tuple[Layers, ...] = 2
    attention_head_dim: Width | tuple[Width, ...] = 8  # the number of heads, in spite of its name
    cross_attention_dim: Width | tuple[Width, ...] = 1280
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    # what must be as it is here
    addition_embed_type: None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    cross_attention_norm: None = None
    dual_cross_attention: Literal[False] = False
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    mid_block_only_cross_attention: Literal[False] | None = None
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    num_attention_heads: None = None
    only_cross_attention: Literal[False] | tuple[Literal[False], ...] = False
    resnet_out_scale_factor: One = 1.0
    resnet_skip_time_act: Literal[False] = False
    reverse_transformer_layers_per_block: None = None
    time_cond_proj_dim: None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    transformer_layers_per_block: Literal[1] | tuple[Literal[1], ...] = 1
    # what changes no prediction
    addition_embed_type_num_heads: Count = 64
    addition_time_embed_dim: Count | None = None
    projection_class_embeddings_input_dim: Count | None = None


_FILES: dict[str, type[UNet2DModelFile] | type[UNet2DConditionModelFile]]
_FILES = {"UNet2DModel": UNet2DModelFile, "UNet2DConditionModel": UNet2DConditionModelFile}


def unet_config_from_diffusers(content: Mapping[str, Any], origin: str = "config.json") -> UNetConfig:
    """The `UNetConfig` of a ``config.json`` whose ``_class_name`` is ``UNet2DModel`` or ``UNet2DConditionModel``.

    Raises:
        UserError: the network is another one, or would compute something else; names ``origin`` and the key.
    """
    class_name = content.get("_class_name")
    if class_name not in list(_FILES):  # a list, because a file may have something there that has no hash
        raise refused(origin, "_class_name", class_name, "it should be 'UNet2DModel' or 'UNet2DConditionModel'")
    if content.get("addition_embed_type") == "text_time":
        raise refused(
            origin, "addition_embed_type", "text_time", "it makes this a U-Net of SDXL, not of Stable Diffusion 1 or 2"
        )
    file = read_public(_FILES[class_name], content, origin)

    def require(accepted: bool, key: str, wanted: str) -> None:
        if not accepted:
            raise refused(origin, key, getattr(file, key), f"it should be {wanted}")

    def alike(key: str) -> Any:
        """The one number, where a file may have a list that repeats it."""
        value = getattr(file, key)
        numbers = set(value) if isinstance(value, tuple) else {value}
        require(len(numbers) == 1 and None not in numbers, key, "a number, the same for each level or side")
        return numbers.pop()

    time_dim, scale_shift = 4 * file.block_out_channels[0], file.resnet_time_scale_shift == "scale_shift"
    require(file.time_embedding_dim in (None, time_dim), "time_embedding_dim", f"{time_dim} or null")
    attention_levels = tuple("Attn" in block for block in file.down_block_types)
    mirrored = _block_types(class_name, attention_levels)["up_block_types"]
    require(file.up_block_types == mirrored, "up_block_types", f"the mirror of down_block_types, {list(mirrored)}")
    if isinstance(file, UNet2DModelFile):
        # With scale_shift, null means that the middle attention has no normalisation at all.
        groups = file.norm_num_groups
        normalised = file.attn_norm_num_groups in ((groups,) if scale_shift else (groups, None))
        wanted = f"the same as norm_num_groups, {groups}"
        require(not file.add_attention or normalised, "attn_norm_num_groups", wanted)
        attention: dict[str, Any] = {"head_dim": file.attention_head_dim, "middle_attention": file.add_attention}
    else:
        heads = file.attention_head_dim
        attention = {
            "context_dim": alike("cross_attention_dim"),
            "heads": heads if isinstance(heads, tuple) else (heads,) * len(file.block_out_channels),
            "linear_projection": file.use_linear_projection,
            "upcast_attention": bool(file.upcast_attention),
        }
    same = {ours: getattr(file, theirs) for ours, theirs in _SAME.items()}
    same |= {"sample_size": alike("sample_size"), "layers_per_block": alike("layers_per_block")}
    try:
        return UNetConfig(attention_levels=attention_levels, scale_shift=scale_shift, **same, **attention)
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(f"{origin}: {problem}") from None


def unet_config_to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The ``config.json`` with which diffusers builds the same network."""
    if config.context_dim is None:
        class_name = "UNet2DModel"
        attention: dict[str, Any] = {
            "attention_head_dim": config.head_dim,
            "add_attention": config.middle_attention,
            "attn_norm_num_groups": config.norm_groups,
        }
    else:
        class_name = "UNet2DConditionModel"
        attention = {
            "attention_head_dim": config.heads,
            "cross_attention_dim": config.context_dim,
            "use_linear_projection": config.linear_projection,
            "upcast_attention": config.upcast_attention,
        }
    file = _FILES[class_name](
        sample_size=config.sample_size,
        layers_per_block=config.layers_per_block,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
        **_block_types(class_name, config.attention_levels),
        **{theirs: _plain(getattr(config, ours)) for ours, theirs in _SAME.items()},
        **attention,
    )
    return headed(class_name, {key: value for key, value in asdict(file).items() if key not in OF_AVERAGES})


def _plain(value: Any) -> Any:
    """A whole number without a point, as the file had it: a config that was read has ``freq_shift`` 0.0 for 0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def modern_unet_state(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """A state dict under today's names, whose spatial transformers begin and end as the config says.

    These are linear layers or 1x1 convolutions, and other releases stored the same numbers as the other of the two:
    ``(D, C, 1, 1)`` instead of ``(D, C)``.

    Raises:
        UserError: a weight is there by its old and its new name.
    """

    def stored(key: str, tensor: Tensor) -> Tensor:
        if config.context_dim is None or not key.endswith((".proj_in.weight", ".proj_out.weight")):
            return tensor
        matrix = tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) else tensor  # (D, C)
        return matrix if config.linear_projection or matrix.ndim != 2 else matrix[:, :, None, None]

    return {key: stored(key, tensor) for key, tensor in renamed(state, modern_attention_name).items()}


def _block_types(class_name: str, attention_levels: tuple[bool, ...]) -> dict[str, Any]:
    """The names of the blocks on the way down and up."""
    attention = "Attn" if class_name == "UNet2DModel" else "CrossAttn"
    down = tuple(f"{attention * attend}DownBlock2D" for attend in attention_levels)
    up = tuple(f"{attention * attend}UpBlock2D" for attend in reversed(attention_levels))
    return {"down_block_types": down, "up_block_types": up}
