"""The latent U-Net: what it is told, what it sees, and what a run of it leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from drawing import assert_same_picture
from PIL import Image
from runs import Run, assert_same_run, logged_step
from small_sd import random_parts

from fromnoise.errors import UserError
from fromnoise.models import open_model
from fromnoise.models.saving import save_autoencoder, save_prompts
from fromnoise.train.config import TrainingConfig, load_config
from fromnoise.train.tasks import denoising, latents
from fromnoise.train.tasks.denoising import DenoisingTask
from fromnoise.train.trainer import Trainer

LATENT = Path(__file__).with_name("tiny-latent.toml")
EAGER = {"train.device": "cpu", "train.dtype": "fp32", "train.compile": "no"}


def save_parts(folder: Path, scale: float = 1.0) -> Path:
    """Two runs in one folder; ``scale`` tells their weights from those of others."""
    autoencoder, prompts = random_parts(16)
    with torch.no_grad():
        autoencoder.encoder.conv_out.weight.mul_(scale)
    save_autoencoder(autoencoder, folder / "vae")
    save_prompts(prompts, folder)
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text("{}")
    (folder / "training.toml").touch(), (folder / "README.md").touch()
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return save_parts(tmp_path_factory.mktemp("parts") / "run")


@pytest.fixture
def config(parts) -> TrainingConfig:
    return with_parts(parts)


def with_parts(folder: Path, **settings) -> TrainingConfig:
    places = {"parts.autoencoder": str(folder), "parts.clip": str(folder)}
    return load_config(str(LATENT)).override(EAGER | places | settings)


def test_the_loss_of_the_network_falls_and_the_parts_stay(config, tmp_path):
    trainer = Trainer(config, tmp_path)
    before = trainer.task.record
    losses = [trainer.take_step().loss.item() for _ in range(30)]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert latents._checksum(trainer.task.data.space, trainer.task.data.prompts) == before.parts


def test_captions_are_dropped_at_the_rate_and_validation_drops_none(config, monkeypatch):
    task = DenoisingTask(config.override({"train.class_dropout": 0.25}), "scenes")
    batches = [task.batch(torch.arange(100), 0, step) for step in range(10)]
    dropped = torch.cat([(batch["tokens"] == task.data.empty).all(1) for batch in batches]).double()
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / len(dropped)) ** 0.5
    monkeypatch.setattr(denoising, "VALIDATION_IMAGES", 48)
    seen, loss = [], DenoisingTask.loss
    monkeypatch.setattr(DenoisingTask, "loss", lambda *a: (seen.append(a[2]["tokens"]), loss(*a))[1])
    with torch.no_grad():
        found = task.validate(task.network.eval())
        assert found == task.validate(task.network)
    assert len(torch.cat(seen)) == 2 * 48
    assert not (torch.cat(seen) == task.data.empty).all(1).any()


def test_the_network_sees_scaled_means_and_is_told_the_vectors_of_the_caption(config):
    """As the model that is exported would encode the same pictures and prompts."""
    task = DenoisingTask(config.override({"train.class_dropout": 0.0}), "scenes")
    batch = task.batch(torch.arange(5), 0, 0)
    inputs = task.data.inputs(batch)
    drawn, captions = task.data.pictures.draw(torch.arange(5), latents.generator_for(0, 5, 0))
    model = task.model(task.network)
    mean, _ = model.space.autoencoder.encode(task.data.pictures.images(drawn))
    assert torch.allclose(inputs["x0"], 0.5 * mean, atol=1e-5)
    assert torch.allclose(inputs["context"], model.conditioner.encode(captions)["context"], atol=1e-5)
    assert not inputs["x0"].requires_grad and not inputs["context"].requires_grad
    assert inputs["x0"].shape == batch["noise"].shape == (5, 4, 4, 4)


def test_a_text_encoder_is_trained_with_its_network(config, tmp_path):
    """Its vectors are those of the CLIP at first, have gradients, and the averaged ones are what a model is told by."""
    joint = config.override({"parts.train_text_encoder": True, "train.class_dropout": 0.0})
    trainer, frozen = Trainer(joint, tmp_path), DenoisingTask(config.override({"train.class_dropout": 0.0}), "scenes")
    task, batch = trainer.task, frozen.batch(torch.arange(4), 0, 0)
    frozen.network.load_state_dict(trainer.network.unet.state_dict())
    assert torch.allclose(task.loss(trainer.network, batch), frozen.loss(frozen.network, batch), atol=1e-6)
    before = trainer.task.data.text_encoder.state_dict()
    begun = trainer.network.text_encoder.state_dict()
    assert all(torch.equal(begun[name], weight) for name, weight in before.items())
    for _ in range(3):
        trainer.take_step()
    after = trainer.network.text_encoder.state_dict()
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())
    prompts = task.model(trainer.averaged).conditioner
    tokens = torch.tensor([prompts.tokenizer("a red seven").ids])
    told = prompts.encode(["a red seven"])["context"]
    assert torch.equal(told, trainer.averaged.text_encoder(tokens))
    assert not torch.allclose(told, frozen.data.text_encoder(tokens), atol=1e-6)


def test_a_text_encoder_that_is_trained_knows_the_words_of_the_captions(config, tmp_path):
    parts = shutil.copytree(config.parts.clip, tmp_path / "parts")
    (parts / "tokenizer" / "words.txt").write_text("cat\n")
    for grey in range(8):
        Image.new("L", (16, 16), grey).save(tmp_path / f"{grey}.png")
        (tmp_path / f"{grey}.txt").write_text(f"A quokka, or {grey}")
    for trained, known in ((False, {"cat"}), (True, {"cat", "a", "quokka", "or"})):
        settings = {"parts.clip": str(parts), "parts.train_text_encoder": trained}
        task = DenoisingTask(config.override(settings), str(tmp_path))
        task.export(task.network, tmp_path / "out", torch.float32)
        words = set((tmp_path / "out" / "tokenizer" / "words.txt").read_text().split())
        assert {word for word in words if not word.isdigit()} == known
        assert ("0" in words or "1" in words) == trained


def test_a_run_goes_on_from_a_model(config, parts, tmp_path):
    joint = {"parts.train_text_encoder": True}
    first = Trainer(config.override(joint), tmp_path / "first")
    first.take_step()
    first.task.export(first.network, tmp_path / "model", torch.float32)
    for settings in (joint, {}):
        task = DenoisingTask(with_parts(parts, **settings, **{"parts.unet": str(tmp_path / "model")}), "scenes")
        network = task.network if settings else latents.PromptedUNet(task.network, task.data.text_encoder)
        for name, weight in first.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], weight), name
    other = {"parts.unet": str(tmp_path / "model"), "network.layers_per_block": 2}
    with pytest.raises(UserError, match=r"parts.unet: .*model has another U-Net than \[network\] says"):
        DenoisingTask(config.override(other), "scenes")
    words = tmp_path / "model/tokenizer/vocab.json"
    vocabulary = json.loads(words.read_text())
    words.write_text(json.dumps({f"{word}x" if word == "a</w>" else word: n for word, n in vocabulary.items()}))
    with pytest.raises(UserError, match="parts.unet knows other words than parts.clip"):
        DenoisingTask(with_parts(parts, **{"parts.unet": str(tmp_path / "model")}), "scenes")


def test_killed_and_resumed_it_ends_with_the_same_bits_and_a_pipeline(parts, tmp_path):
    options = [f"--parts.autoencoder={parts}", f"--parts.clip={parts}"]
    options += ["--train.dtype=fp32", "--train.compile=no", "--train.device=cpu", "--parts.train-text-encoder"]
    reference, out = tmp_path / "reference", tmp_path / "run"
    Run(reference, *options, preset=LATENT).finish()
    Run(out, *options, preset=LATENT).kill_when(lambda: logged_step(out) >= 6)
    Run(out, *options, "--resume", preset=LATENT).finish()
    assert_same_run(out, reference)
    assert (out / "clip" / "config.json").read_bytes() == (parts / "clip" / "config.json").read_bytes()
    assert "parameters of the frozen parts" in (out / "README.md").read_text()
    assert open_model(out).space.image_shape == (3, 16, 16)
    assert_same_picture(out)


def test_other_parts_are_refused_and_the_same_in_another_place_are_not(config, parts, tmp_path):
    first = Trainer(config, tmp_path / "run")
    first.take_step()
    checkpoint = first.save(1.0)
    moved = Path(shutil.copytree(parts, tmp_path / "moved"))
    assert Trainer(with_parts(moved), tmp_path / "run").load(checkpoint).step == 1
    other = Trainer(with_parts(save_parts(tmp_path / "other", scale=1.01)), tmp_path / "run")
    with pytest.raises(UserError, match="was trained on other data"):
        other.load(checkpoint)
    assert json.loads((checkpoint / "state.json").read_text())["data"]["parts"] == first.task.record.parts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts.clip": ""}, "parts.clip is empty: give the folder of a run of fromnoise train mini-sd-clip"),
        (
            {"parts.autoencoder": "nowhere"},
            "there is no nowhere/vae: fromnoise train mini-sd-autoencoder --out nowhere makes",
        ),
        ({"parts.clip": "nowhere/mnist"}, "fromnoise train mini-sd-clip --out nowhere/mnist makes it"),
        ({"parts.clip": "nowhere/emoji-sd-clip"}, "fromnoise train emoji-sd-clip --out nowhere/emoji-sd-clip makes"),
        ({"parts.unet": "nowhere"}, "parts.unet: there is no nowhere/unet: fromnoise train mini-sd-unet --out nowhere"),
        ({"data.channels": 1}, "data.channels is 1, and the autoencoder takes 3"),
        ({"data.size": 18}, "data.size 18 is not a multiple of 4"),
        ({"data.flip": True}, "data.flip does not go with captions"),
        ({"network.head_dim": 12}, "network: channels 16 is not a multiple of head_dim 12"),
        ({"network.norm_groups": 3}, "network: channels 16 is not a multiple of norm_groups 3"),
        (
            {"data.size": 20, "network.channels": (16, 16), "network.attention_levels": (True, True)},
            "network: sample_size 5 is not a multiple of 2",
        ),
    ],
)
def test_what_does_not_fit(settings, message, config):
    with pytest.raises(UserError) as caught:
        DenoisingTask(config.override(settings), "scenes")
    assert message in str(caught.value)


def test_a_run_that_is_not_finished_is_no_part(tmp_path):
    folder = save_parts(tmp_path / "half")
    (folder / "README.md").unlink()
    with pytest.raises(
        UserError, match=r"half is not finished: fromnoise train .*autoencoder --out .* --resume goes on"
    ):
        DenoisingTask(with_parts(folder), "scenes")
