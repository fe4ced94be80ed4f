"""What a training run leaves behind, and how it stops when it must."""

import json
import math

import pytest
import safetensors.torch
import torch
from PIL import Image
from runs import TINY, checkpoint_steps

from fromnoise.devices import DTYPES, training_dtype
from fromnoise.errors import UserError
from fromnoise.models import open_model
from fromnoise.models.conditioning import Classes
from fromnoise.train.config import load_config
from fromnoise.train.optimizer import learning_rate_at
from fromnoise.train.run import train
from fromnoise.train.tasks.denoising import DenoisingTask


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(load_config(str(TINY)), tmp_path_factory.mktemp("runs") / "tiny")


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_folder_is_a_model(run):
    from diffusers import DDPMPipeline

    model = open_model(run)
    assert model.conditioner == Classes(tuple("0123456789"), has_null=True)
    pipeline = DDPMPipeline.from_pretrained(run)
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([3, 50]), torch.tensor([0, 10])
    with torch.no_grad():
        theirs = pipeline.unet(x, t, label).sample
        assert torch.allclose(model.unet(x, t, label), theirs, atol=1e-5)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_exported_weights_are_the_averages(run):
    ema = safetensors.torch.load_file(run / "checkpoints/step-00000040/ema.safetensors")
    stored = DTYPES[load_config(str(run / "training.toml")).train.dtype]
    for name, weight in open_model(run).unet.state_dict().items():
        assert torch.equal(weight, ema[name].to(stored).float())


def test_the_log_tells_the_story(run):
    steps = [line for line in log(run) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(2, 41, 2))
    assert all(math.isfinite(line[key]) for line in steps for key in ("loss", "gradient_norm", "learning_rate"))
    assert all(line["images_per_second"] > 0 for line in steps)
    train = load_config(str(TINY)).train
    assert [line["learning_rate"] for line in steps] == [learning_rate_at(line["step"] - 1, train) for line in steps]
    assert steps[-1]["loss"] < steps[0]["loss"]
    validations = [line for line in log(run) if "validation_loss" in line]
    assert [line["step"] for line in validations] == [20, 40]
    for line in validations:
        bands = line["validation_loss_by_noise"]
        assert len(bands) == 4
        sizes = [len(part) for part in torch.arange(297).tensor_split(4)]  # of the digits that are held out
        total = sum(size * band for size, band in zip(sizes, bands, strict=True))
        assert line["validation_loss"] == pytest.approx(total / 297, rel=1e-5)


def test_the_tensorboard_log_holds_the_same(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged == pytest.approx({line["step"]: line["loss"] for line in log(run) if "loss" in line})
    assert [event.step for event in events.Images("preview")] == [20, 40]


def test_previews_and_samples_are_pictures(run):
    for path in [*sorted((run / "previews").iterdir()), run / "samples.png"]:
        with Image.open(path) as picture:
            assert picture.size == (10 * (56 + 2) + 2, 4 * (56 + 2) + 2)


def test_the_model_card_and_preset_say_how_it_was_made(run):
    dtype = training_dtype(torch.device("cpu"))[0]
    expected = load_config(str(TINY)).override({"train.dtype": dtype})  # "auto" is written down as what it came to
    assert load_config(str(run / "training.toml")) == expected

    card = (run / "README.md").read_text()
    loss = [line["validation_loss"] for line in log(run) if "validation_loss" in line][-1]
    assert f"| 40 | {loss:.4f} |" in card
    assert "1280 images" in card


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    config = load_config(str(TINY)).override({"train.keep_checkpoints": 2, "train.preview_every": 1000})
    assert checkpoint_steps(train(config, tmp_path / "run")) == [30, 40]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    healthy = DenoisingTask.batch

    def ill(self, indices, seed, step):
        batch = healthy(self, indices, seed, step)
        return batch | {"noise": batch["noise"] * torch.nan} if step == 14 else batch

    monkeypatch.setattr(DenoisingTask, "batch", ill)
    with pytest.raises(UserError, match="no longer finite at step 16") as caught:
        train(load_config(str(TINY)), tmp_path / "run")
    assert "step-00000010" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoint_steps(tmp_path / "run") == [10]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    config = load_config(str(TINY)).override({"train.batch_size": 33})
    monkeypatch.setattr("accelerate.Accelerator.num_processes", property(lambda self: 2))
    with pytest.raises(UserError, match="33 cannot be shared evenly by 2"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
