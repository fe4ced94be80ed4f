"""Pipelines of Stable Diffusion open in each form that people have them in, or are refused in one line."""

import json
import shutil

import pytest
import torch
from compvis import single_file
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from small_sd import VOCABULARY, save_pipeline, save_tokenizer

from fromnoise.errors import UserError
from fromnoise.models import hub, open_model
from fromnoise.models.store import is_supported
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request

UNET, CODER, TEXT = "unet", "vae", "text_encoder"
WEIGHTS = {UNET: "diffusion_pytorch_model", CODER: "diffusion_pytorch_model", TEXT: "model"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture
def pipeline(original, tmp_path):
    return shutil.copytree(original, tmp_path / "sd")


def state(model):
    """All weights of a model, by part and name."""
    parts = {UNET: model.unet, CODER: model.space.autoencoder, TEXT: model.conditioner.text_encoder}
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def assert_same(model, other, tolerance=0.0):
    here, there = state(model), state(other)
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], rtol=tolerance, atol=tolerance)
    assert (model.noise, model.space.shape) == (other.noise, other.space.shape)


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder, part, change):
    """Changes the weights of a part in their file."""
    path = folder / part / f"{WEIGHTS[part]}.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_shards(original, tmp_path):
    sharded = save_pipeline(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((sharded / UNET).glob("*-of-*.safetensors"))) > 1
    assert_same(open_model(sharded), open_model(original))


def test_a_variant(original, tmp_path):
    half = save_pipeline(tmp_path / "half", variant="fp16")
    assert not (half / UNET / "diffusion_pytorch_model.safetensors").exists()
    assert_same(open_model(half), open_model(original))


def test_weights_in_half_precision_are_widened(original, pipeline):
    for part in WEIGHTS:
        rewrite(pipeline, part, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    model = open_model(pipeline)
    assert all(tensor.dtype == torch.float32 for tensor in state(model).values())
    assert_same(model, open_model(original), tolerance=1e-3)


def test_the_unet_alone_finds_the_parts_around_it(original):
    assert_same(open_model(original / UNET), open_model(original))


def test_names_of_older_releases(original, pipeline):
    """Attention's parts had other names, 1x1 convolutions became linear layers, and positions were stored."""

    def of_coder(weights):
        renamed = {}
        for name, tensor in weights.items():
            for modern, legacy in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                name = name.replace(f".{modern}.", f".{legacy}.")
            matrix = ".attentions." in name and tensor.ndim == 2
            renamed[name] = tensor[:, :, None, None].contiguous() if matrix else tensor
        assert renamed.keys() != weights.keys()
        return renamed

    def of_text(weights):
        plain = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
        positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        return {f"text_model.{name}": tensor for name, tensor in plain.items()} | positions

    rewrite(pipeline, CODER, of_coder)
    rewrite(pipeline, TEXT, of_text)
    assert_same(open_model(pipeline), open_model(original))


def test_both_names_at_once(pipeline):
    rewrite(pipeline, TEXT, lambda w: w | {f"text_model.{name.removeprefix('text_model.')}": w[name] for name in w}
            | {name.removeprefix("text_model."): w[name].clone() for name in w})  # fmt: skip
    assert "twice" in refusal(pipeline)


@pytest.mark.parametrize("part", WEIGHTS)
def test_keys_that_are_missing_or_foreign_are_named(part, pipeline):
    def change(weights):
        first, *rest = weights
        return {name: weights[name] for name in rest} | {"another.weight": torch.ones(1)}

    rewrite(pipeline, part, change)
    message = refusal(pipeline)
    assert "1 missing, first " in message and "1 extra, first another.weight" in message
    assert str(pipeline / part) in message


@pytest.mark.parametrize("version", ["0.6.0", "0.8.1", "0.9.0", None])
def test_files_of_the_first_months_are_corrected_as_by_the_pipelines(version, pipeline):
    """Checked with diffusers itself: of the U-Net's size, and of the times that a scheduler's file leaves out."""
    unet, scheduler = pipeline / "unet" / "config.json", pipeline / "scheduler" / "scheduler_config.json"
    content = json.loads(unet.read_text()) | {"_diffusers_version": version}
    unet.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    content = json.loads(scheduler.read_text())
    del content["steps_offset"]
    scheduler.write_text(json.dumps(content))
    theirs, ours = StableDiffusionPipeline.from_pretrained(pipeline, local_files_only=True), open_model(pipeline)
    assert ours.noise.steps_offset == theirs.scheduler.config.steps_offset == 1
    assert ours.unet.config.sample_size == theirs.unet.config.sample_size
    assert ours.space.shape[1] == (64 if version in ("0.6.0", "0.8.1") else 8)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae"])
def test_what_a_text_needs(part, pipeline):
    shutil.rmtree(pipeline / part)
    assert f"{part}/ is not there" in refusal(pipeline)


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        (TEXT, "hidden_size", 24, "vectors of 24 numbers, the U-Net takes 16"),
        (TEXT, "vocab_size", 9, f"has {len(VOCABULARY)} tokens"),
        (TEXT, "max_position_embeddings", 9, "makes 77 of a text"),
        (CODER, "latent_channels", 3, "latents of 3 channels"),
    ],
)
def test_parts_of_different_models(part, key, value, told, pipeline):
    path = pipeline / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    message = refusal(pipeline)
    assert told in message and "parts of different models" in message


