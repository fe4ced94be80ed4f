"""A single file under CompVis' names becomes what diffusers makes of it, or is refused in one line."""

import sys
from itertools import accumulate
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from compvis import AUTOENCODER, CLIP, OPEN_CLIP, UNET, single_file
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import save_file
from small_sd import OF_SD15, PNDM

import fromnoise.interop.kinds
import fromnoise.interop.single_file
from fromnoise.errors import UserError
from fromnoise.interop.pickles import Inert
from fromnoise.interop.scheduler import noise_from_diffusers
from fromnoise.interop.single_file import read_single_file
from fromnoise.nn.autoencoder import Autoencoder, AutoencoderConfig
from fromnoise.nn.text_encoder import TextEncoder, TextEncoderConfig
from fromnoise.nn.unet import UNet, UNetConfig

SMALL = {
    "first": {},
    "inpainting": {"in_channels": 9},
    "second": {"second": True},
    "second_inpainting": {"second": True, "in_channels": 9},
    "three_levels": {
        "channels": (32, 64, 64),
        "attention": (False, True, True),
        "layers": 2,
        "autoencoder": (32, 32, 64),
        "autoencoder_layers": 2,
    },
    "one_level": {"channels": (64,), "attention": (True,), "layers": 3, "autoencoder": (32,)},
}

FIRST = {
    "channels": (320, 640, 1280, 1280),
    "attention": (True, True, True, False),
    "layers": 2,
    "autoencoder": (128, 256, 512, 512),
    "autoencoder_layers": 2,
    "text": (49408, 768, 3072, 12, 77),
}
SECOND = FIRST | {"second": True, "text": (49408, 1024, 4096, 24, 77)}


