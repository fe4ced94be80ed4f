"""What a resumed run notices, and what it takes over: runs of a few steps in this process."""

import dataclasses
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from runs import BRIEFLY as CONFIG
from runs import assert_same_run, checkpoint_steps, final_state
from test_checkpoint import flip, forge

from fromnoise import signals
from fromnoise.errors import UserError
from fromnoise.nn.fast.kernels import library
from fromnoise.train import task as tasks
from fromnoise.train.config import load_config
from fromnoise.train.folder import list_checkpoints, locked
from fromnoise.train.run import train
from fromnoise.train.tasks.denoising import DenoisingTask
from fromnoise.train.trainer import Trainer


@pytest.fixture(autouse=True, scope="module")
def quick_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoisingTask, "preview", lambda *_: (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 2))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(CONFIG, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def stopped(finished, tmp_path):
    """A run that was stopped after three of four steps."""
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "checkpoints" / "step-00000003" / "proven").unlink()
    shutil.rmtree(folder / "unet")
    return folder


@pytest.fixture
def resume(capsys):
    """Goes on with a run; what it says on the way."""

    def run(folder, config=CONFIG, **changes):
        train(config.override({f"train.{key}": value for key, value in changes.items()}), folder, resume=True)
        output, errors = capsys.readouterr()
        return output + "".join(line for line in errors.splitlines(keepends=True) if line.startswith("warning"))

    return run


def refused(folder, config=CONFIG, **options):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError) as caught:
        train(config, folder, resume=True, **options)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_goes_on_without_a_warning(stopped, finished, resume):
    assert resume(stopped).startswith("resuming from step 3\n")
    assert_same_run(stopped, finished)
    said = resume(stopped, dtype="auto")
    assert said == "resuming from step 4, the last: nothing is left to train\n"


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "checksums.json"])
def test_the_newest_whole_checkpoint_is_used(stopped, finished, resume, name):
    damaged = stopped / "checkpoints" / "step-00000003"
    flip(damaged / name)
    said = resume(stopped)
    assert re.fullmatch(f"resuming from step 2\nwarning: {damaged}.*; resuming from step-00000002 instead\n", said)
    assert_same_run(stopped, finished)
    assert (stopped / "checkpoints" / "damaged-step-00000003").is_dir(), "it is put aside, not deleted"


def test_where_none_is_whole_nothing_is_done(stopped):
    for checkpoint in list_checkpoints(stopped):
        (checkpoint / "ema.safetensors").unlink()
    assert refused(stopped) == f"{stopped}/checkpoints/step-00000003/ema.safetensors is missing"


def change_images(images):
    pixels = images.pixels.clone()
    pixels[7, 0, 3, 3] ^= 1
    return dataclasses.replace(images, pixels=pixels)


OTHERS = {
    "pixels": change_images,
    "labels": lambda images: dataclasses.replace(images, labels=images.labels.flip(0)),
    "class names": lambda images: dataclasses.replace(images, class_names=("zero", *images.class_names[1:])),
    "images": lambda images: dataclasses.replace(images, pixels=images.pixels[:-1], labels=images.labels[:-1]),
}


@pytest.mark.parametrize(("named", "change"), OTHERS.items(), ids=OTHERS)
def test_other_data_is_refused(stopped, monkeypatch, named, change):
    original = tasks.load_images
    monkeypatch.setattr(tasks, "load_images", lambda *a, **k: change(original(*a, **k)))
    assert re.search(f"step-00000003 was trained on other data .*{named}", refused(stopped))


@pytest.mark.parametrize(
    ("key", "value"),
    [("network.channels", (16,)), ("diffusion.prediction", "epsilon"), ("train.seed", 1), ("train.batch_size", 4)],
)
def test_another_run_is_refused(stopped, key, value):
    """Given anew, written into the run's preset, or in a checkpoint that comes from elsewhere."""
    other = CONFIG.override({key: value})
    assert refused(stopped, other).startswith(f"{stopped} was started with {key} ")
    if key != "network.channels":  # by that the tensors are found first
        for checkpoint in list_checkpoints(stopped):
            state = json.loads((checkpoint / "state.json").read_text())
            section, name = key.split(".")
            state["config"][section][name] = value
            forge(checkpoint / "state.json", json.dumps(state).encode())
        assert f"step-00000003 was started with {key}" in refused(stopped)


def test_a_rate_that_is_given_is_taken_and_recorded(stopped, finished, resume):
    said = resume(stopped, learning_rate=5e-5)
    assert "train.learning_rate was 0.001 until step 3: the learning rate was 0.00015, is 7.7e-06 now" in said
    assert load_config(str(stopped / "training.toml")).train.learning_rate == 5e-5
    card = (stopped / "README.md").read_text()
    assert "- changed on the way: train.learning_rate was 0.001 until step 3\n" in card
    assert "--train.learning-rate 5e-05" in card or "fromnoise train training.toml" in card
    ours, theirs = final_state(stopped), final_state(finished)
    assert any(not ours[name].equal(theirs[name]) for name in ours), "the rate made no difference"
    assert "changed" not in resume(stopped, learning_rate=5e-5), "it is said once"
    assert "- changed on the way: train.learning_rate was 0.001 until step 3\n" in (stopped / "README.md").read_text()


