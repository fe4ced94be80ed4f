"""What looks like Stable Diffusion 1 or 2 and is not is told by its names alone."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fromnoise.errors import UserError
from fromnoise.interop.kinds import what_is
from fromnoise.tensors import tensor_names

XL, REFINER = "Stable Diffusion XL", "the refiner of Stable Diffusion XL"
EMBEDDING, AUTOENCODER = "a textual inversion embedding", "an autoencoder alone"
NULL = [None, None]

DIRECTORIES = [
    (XL, {"model_index.json": {"_class_name": "StableDiffusionXLPipeline", "text_encoder": ["transformers", "CLIP"]}}),
    (XL, {"unet/config.json": {"addition_embed_type": "text_time", "cross_attention_dim": 2048}}),
    (REFINER, {"model_index.json": {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": NULL}}),
    (REFINER, {"unet/config.json": {"addition_embed_type": "text_time", "cross_attention_dim": 1280}}),
    ("Stable Diffusion 3", {"model_index.json": {"_class_name": "StableDiffusion3Pipeline"}}),
    ("Stable Diffusion 3", {"transformer/config.json": {"_class_name": "SD3Transformer2DModel"}}),
    ("Flux", {"model_index.json": {"_class_name": "FluxPipeline"}}),
    ("Flux", {"transformer/config.json": {"_class_name": "FluxTransformer2DModel"}}),
    ("a ControlNet", {"config.json": {"_class_name": "ControlNetModel"}}),
    ("a ControlNet", {"config.json": {"_class_name": "FluxControlNetModel"}}),
    ("InstructPix2Pix", {"model_index.json": {"_class_name": "StableDiffusionInstructPix2PixPipeline"}}),
    (
        "an upscaler of Stable Diffusion",
        {
            "model_index.json": {
                "_class_name": "StableDiffusionUpscalePipeline",
                "low_res_scheduler": ["diffusers", "A"],
            }
        },
    ),
    (AUTOENCODER, {"config.json": {"_class_name": "AutoencoderKL"}}),
    ("a LoRA", {"adapter_config.json": {"peft_type": "LORA"}}),
    (
        None,
        {
            "model_index.json": {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]},
            "unet/config.json": {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 1280},
            "my_lora_weights.txt": {},
        },
    ),
    (None, {"config.json": {"_class_name": "UNet2DModel"}}),
    (None, {"unet/config.json": {"_name_or_path": "out/style_lora_merged", "_class_name": "UNet2DConditionModel"}}),
    (None, {"model_index.json": {"_name_or_path": "sd_lora.v1", "_class_name": "StableDiffusionPipeline"}}),
    (None, {"config.json": ["damaged"]}),
    (None, {}),
]

FILES = [
    (XL, ["conditioner.embedders.1.model.ln_final.bias", "model.diffusion_model.out.2.bias"]),
    (XL, ["add_embedding.linear_1.weight", "conv_in.weight"]),
    (REFINER, ["conditioner.embedders.0.model.ln_final.bias", "model.diffusion_model.out.2.bias"]),
    ("Stable Diffusion 3", ["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"]),
    ("Flux", ["double_blocks.0.img_attn.norm.key_norm.scale"]),
    ("Flux", ["single_transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_q.weight"]),
    ("a LoRA", ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"]),
    ("a LoRA", ["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"]),
    ("a LoRA", ["transformer.single_transformer_blocks.0.attn.to_q.lora.down.weight"]),
    ("a LoRA", ["lycoris_mid_block_attentions_0_proj_in.hada_w1_a"]),
    ("a ControlNet", ["control_model.time_embed.0.weight", "model.diffusion_model.time_embed.0.weight"]),
    ("a ControlNet", ["controlnet_cond_embedding.conv_in.weight", "add_embedding.linear_1.weight"]),
    ("a ControlNet", ["input_hint_block.0.weight"]),
    (EMBEDDING, ["emb_params"]),
    (EMBEDDING, ["clip_g", "clip_l"]),
    (EMBEDDING, ["<a cat>"]),
    (AUTOENCODER, ["encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.bias", "loss.logvar"]),
    (AUTOENCODER, ["first_stage_model.decoder.conv_in.weight"]),
    (None, ["model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.weight"]),
    (None, ["text_model.encoder.layers.0.mlp.fc1.bias", "explorations.bias"]),
    (None, ["encoder.layers.0.mlp.fc1.bias", "embeddings.token_embedding.weight"]),
]


@pytest.mark.parametrize(("kind", "files"), DIRECTORIES)
def test_a_directory(kind, files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert what_is(tmp_path) == kind


@pytest.mark.parametrize(("kind", "names"), FILES)
@pytest.mark.parametrize("form", ["file", "directory", "pickle"])
def test_a_file(kind, names, form, tmp_path):
    """Of no type and size are the tensors looked at, which are not finite here."""
    tensors = {name: torch.tensor(torch.nan) for name in names}
    if form == "pickle":
        torch.save(tensors, tmp_path / "some.pt")
        assert what_is(tmp_path / "some.pt") == kind
    else:
        save_file(tensors, tmp_path / "some.safetensors")
        assert what_is(tmp_path if form == "directory" else tmp_path / "some.safetensors") == kind


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "learned_embeds.bin"])
def test_the_name_of_a_file_says_it(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert what_is(tmp_path) in ("a LoRA", EMBEDDING)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        what_is(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    for look in (what_is, tensor_names):
        with pytest.raises(UserError, match="is not a complete safetensors file"):
            look(tmp_path / "cut.safetensors")


def test_hostile_names_take_no_time(tmp_path):
    """Patterns that could be matched in many ways would take for ever on such names."""
    for name in ("encoder." * 3000 + "\nother", "first_stage_model.loss." * 3000 + "\n", "controlnet_" * 3000):
        save_file({name: torch.ones(1)}, tmp_path / "some.safetensors")
        assert what_is(tmp_path / "some.safetensors") in (None, AUTOENCODER)