def written(tensors, folder):
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_single_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def by_diffusers(tensors, layers, levels, second):
    """The three state dicts of today's diffusers and transformers."""
    width = tensors[(f"{OPEN_CLIP}" if second else f"{CLIP}embeddings.") + "token_embedding.weight"].shape[1]
    encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    text = convert_open_clip_checkpoint(encoder, tensors) if second else convert_ldm_clip_checkpoint(tensors)
    text.pop("text_projection.weight", None)
    return (
        convert_ldm_unet_checkpoint(tensors, {"layers_per_block": layers}),
        convert_ldm_vae_checkpoint(tensors, {"down_block_types": levels, "up_block_types": levels}),
        {name.removeprefix("text_model."): tensor for name, tensor in text.items()},
    )


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL)
def test_as_diffusers_renames(options, tmp_path):
    tensors = single_file(**options)
    found = read_single_file(written(tensors, tmp_path))
    expected = by_diffusers(
        tensors, options.get("layers", 1), options.get("autoencoder", (32, 64)), options.get("second", False)
    )
    for ours, theirs in zip((found.unet, found.autoencoder, found.text_encoder), expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    UNet(found.unet_config).load_state_dict(found.unet)
    Autoencoder(found.autoencoder_config).load_state_dict(found.autoencoder)
    TextEncoder(found.text_encoder_config).load_state_dict(found.text_encoder)


FULL = {
    "first": (FIRST, OF_SD15, TextEncoderConfig(), 859_520_964, 196),
    "second": (
        SECOND,
        UNetConfig(
            **vars(OF_SD15)
            | {
                "sample_size": 96,
                "context_dim": 1024,
                "heads": (5, 10, 20, 20),
                "linear_projection": True,
                "upcast_attention": True,
            }
        ),
        TextEncoderConfig(width=1024, mlp_width=4096, layers=23, heads=16, activation="gelu"),
        865_910_724,
        372,
    ),
}


@pytest.mark.parametrize(("options", "unet", "text", "parameters", "of_text"), FULL.values(), ids=FULL)
def test_full_size(options, unet, text, parameters, of_text, monkeypatch, tmp_path):
    """Every weight has one name there and one here; the last of OpenCLIP's 24 layers has none."""
    tensors = single_file("meta", **options)
    monkeypatch.setattr(fromnoise.interop.kinds, "tensor_names", lambda path: list(tensors))
    monkeypatch.setattr(
        fromnoise.interop.single_file,
        "read_tensors",
        lambda path, wanted: {name: tensor for name, tensor in tensors.items() if wanted(name)},
    )
    found = read_single_file(tmp_path / "model.safetensors")
    assert (found.unet_config, found.text_encoder_config) == (unet, text)
    assert found.autoencoder_config == AutoencoderConfig(sample_size=768 if "second" in options else 512)
    with torch.device("meta"):
        networks = UNet(unet), Autoencoder(found.autoencoder_config), TextEncoder(text)
    states = found.unet, found.autoencoder, found.text_encoder
    for network, state in zip(networks, states, strict=True):
        wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
        assert {name: tensor.shape for name, tensor in state.items()} == wanted
    assert [len(state) for state in states] == [686, 248, of_text]
    assert sum(tensor.numel() for tensor in found.unet.values()) == parameters


@pytest.mark.parametrize(
    ("name", "prediction", "pixels"),
    [("first", "epsilon", 512), ("inpainting", "epsilon", 512), ("second", "v_prediction", 768)]
    + [("second_inpainting", "epsilon", 512)],
)
def test_the_noise_is_that_of_the_released_directories(name, prediction, pixels, tmp_path):
    found = read_single_file(written(single_file(**SMALL[name]), tmp_path))
    assert found.noise == noise_from_diffusers(PNDM | {"prediction_type": prediction})
    assert found.autoencoder_config.sample_size == pixels
    assert found.unet_config.sample_size == pixels // 2
    assert found.unet_config.heads == ((1, 1) if SMALL[name].get("second") else (8, 8))


@pytest.mark.parametrize("second", [False, True])
def test_what_draws_no_picture_is_not_looked_at(second, tmp_path):
    """Neither the type nor the numbers of the averages, the tables of betas, the discriminator and the positions."""
    tensors, odd = single_file(second=second), torch.tensor([1, 2])
    names = ["model_ema.decay", "model_ema.diffusion_modelout2bias", "betas", "alphas_cumprod", "alphas_cumprod_prev"]
    names += [
        "sqrt_recipm1_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "posterior_mean_coef1",
        "logvar",
        "lvlb_weights",
    ]
    names += [f"{AUTOENCODER}loss.perceptual_loss.lin0.model.1.weight", f"{CLIP}embeddings.position_ids"]
    names += [f"{OPEN_CLIP}attn_mask"] if second else []
    found = read_single_file(written(tensors | {name: odd.clone() for name in names}, tmp_path))
    assert found.unet.keys() == read_single_file(written(tensors, tmp_path)).unet.keys()


def test_weights_are_as_stored(tmp_path):
    tensors = {name: tensor.half() for name, tensor in single_file(second=True).items()}
    found = read_single_file(written(tensors, tmp_path))
    for state in (found.unet, found.autoencoder, found.text_encoder):
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        (["v_pred"], "v_pred"),
        (["cond_stage_model.embedder.weight", "depth_model.weight"], "cond_stage_model.embedder.weight, depth_model.w"),
        ([f"{UNET}label_emb.0.0.weight"], "label_emb.0.0.weight"),
        ([f"{UNET}input_blocks.1.0.norm1.weight"], "input_blocks.1.0.norm1.weight"),
        ([f"{AUTOENCODER}encoder.mid.block_3.norm1.weight"], "encoder.mid.block_3.norm1.weight"),
        ([f"{CLIP}pooler.weight"], "pooler.weight"),
        ([f"{OPEN_CLIP}visual.proj"], "visual.proj"),
    ],
)
def test_foreign_weights_are_named(foreign, named, tmp_path):
    tensors = single_file(second=foreign[0].startswith(OPEN_CLIP))
    message = refusal(written(tensors | {name: torch.tensor(1.0) for name in foreign}, tmp_path))
    assert message.startswith(f"{len(foreign)} weights that Stable Diffusion has not, first {named}")


@pytest.mark.parametrize("missing", [f"{UNET}out.2.weight", f"{AUTOENCODER}decoder.conv_in.weight"])
def test_what_decides_a_size_is_missing(missing, tmp_path):
    tensors = single_file()
    del tensors[missing]
    name = missing.removeprefix(UNET).removeprefix(AUTOENCODER)
    assert refusal(written(tensors, tmp_path)) == f"{name} is missing, or of another shape than in Stable Diffusion"


def test_other_shapes_are_refused(tmp_path):
    tensors = single_file()
    for name, shape, problem in [
        (f"{UNET}input_blocks.0.0.weight", (32, 8, 3, 3), "its U-Net sees 8 channels, and not 4, or 9 with a mask"),
        (f"{UNET}input_blocks.1.0.out_layers.3.weight", (33, 33, 3, 3), "channels 33 is not a multiple of norm_groups"),
        (f"{UNET}middle_block.1.proj_in.weight", (), "middle_block.1.proj_in.weight is missing, or of another shape"),
        (f"{AUTOENCODER}encoder.conv_in.weight", (0, 0), "encoder.conv_in.weight is missing, or of another shape"),
    ]:
        assert refusal(written(tensors | {name: torch.ones(shape)}, tmp_path)).startswith(problem)


