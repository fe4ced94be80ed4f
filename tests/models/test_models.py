"""A model directory: round trips, layouts, legacy names, and every way in which one can be broken."""

import json
import os
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.interop.rules import LEGACY_NAMES
from fromnoise.models import Model, cached_models, open_model, save_model, shipped, shipped_models
from fromnoise.models.conditioning import Classes, Unconditional
from fromnoise.nn.unet import UNet, UNetConfig

CONFIG = UNetConfig(sample_size=8, channels=(8, 8), attention_levels=(False, True), layers_per_block=1, norm_groups=4)
CONDITIONAL = UNetConfig(sample_size=8, channels=(8,), attention_levels=(False,), norm_groups=4, num_class_embeds=4)
UNET, WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"


def new_unet(config=CONFIG):
    torch.manual_seed(0)
    return UNet(config)


@pytest.fixture
def saved(tmp_path):
    """A small unconditional model in a directory of its own."""
    save_model(Model.of_pixels(new_unet(), NoiseConfig()), tmp_path / "model")
    return tmp_path / "model"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(path, change):
    state = safetensors.torch.load(path.read_bytes())
    change(state)
    safetensors.torch.save_file(state, path)


def refusal(name, revision=None):
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as caught:
        open_model(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def same_weights(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


# Round trips and layouts


def test_round_trip(tmp_path):
    scheduler = NoiseConfig(77, "scaled_linear", 1e-3, 0.01, "v_prediction", "fixed_large", False, 2.0, "trailing", 1)
    model = Model.of_pixels(new_unet(CONDITIONAL), scheduler, ("cat", "chien 🐕", "dog, hound"))
    save_model(model, tmp_path)
    assert files(tmp_path) == sorted([INDEX, SCHEDULER, UNET, WEIGHTS])
    found = open_model(tmp_path)
    assert found.unet.config == CONDITIONAL
    assert found.noise == scheduler
    assert found.conditioner == model.conditioner == Classes(("cat", "chien 🐕", "dog, hound"), has_null=True)
    assert same_weights(found.unet.state_dict(), model.unet.state_dict())
    assert all(parameter.requires_grad for parameter in found.unet.parameters())


def test_a_name_is_a_path_with_or_without_slashes(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    for name in ("model", "./model", "model/", str(saved), saved):
        assert open_model(name).unet.config == CONFIG


def test_opening_draws_no_random_numbers(saved):
    before = torch.get_rng_state()
    open_model(saved)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_disk_is_single_in_memory(dtype, tmp_path):
    unet = new_unet()
    save_model(Model.of_pixels(unet, NoiseConfig()), tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in safetensors.torch.load_file(tmp_path / WEIGHTS).values()} == {dtype}
    rounded = {key: tensor.to(dtype).float() for key, tensor in unet.state_dict().items()}
    assert same_weights(open_model(tmp_path).unet.state_dict(), rounded)


def test_flat_directories(saved):
    """The U-Net alone, then with its scheduler beside it, then also with an index as google/ddpm-cifar10-32."""
    flat = saved.parent / "flat"
    (saved / "unet").rename(flat)
    assert refusal(flat).startswith(f"{flat} is a U-Net alone: put the scheduler_config.json ")

    edit_json(saved / SCHEDULER, num_train_timesteps=50)
    (saved / SCHEDULER).rename(flat / "scheduler_config.json")
    assert open_model(flat).noise == NoiseConfig(50)

    (saved / INDEX).rename(flat / INDEX)
    assert open_model(flat).noise == NoiseConfig(50)
    (flat / "scheduler_config.json").unlink()
    assert refusal(flat) == f"{flat / 'scheduler_config.json'} is missing"


@pytest.mark.parametrize(
    ("class_names", "expected", "has_null"),
    [
        (("a", "b", "c"), ("a", "b", "c"), True),
        (("a", "b", "c", "d"), ("a", "b", "c", "d"), False),
        (None, ("0", "1", "2", "3"), False),
    ],
)
def test_classes(class_names, expected, has_null, tmp_path):
    save_model(Model.of_pixels(new_unet(CONDITIONAL), NoiseConfig(), class_names), tmp_path)
    if class_names is None:
        edit_json(tmp_path / INDEX, id2label=None)
    assert open_model(tmp_path).conditioner == Classes(expected, has_null)


def test_unconditional_has_no_classes(saved):
    assert open_model(saved).conditioner == Unconditional()
    assert "id2label" not in json.loads((saved / INDEX).read_text())


# Legacy names


@pytest.mark.parametrize(
    ("legacy", "modern"),
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")],
)
def test_legacy_names(legacy, modern, saved):
    assert LEGACY_NAMES[f".{legacy}."] == f".{modern}."
    expected = open_model(saved).unet.state_dict()
    renamed = {key.replace(f".{modern}.", f".{legacy}."): tensor for key, tensor in expected.items()}
    assert len(renamed.keys() - expected.keys()) == 8  # weight and bias of one down, one middle and two up attentions
    safetensors.torch.save_file(renamed, saved / WEIGHTS)
    assert same_weights(open_model(saved).unet.state_dict(), expected)


def test_each_legacy_name_is_tested():
    assert set(LEGACY_NAMES) == {".query.", ".key.", ".value.", ".proj_attn."}


# Bad directories


@pytest.mark.parametrize("name", [UNET, WEIGHTS, SCHEDULER])
def test_missing_file(name, saved):
    (saved / name).unlink()
    assert refusal(saved) == f"{saved / name} is missing"


def test_empty_directory(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path / 'config.json'} is missing"


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_only_a_pickle(suffix, saved):
    trap = saved / "opened"
    (saved / WEIGHTS).unlink()
    (saved / "unet" / f"weights{suffix}").write_bytes(pickle.dumps(Trap(str(trap))))
    message = refusal(saved)
    assert f"weights{suffix} is never opened" in message
    assert "convert it to safetensors" in message
    assert not trap.exists()


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_missing_keys(saved):
    edit_weights(saved / WEIGHTS, lambda state: [state.pop("conv_in.bias"), state.pop("conv_out.weight")])
    assert refusal(saved) == f"{saved / WEIGHTS}: keys do not fit the config: 2 missing, first conv_in.bias"


def test_extra_keys(saved):
    edit_weights(saved / WEIGHTS, lambda state: state.update(surplus=torch.ones(1)))
    assert refusal(saved) == f"{saved / WEIGHTS}: keys do not fit the config: 1 extra, first surplus"


def test_wrong_shape(saved):
    edit_weights(saved / WEIGHTS, lambda state: state.update({"conv_in.bias": torch.ones(9)}))
    assert refusal(saved).endswith("1 of the wrong shape, first conv_in.bias: found [9], expected [8]")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"not a tensor in sight, and long enough to have a header",
        lambda content: content[:8] + b"#" + content[9:],
    ],
    ids=["truncated", "truncated header", "empty", "another format", "corrupt header"],
)
def test_damaged_weights(damage, saved):
    path = saved / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(saved).startswith(f"{path} is not a complete safetensors file: ")


@pytest.mark.parametrize("name", [UNET, SCHEDULER, INDEX])
@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[]"])
def test_damaged_json(name, content, saved):
    (saved / name).write_bytes(content)
    problem = {b"\xff\xfe": "cannot read {}: ", b"[]": "{} is not a JSON object"}.get(content, "{} is not valid JSON: ")
    assert refusal(saved).startswith(problem.format(saved / name))


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        (UNET, "cross_attention_dim", 768, "unknown key cross_attention_dim"),
        (UNET, "in_channels", "3", 'in_channels: "3" is not supported'),
        (UNET, "sample_size", 7, "sample_size 7 is not a multiple of 2"),
        (UNET, "_class_name", "UNet2DConditionModel", 'down_block_types.1: "AttnDownBlock2D" is not supported'),
        (SCHEDULER, "_class_name", "FlowMatchEulerDiscreteScheduler", "_class_name: "),
        (SCHEDULER, "beta_start", 0, "beta_start: 0 is not supported"),
        (INDEX, "vqvae", ["diffusers", "VQModel"], "unknown key vqvae"),
        (INDEX, "unet", "UNet2DModel", 'unet: "UNet2DModel" is not supported'),
        (INDEX, "id2label", ["cat"], 'id2label: ["cat"] is not supported'),
        (INDEX, "id2label", {"0": 7}, "id2label.0: 7 is not supported"),
        (INDEX, "id2label", {"1": "cat"}, 'id2label: {"1": "cat"} is not supported'),
        (INDEX, "id2label", {"0": ""}, 'id2label.0: "" is not supported'),
        (INDEX, "id2label", {"0": "x" * 2000}, "id2label.0: "),
        (INDEX, "id2label", {"0": "a", "01": "b"}, "id2label: {"),
        (INDEX, "id2label", {"0": "cat"}, "id2label: 1 class names do not fit a class table of 0 rows"),
    ],
)
def test_bad_config(name, key, value, expected, saved):
    edit_json(saved / name, **{key: value})
    assert refusal(saved).startswith(f"{saved / name}: {expected}")


