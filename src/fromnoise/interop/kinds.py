"""What a file or directory holds that looks like Stable Diffusion 1 or 2 and is not: told by names, without weights."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from fromnoise.configs import load
from fromnoise.errors import UserError
from fromnoise.interop.pickles import unpickled
from fromnoise.tensors import tensor_names

CONFIGS = ("model_index.json", "config.json", "unet/config.json", "transformer/config.json")
MOST_FILES = 100  # of a directory that are looked at

KINDS: tuple[tuple[str, ...], ...] = (
    ("a LoRA", r"(^|[._])(lora|lycoris)[._]|^adapter_config\.json$"),
    ("a textual inversion embedding", r"^(emb_params|string_to_param|clip_[gl]|<.+>)$|^learned_embeds\."),
    ("a ControlNet", r'^_class_name=".*ControlNet|^(control_model|input_hint_block|controlnet_\w+)\.'),
    ("Stable Diffusion 3", r'^_class_name="(StableDiffusion3|SD3)|joint_blocks\.|^pos_embed\.pos_embed$'),
    ("Flux", r'^_class_name="(Flux|ReduxImage)|double_blocks\.|^single_transformer_blocks\.'),
    ("the refiner of Stable Diffusion XL", r'^_class_name="StableDiffusionXL', r"^text_encoder=\[null, null\]"),
    ("the refiner of Stable Diffusion XL", r'^addition_embed_type="text_time"', "^cross_attention_dim=1280$"),
    ("the refiner of Stable Diffusion XL", r"^conditioner\.embedders\.0\.model\."),
    ("Stable Diffusion XL", r'^_class_name="StableDiffusionXL|^addition_embed_type="text_time"'),
    ("Stable Diffusion XL", r"^(conditioner\.embedders\.[01]|add_embedding)\."),
    ("InstructPix2Pix", r'^_class_name="StableDiffusionInstructPix2Pix'),
    ("an upscaler of Stable Diffusion", r'^_class_name="StableDiffusion(Latent)?Upscale|^low_res_scheduler'),
    ("an autoencoder alone", r'^_class_name="(Autoencoder|AsymmetricAutoencoder|VQModel)'),
    ("an autoencoder alone", r"\A((first_stage_model\.)?(encoder|decoder|loss|(post_)?quant_conv)\..*\n)+\Z"),
)
"""kinds, the first that fits is it, with patterns that must all be found in the lines of `_lines`"""


def what_is(path: Path) -> str | None:
    """The kind of model of a directory, a ``.safetensors`` file or a checkpoint, such as "Stable Diffusion XL".

    None where it may be Stable Diffusion 1 or 2, or is of no kind that is known here.

    Raises:
        UserError: a file cannot be read.
    """
    text = "".join(f"{line}\n" for line in (_lines(path) if os.path.isdir(path) else _names(path)))
    fits = (kind for kind, *signs in KINDS if all(re.search(sign, text, re.MULTILINE) for sign in signs))
    return next(fits, None)


def _lines(directory: Path) -> list[str]:
    """What a directory's configs say, a line ``key=value`` each; else the names in its weights; else those of files."""
    said, names, files = list[str](), list[str](), list[str]()
    for config in CONFIGS:
        with suppress(UserError):  # there is none; or it is damaged, which is for others to say
            said += [
                f"{key}={json.dumps(value)}"
                for key, value in load(directory / config).items()
                if key == "_class_name" or not key.startswith("_")  # such as the path where a model once lay
            ]
    with suppress(OSError):
        files = sorted(os.listdir(directory))[:MOST_FILES]
    for file in files:
        if not said and file.endswith(".safetensors"):
            with suppress(UserError):
                names += tensor_names(directory / file)
    return said or names or files


def _names(path: Path) -> list[str]:
    """The names in a file of weights."""
    return tensor_names(path) if path.suffix == ".safetensors" else list(unpickled(path))
