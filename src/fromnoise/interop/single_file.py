"""The single file in which CompVis released Stable Diffusion: all networks in one, under names of its own.

The weights come out under the names of `fromnoise.nn`. How large the networks are is found in names and shapes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.interop.autoencoder import modern_autoencoder_state
from fromnoise.interop.kinds import what_is
from fromnoise.interop.pickles import read_pickled
from fromnoise.nn.autoencoder import AutoencoderConfig
from fromnoise.nn.text_encoder import TextEncoderConfig
from fromnoise.nn.unet import UNetConfig
from fromnoise.tensors import read_tensors

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
HEAD_DIM = 64  # channels of a head in both text encoders, and in the U-Net of Stable Diffusion 2

IGNORED = re.compile(
    r"model_ema\..*"  # averages of the weights that are beside them
    r"|betas|(alphas_cumprod|sqrt_|log_one_minus_|posterior_)\w*|logvar|lvlb_weights"  # made of the betas
    r"|first_stage_model\.loss\..*"  # the autoencoder's discriminator
    r"|cond_stage_model\..*\.position_ids"  # 0..76
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask)"  # for comparing texts with pictures
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..*"  # the last of 24 layers, of which 23 are used
)
"""names of what no picture is made with"""

# CompVis' name of a module, and ours.
_UNET = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
_UNET |= {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
_UNET |= {"middle_block.1": "mid_block.attentions.0"}
_RESIDUAL = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj"}
_RESIDUAL |= {"out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
_CODER = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_CODER |= {"mid.block_1": "mid_block.resnets.0", "mid.block_2": "mid_block.resnets.1"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_CODER |= {f"mid.attn_1.{theirs}": f"mid_block.attentions.0.{ours}" for theirs, ours in _ATTENTION.items()}
_CLIP = {name: name for name in ("embeddings", "encoder", "final_layer_norm")}
_OPEN_CLIP = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
_OPEN_CLIP |= {"positional_embedding": "embeddings.position_embedding.weight"}
_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn": "self_attn"}
_LAYER |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


@dataclass(frozen=True)
class SingleFile:
    """What one file holds: the weights of each network under our names, in the dtype they are stored in, and configs.

    A file holds no tokeniser: whoever opens it brings the vocabulary, which is CLIP's.
    """

    unet: dict[str, Tensor]
    autoencoder: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    unet_config: UNetConfig
    autoencoder_config: AutoencoderConfig
    text_encoder_config: TextEncoderConfig
    noise: NoiseConfig


def read_single_file(path: Path) -> SingleFile:
    """Reads a ``.safetensors`` file, or a ``.ckpt`` or ``.pt``, in which nothing is executed.

    What a file does not say is as the models were released. The text encoder tells 1 from 2. Stable Diffusion 1 has 8
    heads at each level of the U-Net and predicts the noise; 2 has heads of 64 channels. The inpainting model of 2
    predicts the noise as well. Every other file of 2 is taken for the one of 768x768 pixels, which predicts the
    velocity. Nothing in a file tells 2-base from it: for that one, replace ``noise.prediction_type``.

    Whether a weight is missing, or of another shape, shows when a network loads them.

    Raises:
        UserError: it cannot be read, is another model's, or holds weights that no Stable Diffusion 1 or 2 has.
    """
    if kind := what_is(path):
        raise UserError(f"{path} is {kind}, and no single file of Stable Diffusion 1 or 2")
    read = read_tensors if path.suffix == ".safetensors" else read_pickled
    rest = read(path, lambda name: IGNORED.fullmatch(name) is None)
    second = any(name.startswith(OPEN_CLIP) for name in rest)
    parts = [_taken(rest, prefix) for prefix in (UNET, AUTOENCODER, OPEN_CLIP if second else CLIP)]
    unet, autoencoder, text = parts[0], parts[1], _unpacked(parts[2])
    try:
        velocity = second and _size(unet, "input_blocks.0.0.weight", 1) == _size(unet, "out.2.weight")
        autoencoder_config = _autoencoder_config(autoencoder, sample_size=768 if velocity else 512)
        unet_config = _unet_config(unet, autoencoder_config, second)
        unet_state = _renamed(unet, unet_modules(unet_config))
        autoencoder_state = _renamed(autoencoder, autoencoder_modules(autoencoder_config))
        text_state = _renamed(text, _CLIP | open_clip_modules(_count(text, "transformer.resblocks.")))
        text_config = _text_encoder_config(text_state, second)
    except ValueError as problem:  # what decides a size is missing, or numbers do not fit together
        raise UserError(f"{path}: {problem}") from None
    if foreign := [*rest, *unet, *autoencoder, *text]:
        raise UserError(f"{path}: {len(foreign)} weights that Stable Diffusion has not, first {', '.join(foreign[:3])}")
    noise = NoiseConfig(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction" if velocity else "epsilon",
        clip_sample=False,
        timestep_spacing=None,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    return SingleFile(
        unet_state,
        modern_autoencoder_state(autoencoder_state),
        text_state,
        unet_config,
        autoencoder_config,
        text_config,
        noise,
    )


def unet_modules(config: UNetConfig) -> dict[str, str]:
    """Our name of each module of a U-Net, by CompVis'. There, blocks are counted through all levels.

    A level has ``layers_per_block`` residual blocks on the way down and what halves the resolution, if anything; on the
    way up it has one block more, and what doubles the resolution belongs to the last.
    """
    modules, blocks = dict(_UNET), {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    layers, levels = config.layers_per_block, len(config.channels)
    for level in range(levels):
        for layer in range(layers + 1):
            n = level * (layers + 1) + layer
            blocks[f"input_blocks.{n + 1}.0"] = f"down_blocks.{level}.resnets.{layer}"
            blocks[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{layer}"
            modules[f"input_blocks.{n + 1}.1"] = f"down_blocks.{level}.attentions.{layer}"
            modules[f"output_blocks.{n}.1"] = f"up_blocks.{level}.attentions.{layer}"
        after = 2 if config.attention_levels[levels - 1 - level] else 1
        modules[f"input_blocks.{n + 1}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        modules[f"output_blocks.{n}.{after}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return modules | {f"{a}.{part}": f"{b}.{ours}" for a, b in blocks.items() for part, ours in _RESIDUAL.items()}


def autoencoder_modules(config: AutoencoderConfig) -> dict[str, str]:
    """Our name of each module of an autoencoder, by CompVis', which counts both sides' levels alike."""
    modules = {f"{side}.{a}": f"{side}.{b}" for side in ("encoder", "decoder") for a, b in _CODER.items()}
    modules |= {name: name for name in ("quant_conv", "post_quant_conv")}
    last = len(config.channels) - 1
    for i in range(last + 1):
        down, up = (
            (f"encoder.down.{i}", f"encoder.down_blocks.{i}"),
            (f"decoder.up.{last - i}", f"decoder.up_blocks.{i}"),
        )
        modules |= {f"{down[0]}.downsample": f"{down[1]}.downsamplers.0", f"{up[0]}.upsample": f"{up[1]}.upsamplers.0"}
        for theirs, ours in (down, up):
            for layer in range(config.layers_per_block + 1):
                block, resnet = f"{theirs}.block.{layer}", f"{ours}.resnets.{layer}"
                modules |= {block: resnet, f"{block}.nin_shortcut": f"{resnet}.conv_shortcut"}
    return modules


def open_clip_modules(layers: int) -> dict[str, str]:
    """Our name of each module of a text encoder, by that in OpenCLIP."""
    blocks = {f"transformer.resblocks.{i}": f"encoder.layers.{i}" for i in range(layers)}
    return _OPEN_CLIP | {f"{a}.{part}": f"{b}.{ours}" for a, b in blocks.items() for part, ours in _LAYER.items()}


def our_name(name: str, modules: Mapping[str, str]) -> str | None:
    """A weight's name with the longest beginning that the table has exchanged; none where it has no beginning of it."""
    parts = name.split(".")
    beginnings = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    known = next((beginning for beginning in beginnings if beginning in modules), None)
    return None if known is None else modules[known] + name.removeprefix(known)


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names. They are taken out of what is given."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _renamed(tensors: dict[str, Tensor], modules: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of these modules under our names. They are taken out of what is given."""
    return {ours: tensors.pop(name) for name in list(tensors) if (ours := our_name(name, modules)) is not None}


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value by themselves, ``(C, C)``, where OpenCLIP has them on top of each other, ``(3C, C)``."""
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, packed, kind = name.rpartition(".in_proj_")
        if packed and tensor.ndim:
            names = (f"{stem}.{letter}_proj.{kind}" for letter in "qkv")
            apart |= zip(names, tensor.chunk(3), strict=False)  # fewer than three, where it is too small
        else:
            apart[name] = tensor
    return apart


def _size(tensors: Mapping[str, Tensor], name: str, dim: int = 0) -> int:
    """The length of a tensor along one dimension."""
    if name not in tensors or tensors[name].ndim <= dim or tensors[name].shape[dim] == 0:
        raise ValueError(f"{name} is missing, or of another shape than in Stable Diffusion")
    return tensors[name].shape[dim]


def _count(tensors: Mapping[str, Tensor], stem: str) -> int:
    """How many numbers there are after this beginning of a name."""
    return len({name.removeprefix(stem).split(".")[0] for name in tensors if name.startswith(stem)})


def _unet_config(unet: Mapping[str, Tensor], autoencoder: AutoencoderConfig, second: bool) -> UNetConfig:
    places = range(max(2, _count(unet, "input_blocks.")))
    halved = (n for n in places if f"input_blocks.{n}.0.op.weight" in unet)
    layers = max(1, next(halved, len(places)) - 1)
    first = places[1 :: layers + 1]  # the first block of each level
    channels = tuple(_size(unet, f"input_blocks.{n}.0.out_layers.3.weight") for n in first)
    in_channels, latent = _size(unet, "input_blocks.0.0.weight", 1), autoencoder.latent_channels
    if in_channels not in (latent, 2 * latent + 1):
        raise ValueError(f"its U-Net sees {in_channels} channels, and not {latent}, or {2 * latent + 1} with a mask")
    return UNetConfig(
        in_channels=in_channels,
        out_channels=_size(unet, "out.2.weight"),
        sample_size=max(1, autoencoder.sample_size // autoencoder.size_multiple),
        channels=channels,
        attention_levels=tuple(f"input_blocks.{n}.1.norm.weight" in unet for n in first),
        layers_per_block=layers,
        context_dim=_size(unet, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        heads=tuple(max(1, width // HEAD_DIM) if second else 8 for width in channels),
        linear_projection=_size(unet, "middle_block.1.proj_in.weight") > 0
        and unet["middle_block.1.proj_in.weight"].ndim == 2,
        upcast_attention=second,
    )


def _autoencoder_config(autoencoder: Mapping[str, Tensor], sample_size: int) -> AutoencoderConfig:
    levels = range(max(1, _count(autoencoder, "encoder.down.")))
    return AutoencoderConfig(
        in_channels=_size(autoencoder, "encoder.conv_in.weight", 1),
        out_channels=_size(autoencoder, "decoder.conv_out.weight"),
        latent_channels=_size(autoencoder, "decoder.conv_in.weight", 1),
        sample_size=sample_size,
        channels=tuple(_size(autoencoder, f"encoder.down.{level}.block.0.conv2.weight") for level in levels),
        layers_per_block=_count(autoencoder, "encoder.down.0.block."),
    )


def _text_encoder_config(text: Mapping[str, Tensor], second: bool) -> TextEncoderConfig:
    width = _size(text, "embeddings.token_embedding.weight", 1)
    return TextEncoderConfig(
        vocabulary=_size(text, "embeddings.token_embedding.weight"),
        width=width,
        mlp_width=_size(text, "encoder.layers.0.mlp.fc1.weight"),
        layers=_count(text, "encoder.layers."),
        heads=max(1, width // HEAD_DIM),
        max_length=_size(text, "embeddings.position_embedding.weight"),
        activation="gelu" if second else "quick_gelu",
    )