def test_a_precision_that_is_given_is_taken_and_recorded(stopped, resume):
    assert "train.dtype was fp32 until step 3" in resume(stopped, dtype="bf16")
    assert load_config(str(stopped / "training.toml")).train.dtype == "bf16"


def test_more_steps_go_on(finished, tmp_path, resume):
    folder = shutil.copytree(finished, tmp_path / "run")
    said = resume(folder, steps=6)
    assert said.startswith("resuming from step 4\ntrain.steps was 4 until step 4: the learning rate was ")
    assert said.splitlines()[1].endswith(" at step 6")
    assert checkpoint_steps(folder)[-1] == 6
    assert "has come to step 6 already: give --train.steps 6 or more" in refused(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda patch: patch.setattr("fromnoise.train.checkpoint.library", lambda source: not library(source)),
            "kernels .*",
        ),
        (lambda patch: patch.setattr(torch, "__version__", "9.9"), "torch version .* then, 9.9 now"),
        (
            lambda patch: patch.setattr("fromnoise.train.checkpoint.processor", lambda: "x86"),
            "processor .* then, x86 now",
        ),
    ],
    ids=["kernels", "torch", "processor"],
)
def test_another_environment_is_warned_of_once(stopped, resume, monkeypatch, change, told):
    change(monkeypatch)
    warnings = [line for line in resume(stopped).splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert re.fullmatch(f"warning: the bits may not be those of a run that never stopped: .*{told}", warnings[0])
    assert not [line for line in resume(stopped).splitlines() if line.startswith("warning")]


def test_a_second_run_in_the_folder_is_refused(stopped):
    line = f"another process is training in {stopped}: wait until it has ended, or give another --out"
    with locked(stopped):
        assert refused(stopped) == line
    with locked(stopped.parent / "new"), pytest.raises(UserError, match="another process"):
        train(CONFIG, stopped.parent / "new")
    assert [path.name for path in (stopped.parent / "new").iterdir()] == [".lock"]


def test_what_is_proposed_after_divergence_works(tmp_path, resume):
    """The checkpoint from which it diverged goes, so that a lower rate starts from a good one, or from the start."""
    folder = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"finite at step \d: give a lower --train.learning-rate than 1e\+18; "
    ) as caught:
        train(CONFIG.override({"train.learning_rate": 1e18, "train.warmup_steps": 0}), folder)
    assert "\n" not in str(caught.value)
    assert "the same command with --resume" in str(caught.value)
    resume(folder, CONFIG.override({"train.warmup_steps": 0}))
    assert checkpoint_steps(folder)[-1] == 4
    assert load_config(str(folder / "training.toml")).train.learning_rate == 1e-3


def test_divergence_leaves_the_last_checkpoint_that_led_to_another(stopped, resume, monkeypatch):
    healthy = DenoisingTask.batch

    def ill(self, indices, seed, step):
        batch = healthy(self, indices, seed, step)
        return batch | {"noise": batch["noise"] * torch.nan} if step == 3 else batch

    monkeypatch.setattr(DenoisingTask, "batch", ill)
    for _ in range(2):  # the second time nothing more is lost
        with pytest.raises(UserError, match=r"at step 4: .*; the last good checkpoint is .*step-00000002: the same"):
            train(CONFIG, stopped, resume=True)
    monkeypatch.setattr(DenoisingTask, "batch", healthy)
    resume(stopped, learning_rate=1e-4)
    assert checkpoint_steps(stopped)[-1] == 4


def test_weights_that_do_not_learn_stop_the_run_at_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "check_gradients", lambda self: (_ for _ in ()).throw(UserError("no gradient")))
    with pytest.raises(UserError, match="^no gradient; there is no checkpoint yet: the same command with --resume"):
        train(CONFIG, tmp_path / "run")


def test_a_signal_that_was_lost_stops_the_run_before_the_next_step(stopped, monkeypatch):
    monkeypatch.setattr(signals, "_last", [signal.SIGTERM, 0])
    with pytest.raises(KeyboardInterrupt, match="the last good checkpoint is .*step-00000003: the same"):
        train(CONFIG, stopped, resume=True)


def test_a_garbled_line_of_the_log_is_dropped(stopped, finished, resume):
    lines = (stopped / "log.jsonl").read_bytes().splitlines(keepends=True)
    garbled = [b'{"step": 2, "lo', b"\xff\xfe\n", b"[1]\n", b'{"step": "x"}\n', b"\n", b"[" * 99999 + b"\n"]
    (stopped / "log.jsonl").write_bytes(b"".join([*lines[:1], *garbled[1:], *lines[1:], garbled[0]]))
    resume(stopped)
    steps = [[json.loads(line)["step"] for line in (run / "log.jsonl").open()] for run in (stopped, finished)]
    assert steps[0] == steps[1]
    assert Path(stopped / "README.md").read_text().count("| 4 | ") == 1
