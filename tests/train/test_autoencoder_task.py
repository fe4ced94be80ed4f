"""The autoencoder as a task: what it learns, that it resumes to the same bits, and that diffusers opens it."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from runs import AUTOENCODER, Run, assert_same_run, logged_step

from fromnoise.data.scenes import Scenes
from fromnoise.diffusion.latents import kl_to_standard_normal
from fromnoise.diffusion.reconstruction import absolute_error, edge_error
from fromnoise.errors import UserError
from fromnoise.interop.autoencoder import autoencoder_config_from_diffusers
from fromnoise.nn.autoencoder import Autoencoder
from fromnoise.train.config import load_config
from fromnoise.train.task import on_device
from fromnoise.train.tasks import autoencoder as module
from fromnoise.train.tasks.autoencoder import AutoencoderTask, autoencoder_config
from fromnoise.train.trainer import Trainer

TINY = load_config(str(AUTOENCODER)).override({"train.dtype": "fp32", "train.compile": "no", "train.device": "cpu"})


@pytest.fixture(scope="module")
def task() -> AutoencoderTask:
    torch.manual_seed(0)
    return AutoencoderTask(TINY, "scenes")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    return Trainer(TINY, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def untrained(trainer) -> dict[str, float]:
    """What is validated before the first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VALIDATION_IMAGES", 64)
        return trainer.validate()


@pytest.fixture(scope="module")
def trained(trainer, untrained) -> Trainer:
    while trainer.step < 32:
        trainer.take_step()
    return trainer


def pictures(scenes: Scenes, count: int, seed: int = 5) -> torch.Tensor:
    return scenes.images(scenes.draw(torch.arange(count), torch.Generator().manual_seed(seed))[0])


def test_it_learns(trained, untrained, monkeypatch):
    """On held-out scenes, which validation draws the same each time."""
    monkeypatch.setattr(module, "VALIDATION_IMAGES", 64)
    after = trained.validate()
    assert after["validation_loss"] < 0.7 * untrained["validation_loss"]
    assert after["validation_psnr"] > untrained["validation_psnr"] + 1.5
    assert trained.validate() == after


def test_the_loss_is_what_it_says(task):
    """Its three terms with their weights, of the reconstruction from a draw; one number for each picture."""
    weighted = dataclasses.replace(TINY.autoencoder, edge_weight=3.0, kl_weight=0.01)
    other = AutoencoderTask(dataclasses.replace(TINY, autoencoder=weighted), "scenes")
    batch = on_device(task.batch(torch.arange(8), 0, 0), torch.device("cpu"))
    with torch.no_grad():
        losses = other.loss(task.network, batch)
        drawn = {name: values for name, values in batch.items() if name != "posterior_noise"}
        images = task.pictures.images(drawn)
        mean, log_variance = task.network.encode(images)
        reconstruction = task.network.decode(mean + (log_variance / 2).exp() * batch["posterior_noise"])
    expected = absolute_error(reconstruction, images) + 3 * edge_error(reconstruction, images)
    expected += 0.01 * kl_to_standard_normal(mean, log_variance)
    assert losses.shape == (8,)
    torch.testing.assert_close(losses, expected)


def test_the_noise_of_latents_is_standard_normal_and_new_at_each_step(task):
    noise = torch.cat([task.batch(torch.arange(8), 0, step)["posterior_noise"] for step in range(20)])  # (160, 2, 8, 8)
    assert noise.shape == (160, 2, 8, 8)
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    assert len(noise.unique(dim=0)) == 160


def test_a_batch_depends_on_seed_and_step_alone(task):
    def drawn(seed: int, step: int) -> list[bytes]:
        batch = AutoencoderTask(TINY, "scenes").batch(torch.arange(8), seed, step)
        return [batch[name].numpy().tobytes() for name in sorted(batch)]

    here = task.batch(torch.arange(8), 3, 7)
    assert drawn(3, 7) == [here[name].numpy().tobytes() for name in sorted(here)]
    assert all(one != other for one, other in zip(drawn(3, 7), drawn(3, 8), strict=True))
    assert all(one != other for one, other in zip(drawn(3, 7), drawn(4, 7), strict=True))


def test_originals_stand_above_their_reconstructions(trained):
    images, columns = trained.task.preview(trained.averaged)
    assert images.shape == (40, 3, 16, 16) and columns == 10
    originals, reconstructions = (images.unflatten(0, (2, 2, 10))[:, i].flatten(0, 1).float() for i in (0, 1))
    own = (originals - reconstructions).abs().mean()
    assert 0 < own < 0.7 * (originals - reconstructions.roll(1, 0)).abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_is_exported_opens_in_diffusers(trained, tmp_path, monkeypatch, dtype):
    """With the same reconstructions, and latents of training pictures whose variance, once scaled, is 1."""
    monkeypatch.setattr(module, "VALIDATION_IMAGES", 64)
    before = {name: tensor.clone() for name, tensor in trained.averaged.state_dict().items()}
    facts = trained.task.export(trained.averaged, tmp_path, dtype)
    assert all(tensor.equal(before[name]) for name, tensor in trained.averaged.state_dict().items())
    written = safetensors.torch.load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {dtype}
    there = AutoencoderKL.from_pretrained(tmp_path / "vae", torch_dtype=torch.float32).eval()
    config = autoencoder_config_from_diffusers(json.loads((tmp_path / "vae" / "config.json").read_text()))
    assert dataclasses.replace(config, scaling_factor=0.18215) == trained.averaged.config
    here = Autoencoder(config)
    here.load_state_dict({name: tensor.float() for name, tensor in written.items()}, strict=True)
    images = pictures(trained.task.held_out, 8)
    expected = here.decode(here.encode(images)[0])
    found = there.decode(there.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - images).abs().mean() < 0.5, "it was trained"
    latents = there.encode(pictures(trained.task.pictures, 1024)).latent_dist.mean * there.config.scaling_factor
    assert latents.var().item() == pytest.approx(1, abs=0.05)
    assert f"{there.config.scaling_factor:.4f}" in facts["latents"]


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    reference, out = tmp_path / "reference", tmp_path / "run"
    Run(reference, "--train.compile", "no", preset=AUTOENCODER).finish()
    Run(out, "--train.compile", "no", preset=AUTOENCODER).kill_when(lambda: logged_step(out) >= 14)
    Run(out, "--train.compile", "no", "--resume", preset=AUTOENCODER).finish()
    assert_same_run(out, reference)
    assert (out / "vae" / "config.json").read_bytes() == (reference / "vae" / "config.json").read_bytes()
    card = (out / "README.md").read_text()
    assert "- data: scenes, endless images of 16x16" in card
    assert "- latents: 2 x 8 x 8, multiplied with " in card


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.channels": 1}, "data.channels is 1: captioned pictures are in colour, set it to 3"),
        ({"data.size": 17}, "data.size is 17, and the 2 levels .* halve it 1 times: set it to a multiple of 2"),
        ({"data.size": 2}, "data.size is 2, and the 2 levels"),
        ({"autoencoder.norm_groups": 5}, "autoencoder: channels 8 is not a multiple of norm_groups 5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        autoencoder_config(TINY.override(values))


def test_the_preset_is_lean():
    """A million weights at most, and latents a quarter as high and wide as the pictures."""
    config = autoencoder_config(load_config("mini-sd-autoencoder"))
    with torch.device("meta"):
        network = Autoencoder(config)
        mean, _ = network.encode(torch.empty(1, 3, 64, 64))
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    assert mean.shape == (1, 4, 16, 16)
