"""Models lie about in many forms: each opens with the scheduler of its training, or is refused in one line."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from fromnoise import cli
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.models import Model, open_model, save_model
from fromnoise.models.conditioning import Classes
from fromnoise.nn.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    sample_size=8,
    channels=(8, 8),
    attention_levels=(False, True),
    layers_per_block=1,
    norm_groups=4,
    num_class_embeds=3,
)
NOISE = NoiseConfig(50, "squaredcos_cap_v2", prediction_type="v_prediction")
NAME = "diffusion_pytorch_model"
TINY = Path(__file__).parents[1] / "train" / "tiny.toml"


@pytest.fixture
def saved(tmp_path):
    """A model of two classes and the null class."""
    torch.manual_seed(0)
    save_model(Model.of_pixels(UNet(CONFIG), NOISE, ("cat", "dog")), tmp_path / "model")
    return tmp_path / "model"


def refusal(directory):
    with pytest.raises(UserError) as caught:
        open_model(directory)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 500
    return str(caught.value)


def move(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def shard(folder, names=("a.safetensors", "b.safetensors")):
    """The weights in two files with an index."""
    state = load_file(folder / f"{NAME}.safetensors")
    keys = sorted(state)
    parts = [keys[::2], keys[1::2]]
    for name, part in zip(names, parts, strict=True):
        save_file({key: state[key] for key in part}, folder / name)
    index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / f"{NAME}.safetensors").unlink()
    (folder / f"{NAME}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def variant(folder):
    move(folder / f"{NAME}.safetensors", folder / f"{NAME}.fp16.safetensors")


def sharded_variant(folder):
    shard(folder)
    move(folder / f"{NAME}.safetensors.index.json", folder / f"{NAME}.safetensors.index.fp16.json")


@pytest.mark.parametrize("change", [variant, shard, sharded_variant])
def test_forms_of_weights(change, saved):
    expected = open_model(saved).unet.state_dict()
    change(saved / "unet")
    found = open_model(saved).unet.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_plain_weights_come_before_a_variant(saved):
    save_model(open_model(saved), saved.parent / "half", dtype=torch.float16)
    shutil.copy(saved.parent / "half" / "unet" / f"{NAME}.safetensors", saved / "unet" / f"{NAME}.fp16.safetensors")
    assert torch.equal(
        open_model(saved).unet.conv_in.weight, load_file(saved / "unet" / f"{NAME}.safetensors")["conv_in.weight"]
    )


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/a.safetensors", "b/a.safetensors", "a.bin", "..", ""])
def test_a_shard_is_a_file_beside_its_index(name, saved):
    shard(saved / "unet")
    path = saved / "unet" / f"{NAME}.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"]["conv_in.bias"] = name
    path.write_text(json.dumps(content))
    assert refusal(saved).startswith(f"{path}: weight_map.conv_in.bias: {json.dumps(name)} is not supported")


def test_missing_and_doubled_shards(saved):
    shard(saved / "unet")
    twice = load_file(saved / "unet" / "a.safetensors") | load_file(saved / "unet" / "b.safetensors")
    (saved / "unet" / "b.safetensors").unlink()
    assert refusal(saved) == f"{saved / 'unet' / 'b.safetensors'} is missing"
    save_file(twice, saved / "unet" / "b.safetensors")
    assert "twice" in refusal(saved)


def test_a_weight_by_its_old_and_its_new_name(saved):
    path = saved / "unet" / f"{NAME}.safetensors"
    state = load_file(path)
    key = next(key for key in state if ".to_q." in key)
    save_file(state | {key.replace(".to_q.", ".query."): torch.zeros_like(state[key])}, path)
    assert f"{key} twice" in refusal(saved)


@pytest.mark.parametrize("value", [torch.full((8,), float("nan")), torch.zeros(8, dtype=torch.int64)])
def test_weights_that_cannot_be(value, saved):
    path = saved / "unet" / f"{NAME}.safetensors"
    save_file(load_file(path) | {"conv_in.bias": value}, path)
    assert refusal(saved).startswith(f"{path}: conv_in.bias ")


@pytest.mark.parametrize(
    ("unet", "opened"),
    [
        ("unet", "unet"),
        ("unet", "unet/"),
        ("unet_ema", "unet_ema"),
        ("unet_ema", "."),
        ("checkpoint-500/unet", "checkpoint-500/unet"),
        ("checkpoint-500/unet", "checkpoint-500"),
        ("checkpoint-500/unet_ema", "checkpoint-500/unet_ema"),
    ],
)
def test_a_part_of_a_pipeline_takes_its_scheduler_and_classes(unet, opened, saved, monkeypatch):
    move(saved / "unet", saved / unet)
    for path in (saved / opened, f"{saved}/{opened}"):
        model = open_model(path)
        assert model.noise == NOISE
        assert model.conditioner == Classes(("cat", "dog"), has_null=True)
    monkeypatch.chdir(saved / opened)
    assert open_model(".").noise == NOISE
    shutil.rmtree(saved / "scheduler")
    assert "scheduler_config.json is missing" in refusal(".")
    (saved / "model_index.json").unlink()
    assert "is a U-Net alone: put the scheduler_config.json" in refusal(saved / opened)


def test_a_pipeline_without_an_index(saved):
    (saved / "model_index.json").unlink()
    model = open_model(saved)
    assert model.noise == NOISE
    assert model.conditioner == Classes(("0", "1", "2"), has_null=False)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("opened", [".", "unet"])
def test_a_latent_model_is_refused(index, opened, saved):
    (saved / "vqvae").mkdir()
    if not index:
        (saved / "model_index.json").unlink()
    assert "sees latents" in refusal(saved / opened)


def test_what_diffusers_saves_while_it_trains(tmp_path):
    """train_unconditional.py leaves a pipeline, and in checkpoint-N the network and its average."""
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    network = UNet2DModel(sample_size=8, norm_num_groups=4, layers_per_block=1, **blocks)
    average = EMAModel(network.parameters(), model_cls=UNet2DModel, model_config=network.config)
    DDPMPipeline(network, DDPMScheduler(50)).save_pretrained(tmp_path)
    average.save_pretrained(tmp_path / "checkpoint-7" / "unet_ema")
    network.save_pretrained(tmp_path / "checkpoint-7" / "unet")
    for part in (".", "unet", "checkpoint-7", "checkpoint-7/unet", "checkpoint-7/unet_ema"):
        assert open_model(tmp_path / part).noise == NoiseConfig(50, set_alpha_to_one=None)


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    run = tmp_path / "a run"
    assert cli.main(["train", str(TINY), "--out", str(run), "--train.steps", "2", "--train.checkpoint-every", "1"]) == 0
    for path in ("unet", "scheduler"):
        shutil.rmtree(run / path)
    for path in ("model_index.json", "README.md"):
        (run / path).unlink()
    for folder in (run / "checkpoints" / "step-00000002", run / "checkpoints", run):
        message = refusal(folder)
        assert message.startswith(f"{folder} is of a run that is not finished: fromnoise train ")
    command = message.partition("not finished: ")[2].partition(" goes on")[0]
    assert cli.main(shlex.split(command)[1:]) == 0
    assert open_model(run).conditioner.names