@pytest.mark.parametrize(
    "name", ["mnist-9000", "no/such/directory", "/no/such", "./no/such", "../no", "model.safetensors"]
)
def test_unknown_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert message.startswith(f"unknown model {name!r}: shipped are ")
    assert message.endswith("; or give a directory or a hub id")


@pytest.mark.parametrize("name", ["first", "owner/name"])
def test_a_path_is_neither_a_shipped_name_nor_a_hub_id(name, zoo):
    assert refusal(Path(name)).startswith(f"unknown model {name!r}")


def test_revision_of_a_directory(saved):
    assert refusal(saved, revision="v2") == f"revision v2 given for {saved}, which is not on the hub: leave it out"


# Writing


def test_unwritable_directory(saved):
    model, blocked = open_model(saved), saved.parent / "file"
    blocked.touch()
    with pytest.raises(UserError, match=f"^cannot write {blocked}.*: "):
        save_model(model, blocked)


def test_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in files(saved)}

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        save_model(Model.of_pixels(new_unet(), NoiseConfig(5)), saved)
    assert {name: (saved / name).read_bytes() for name in files(saved)} == before


# What ships and what is in the cache


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of two models, and a directory that is none."""
    zoo = tmp_path / "zoo"
    monkeypatch.setattr(shipped, "ZOO", zoo)
    save_model(Model.of_pixels(new_unet(), NoiseConfig()), zoo / "second")
    save_model(Model.of_pixels(new_unet(), NoiseConfig()), zoo / "first")
    (zoo / "first" / "README.md").write_text("---\nlicense: mit\n---\n\n# First\n\nSmall digits.\nMore.\n")
    (zoo / "none").mkdir()
    return zoo


def test_shipped_models(zoo):
    found = [(model.name, model.path, model.description) for model in shipped_models()]
    assert found == [("first", zoo / "first", "Small digits."), ("second", zoo / "second", "")]
    assert open_model("first").unet.config == CONFIG
    assert refusal("third") == "unknown model 'third': shipped are first, second; or give a directory or a hub id"


def test_no_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ZOO", tmp_path / "zoo")
    assert shipped_models() == []
    assert "shipped are none" in refusal("first")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's, without a network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def store(cache, hub_id, config=CONFIG):
    """Puts a model into the cache as a download does."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    commit = "0123456789" * 4
    save_model(Model.of_pixels(new_unet(config), NoiseConfig()), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def test_hub_id_in_the_cache_opens_offline(cache):
    store(cache, "owner/name")
    assert open_model("owner/name").unet.config == CONFIG


def test_hub_id_in_the_cache_opens_when_the_transport_fails(cache, monkeypatch):
    store(cache, "owner/name")
    download = huggingface_hub.snapshot_download

    def through_a_broken_proxy(*arguments, local_files_only=False, **options):
        if not local_files_only:
            raise RuntimeError("proxy")
        return download(*arguments, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", through_a_broken_proxy)
    assert open_model("owner/name").unet.config == CONFIG


def test_offline(cache):
    expected = "cannot reach the hub for owner/name (OfflineModeIsEnabled): connect, or pass a local directory"
    assert refusal("owner/name") == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RepositoryNotFoundError, "no model owner/name on the hub: check the name, or log in if it is private"),
        (RevisionNotFoundError, "no revision v9 of owner/name on the hub: check its branches and tags"),
    ],
)
def test_not_on_the_hub(error, expected, cache, monkeypatch):
    def answer(*arguments, **options):
        raise error.__new__(error)  # its constructor wants a response

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert refusal("owner/name", revision="v9") == expected


def test_download_takes_no_pickle(saved, monkeypatch):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda hub_id, **options: asked.update(options) or saved)
    open_model("owner/name", revision="v2")
    assert asked["revision"] == "v2"
    offered = [INDEX, UNET, WEIGHTS, "README.md", "unet/diffusion_pytorch_model.bin", "model.ckpt", "run.py"]
    wanted = list(huggingface_hub.utils.filter_repo_objects(offered, allow_patterns=asked["allow_patterns"]))
    assert wanted == [INDEX, UNET, WEIGHTS, "README.md"]


def test_cached_models(cache):
    assert cached_models() == []
    store(cache, "owner/small")
    store(cache, "owner/conditional", CONDITIONAL)
    (store(cache, "owner/without-weights") / WEIGHTS).unlink()
    edit_json(store(cache, "owner/text") / UNET, _class_name="UNet2DConditionModel")
    assert cached_models() == ["owner/conditional", "owner/small"]