@pytest.mark.parametrize(
    ("prefix", "kept", "missing"),
    [
        (UNET, "input_blocks.0.", "input_blocks.1.0.out_layers.3.weight"),
        (f"{AUTOENCODER}encoder.down.", "none", "encoder.down.0.block.0.conv2.weight"),
        (CLIP, "none", "embeddings.token_embedding.weight"),
        (f"{CLIP}encoder.", "none", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_network_is_not_there(prefix, kept, missing, tmp_path):
    tensors = single_file()
    left = {name: tensors[name] for name in tensors if not name.startswith(prefix) or name.startswith(prefix + kept)}
    assert refusal(written(left, tmp_path)).startswith(f"{missing} is missing")


def test_latents_smaller_than_a_pixel_are_refused(tmp_path):
    message = refusal(written(single_file(autoencoder=(32,) * 11), tmp_path))
    assert message == "sample_size 1 is not a multiple of 2"


def test_what_is_packed_has_too_little_in_it(tmp_path):
    """A network finds it: of the three there are two, or none."""
    name = f"{OPEN_CLIP}transformer.resblocks.0.attn.in_proj_bias"
    for shape, found in [((2,), {"q_proj.bias", "k_proj.bias"}), ((), {"in_proj_bias"})]:
        state = read_single_file(written(single_file(second=True) | {name: torch.ones(shape)}, tmp_path)).text_encoder
        biases = {name for name in state if name.startswith("encoder.layers.0.self_attn") and name.endswith("bias")}
        assert biases == {f"encoder.layers.0.self_attn.{name}" for name in {*found, "out_proj.bias"}}


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    tensors = single_file()
    tensors[f"{UNET}out.2.bias"][0] = torch.nan
    assert refusal(written(tensors, tmp_path)).startswith(f"{UNET}out.2.bias has numbers that are not finite")
    torch.save(tensors, tmp_path / "model.ckpt")
    assert refusal(tmp_path / "model.ckpt").startswith(f"{UNET}out.2.bias has numbers that are not finite")


def test_another_model_is_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 768)}}, path)
    assert refusal(path) == f"{path} is a textual inversion embedding, and no single file of Stable Diffusion 1 or 2"


def stub(module, name, monkeypatch):
    """A class that pickles under this name, of a module that is not there."""
    for parent in accumulate(module.split("."), "{}.{}".format):
        if parent.startswith("pytorch_lightning") or parent == module:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    sys.modules[module].__dict__[name] = type(name, (), {"__module__": module})
    return sys.modules[module].__dict__[name]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True], ids=["bare", "lightning"])
def test_a_checkpoint_is_read_as_safetensors_are(nested, legacy, monkeypatch, tmp_path):
    """What Lightning wrote beside the weights: its callback's class, and a number of NumPy."""
    tensors = single_file()
    content = tensors
    if nested:
        callback = stub("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", monkeypatch)
        scores = np.float64(0.5), stub("numpy.core.multiarray", "scalar", monkeypatch)  # as NumPy 1 named it
        content = {"epoch": 3, "state_dict": tensors, "callbacks": {callback: {"best_model_score": scores}}}
    path = tmp_path / "model.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    found, expected = read_single_file(path), read_single_file(written(tensors, tmp_path))
    for part in ("unet", "autoencoder", "text_encoder"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_stands_for_other_classes_does_nothing():
    thing = Inert(print, "said")
    thing.__setstate__({"run": print})
    assert not vars(thing)


class Code:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "within"])
def test_code_in_a_checkpoint_does_not_run(place, legacy, tmp_path):
    """It would have: the same file makes the folder when it is opened as pickles used to be."""
    made, path, tensors = tmp_path / "made", tmp_path / "model.ckpt", single_file()
    code = Code(exec, f"import os; os.mkdir({str(made)!r})")
    content = {"state_dict": tensors, "note": code} if place == "beside" else {"state_dict": tensors | {"note": code}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert refusal(path) == f"{path} asks for exec, which is code, and is refused: take the model as safetensors"
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda: 3, "is no tensor that is stored whole"),
        (lambda: torch.ones(1).expand(2**40), "is no tensor that is stored whole"),
        (lambda: torch.eye(2).to_sparse(), "is no tensor that is stored whole"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)]), "is no tensor that is stored whole"),
        (lambda: torch.ones(2, device="meta"), "is no tensor that is stored whole"),
        (lambda: torch.tensor([1, 2]), "is of type int64"),
    ],
    ids=["number", "repeated", "sparse", "nested", "meta", "int64"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_a_checkpoint_cannot_hold(value, problem, tmp_path):
    torch.save({"state_dict": single_file() | {f"{UNET}out.2.bias": value()}}, tmp_path / "model.ckpt")
    assert refusal(tmp_path / "model.ckpt").startswith(f"{UNET}out.2.bias {problem}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02]q\x00.", b"not a pickle", b"\x80\x02K\x01."])
def test_a_damaged_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(content)
    assert "safetensors" in refusal(tmp_path / "model.ckpt")


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(single_file(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged, or no checkpoint" in refusal(path)
    torch.save([1, 2], path)
    assert refusal(path) == f"{path} holds no weights by name, as a checkpoint does"
