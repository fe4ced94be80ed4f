"""The config file of transformers' ``CLIPTextModel``, translated in both directions, and its weights' older names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from fromnoise.configs import Count, Positive
from fromnoise.errors import UserError
from fromnoise.interop.rules import read_public, renamed
from fromnoise.nn.text_encoder import Activation, TextEncoderConfig

# Our name and transformers'.
_SAME = {"vocabulary": "vocab_size", "width": "hidden_size", "mlp_width": "intermediate_size"}
_SAME |= {"layers": "num_hidden_layers", "heads": "num_attention_heads", "max_length": "max_position_embeddings"}
_SAME |= {"activation": "hidden_act", "norm_eps": "layer_norm_eps"}


POSITIONS = ("embeddings.position_ids", "text_model.embeddings.position_ids")
"""the numbers 0 to 76, which transformers stored beside the weights before its release 4.31"""


@dataclass(frozen=True, kw_only=True)
class CLIPTextFile:
    """The keys of a ``config.json`` of a ``CLIPTextModel``, with the defaults of transformers' ``CLIPTextConfig``.

    The ids of special tokens are not read: only what is pooled over the tokens would need them, which Stable Diffusion
    does not, and those in the files of Stable Diffusion 1 are not the tokeniser's.
    """

    # what a TextEncoderConfig is made of
    vocab_size: Count = 49_408
    hidden_size: Count = 512
    intermediate_size: Count = 2048
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 8
    max_position_embeddings: Count = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    # what must be as it is here
    model_type: Literal["clip_text_model"] = "clip_text_model"
    # what changes no prediction
    architectures: tuple[str, ...] | None = None
    attention_dropout: float = 0.0
    dropout: float = 0.0
    initializer_factor: float = 1.0
    initializer_range: float = 0.02
    projection_dim: Count | None = 512
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49_406
    eos_token_id: int | tuple[int, ...] | None = 49_407
    dtype: str | None = None
    torch_dtype: str | None = None
    transformers_version: str | None = None


def text_encoder_config_from_transformers(content: Mapping[str, Any], origin: str = "config.json") -> TextEncoderConfig:
    """The `TextEncoderConfig` of a ``config.json`` whose ``model_type`` is ``clip_text_model``.

    Raises:
        UserError: the network is another one, or would compute something else; names ``origin`` and the key.
    """
    file = read_public(CLIPTextFile, content, origin)
    try:
        return TextEncoderConfig(**{ours: getattr(file, theirs) for ours, theirs in _SAME.items()})
    except ValueError as problem:  # numbers that do not fit together
        raise UserError(f"{origin}: {problem}") from None


def text_encoder_config_to_transformers(config: TextEncoderConfig, **unread: Any) -> dict[str, Any]:
    """The ``config.json`` with which transformers builds the same network.

    It has the weights in float32 however they are stored: diffusers would mix the types of text encoder and U-Net.

    Args:
        unread: values of keys that a `TextEncoderConfig` is not made of, such as ``eos_token_id``.
    """
    same = {theirs: getattr(config, ours) for ours, theirs in _SAME.items()}
    file = asdict(CLIPTextFile(architectures=("CLIPTextModel",), dtype="float32", **same, **unread))
    return {key: value for key, value in file.items() if value is not None}


def modern_text_encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under today's names.

    Before its release 5, transformers began each with ``text_model.``.

    Raises:
        UserError: a weight is there by its old and its new name.
    """
    return renamed(state, lambda key: key.removeprefix("text_model."))