def test_another_kind_of_model_is_named(pipeline):
    path = pipeline / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "StableDiffusionXLPipeline"}))
    assert "is Stable Diffusion XL" in refusal(pipeline)


def test_a_single_file(tmp_path, monkeypatch):
    """It brings no vocabulary: one lies beside it, or comes from the hub."""
    path = tmp_path / "model.safetensors"
    sizes = {"channels": (32, 64), "autoencoder": (32, 32, 32, 32), "text": (len(VOCABULARY), 64, 32, 1, 77)}
    save_file({name: 0.1 * tensor for name, tensor in single_file(**sizes).items()}, path)

    def offline(hub_id, revision, choices):
        raise UserError(f"cannot reach the hub for {hub_id}")

    monkeypatch.setattr(hub, "_download", offline)
    assert "put the tokenizer/ of its model beside it; cannot reach the hub" in refusal(path)
    names = "conditioner.embedders.1.model.ln_final.bias", "model.diffusion_model.out.2.bias"
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "xl.safetensors")
    assert "Stable Diffusion XL" in refusal(tmp_path / "xl.safetensors"), "of which no vocabulary is asked for"
    save_tokenizer(tmp_path / "tokenizer")
    request = Request(prompts=("a cat",), steps=1, guidance=1.0, height=16, width=16)
    assert generate(open_model(path), request).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("card", "said"), [("---\nlicense: openrail++\n---\n", "licence openrail++"), (None, "no licence")]
)
def test_the_licence_is_said(card, said, pipeline, capsys):
    if card is not None:
        (pipeline / "README.md").write_text(card)
    open_model(pipeline)
    message = capsys.readouterr().err
    assert said in message and "no safety checker" in message


def test_only_what_is_read_is_downloaded(original, tmp_path, monkeypatch):
    """In one variant of the weights: that of float32, or else the next."""
    remote = shutil.copytree(original, tmp_path / "remote")
    extra = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors", "v1.ckpt"]
    extra += ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "picture.png"]
    for name in extra:
        (remote / name).parent.mkdir(exist_ok=True)
        (remote / name).write_bytes(b"large")
    fetched = set()

    def snapshot_download(hub_id, *, revision, allow_patterns, local_files_only):
        from huggingface_hub.utils import filter_repo_objects

        names = [str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file()]
        wanted = set(filter_repo_objects(names, allow_patterns=allow_patterns))
        fetched.update(wanted)
        for name in wanted:
            (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(remote / name, tmp_path / "local" / name)
        return tmp_path / "local"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert_same(open_model("somebody/model"), open_model(original))
    assert not fetched & set(extra)


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_pipeline_without_all_its_weights_is_not_listed(part, pipeline):
    assert is_supported(pipeline)
    (pipeline / part / f"{WEIGHTS[part]}.safetensors").unlink()
    assert not is_supported(pipeline)
