"""The config file of transformers' ``CLIPModel``, translated in both directions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fromnoise.configs import Count, Positive
from fromnoise.errors import UserError
from fromnoise.interop.rules import read_public
from fromnoise.interop.text_encoder import text_encoder_config_from_transformers, text_encoder_config_to_transformers
from fromnoise.nn.clip import ClipConfig
from fromnoise.nn.image_encoder import ImageEncoderConfig
from fromnoise.nn.text_encoder import Activation

# Our name and transformers'.
_SAME = {"channels": "num_channels", "size": "image_size", "patch_size": "patch_size", "width": "hidden_size"}
_SAME |= {"mlp_width": "intermediate_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
_SAME |= {"activation": "hidden_act", "norm_eps": "layer_norm_eps"}

LARGEST_ID = 2  # this ``eos_token_id``, of the first files, stands for the largest id


@dataclass(frozen=True, kw_only=True)
class CLIPVisionFile:
    """The keys of a ``config.json`` of a ``CLIPVisionModel``, with the defaults of transformers' ``CLIPVisionConfig``.

    What must be as it is here, and what changes no prediction, is as in `CLIPTextFile`.
    """

    num_channels: Count = 3
    image_size: Count = 224
    patch_size: Count = 32
    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    model_type: Literal["clip_vision_model"] = "clip_vision_model"
    architectures: tuple[str, ...] | None = None
    attention_dropout: float = 0.0
    dropout: float = 0.0
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    projection_dim: Count | None = 512
    dtype: str | None = None
    torch_dtype: str | None = None
    transformers_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPFile:
    """The keys of a ``config.json`` of a ``CLIPModel``, with the defaults of transformers' ``CLIPConfig``."""

    # what a ClipConfig is made of
    text_config: dict[str, Any] | None = None
    vision_config: dict[str, Any] | None = None
    projection_dim: Count = 512
    # what must be as it is here
    model_type: Literal["clip"] = "clip"
    # what changes no prediction
    architectures: tuple[str, ...] | None = None
    initializer_factor: float = 1.0
    logit_scale_init_value: float = 2.6592
    dtype: str | None = None
    torch_dtype: str | None = None
    transformers_version: str | None = None


def clip_config_from_transformers(content: Mapping[str, Any], origin: str = "config.json") -> ClipConfig:
    """The `ClipConfig` of a ``config.json`` whose ``model_type`` is ``clip``.

    Raises:
        UserError: the network is another one, or would compute something else; names ``origin`` and the key.
    """
    file = read_public(CLIPFile, content, origin)
    texts, images = file.text_config or {}, file.vision_config or {}
    text = text_encoder_config_from_transformers(texts, f"{origin}: text_config")
    vision = read_public(CLIPVisionFile, images, f"{origin}: vision_config")
    try:
        image = ImageEncoderConfig(**{ours: getattr(vision, theirs) for ours, theirs in _SAME.items()})
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(f"{origin}: vision_config: {problem}") from None
    eos = texts.get("eos_token_id", 49_407)
    if type(eos) is not int:
        raise UserError(f"{origin}: text_config: eos_token_id: it should be the id of one token")
    return ClipConfig(text, image, file.projection_dim, text.vocabulary - 1 if eos == LARGEST_ID else eos)


def clip_config_to_transformers(config: ClipConfig) -> dict[str, Any]:
    """The ``config.json`` with which transformers builds the same network; of special tokens it names the last."""
    same = {theirs: getattr(config.image, ours) for ours, theirs in _SAME.items()}
    ids = {"bos_token_id": config.eos - 1, "eos_token_id": config.eos, "pad_token_id": config.eos}
    both: dict[str, Any] = {"projection_dim": config.embedding, "dtype": "float32"}
    text = text_encoder_config_to_transformers(config.text, projection_dim=config.embedding, **ids)
    vision = asdict(CLIPVisionFile(architectures=("CLIPVisionModel",), **same, **both))
    file = asdict(CLIPFile(architectures=("CLIPModel",), text_config=text, vision_config=vision, **both))
    file["vision_config"] = {key: value for key, value in vision.items() if value is not None}
    return {key: value for key, value in file.items() if value is not None}
