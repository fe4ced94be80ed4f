"""Presets: they say what they mean, and what they cannot mean is refused by name."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from fromnoise.errors import UserError
from fromnoise.nn.unet import UNet
from fromnoise.train.config import PRESETS, TrainingConfig, changes, dump_config, load_config, preset_names
from fromnoise.train.run import command
from fromnoise.train.stages import load_stages
from fromnoise.train.tasks.denoising import scheduler_config
from fromnoise.train.tasks.pixels import unet_config


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """Reads a preset from a text, as the file mine.toml of this folder."""
    monkeypatch.chdir(tmp_path)

    def load(text):
        Path("mine.toml").write_text(text)
        return load_config("mine.toml")

    return load


def test_the_presets_are_those_promised():
    promised = {"digits", "mnist", "mnist-conditional", "cifar10", "cifar10-conditional", "cifar10-small"}
    promised |= {"mnist-guide", "mnist-classifier"}
    assert promised <= set(preset_names())


@pytest.mark.parametrize("name", [name for name in preset_names() if load_stages(name) is None])
def test_preset(name, preset):
    config = load_config(name)
    config.validate()
    assert repr(config) == repr(load_config(str(PRESETS / f"{name}.toml"))), "unchecked, it is what a file is read as"
    assert config.name == name
    assert config.description
    assert config.data.licence
    assert config.expect, "a preset says what loss to expect along the way"
    assert all(0 < int(step) <= config.train.steps for step in config.expect)
    assert preset(dump_config(config)) == config
    assert command(config) == f"fromnoise train {name}"
    if config.task != "denoising":
        return
    network = UNet(unet_config(config, 10 if config.data.conditional else None))
    assert scheduler_config(config).schedule().num_timesteps == config.diffusion.num_timesteps
    if name.startswith("mnist"):
        assert sum(p.numel() for p in network.parameters()) <= 4_000_000


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "stepz", "3"),
        ("train", "steps", "0"),
        ("train", "steps", "true"),
        ("train", "steps", "1.5"),
        ("train", "batch_size", "-1"),
        ("train", "learning_rate", "0"),
        ("train", "learning_rate", "nan"),
        ("train", "learning_rate", "inf"),
        ("train", "ema_decay", "1.5"),
        ("train", "class_dropout", "-0.1"),
        ("train", "final_learning_rate", "2"),
        ("train", "warmup_steps", "-1"),
        ("train", "weight_decay", "-1"),
        ("train", "gradient_clip", "0"),
        ("train", "seed", "-1"),
        ("train", "seed", str(2**63)),
        ("train", "log_every", "0"),
        ("train", "validate_every", "0"),
        ("train", "preview_every", "0"),
        ("train", "checkpoint_every", "0"),
        ("train", "keep_checkpoints", "0"),
        ("data", "channels", "2"),
        ("data", "channels", "true"),
        ("data", "size", "0"),
        ("network", "channels", "[]"),
        ("network", "channels", "[32, 0]"),
        ("network", "channels", '[1, "a"]'),
        ("network", "layers_per_block", "0"),
        ("network", "norm_groups", "0"),
        ("network", "head_dim", "-1"),
        ("diffusion", "num_timesteps", "0"),
        ("diffusion", "gamma", "nan"),
        ("diffusion", "gamma", "0"),
        ("diffusion", "prediction", '"noise"'),
        ("diffusion", "timestep_sampling", '"normal"'),
    ],
)
def test_what_cannot_be_is_refused_by_name(section, key, value, preset):
    """In a file, and by the same limits on the command line."""
    text = f"[{section}]\n{key} = {value}"
    with pytest.raises(UserError, match=rf"^mine.toml: .*{section}\.{key}") as caught:
        preset(text)
    assert "\n" not in str(caught.value)
    if key != "stepz":
        override = {f"{section}.{key}": tomllib.loads(text)[section][key]}
        with pytest.raises(UserError, match=rf"{section}\.{key}"):
            TrainingConfig().override(override).validate()


def test_the_limits_themselves_are_accepted():
    least = {"steps": 1, "batch_size": 1, "warmup_steps": 0, "weight_decay": 0, "ema_decay": 0, "class_dropout": 1}
    least |= {"final_learning_rate": 1, "seed": 2**63 - 1, "log_every": 1, "keep_checkpoints": 1}
    config = TrainingConfig().override({f"train.{key}": value for key, value in least.items()})
    config.override({"network.head_dim": 0, "data.channels": 3, "data.size": 1}).validate()


def test_a_network_that_does_not_fit_together_is_refused():
    with pytest.raises(UserError, match="attention_levels"):
        unet_config(TrainingConfig().override({"network.channels": (32, 64)}), None)


def test_whole_numbers_do_for_real_ones(preset):
    assert preset("[train]\nlearning_rate = 1").train.learning_rate == 1.0


def test_changes_are_what_override_takes():
    config = TrainingConfig()
    values = {"train.steps": 7, "network.channels": (32, 32, 32)}
    assert changes(config, config.override(values)) == values
    assert command(dataclasses.replace(load_config("mnist"))) == "fromnoise train mnist"
    changed = load_config("mnist").override({"train.batch_size": 32})
    assert command(changed) == "fromnoise train mnist --train.batch-size 32"
    flags = load_config("mnist-conditional").override({"data.conditional": False, "data.flip": True})
    assert command(flags) == "fromnoise train mnist-conditional --data.no-conditional --data.flip"


def test_other_things_leave_out_what_is_said_of_the_old(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    emoji, digits = load_config("emoji-sd-unet"), load_config("mini-sd-unet")
    (tmp_path / "cutouts").mkdir()
    other = emoji.override({"data.things": str(tmp_path / "cutouts")})
    assert other.description == "Trained with the settings of emoji-sd-unet, on scenes of cutouts."
    assert (other.data.licence, other.expect) == ("", {})
    assert other.override({"data.licence": "mine", "data.things": "cutouts"}).data.licence == "mine"
    assert other.override({"data.things": "cutouts"}).description == other.description
    assert digits.override({"data.things": "emoji"}).expect == {} != digits.expect
    for same in ({"data.digits": "elsewhere"}, {"data.things": "digits"}, {"data.font": "X.ttf"}):
        assert digits.override(same).expect == digits.expect
    font = emoji.override({"data.font": "X.ttf"})
    assert font.description.endswith(", on scenes of emoji from X.ttf.") and font.data.licence == ""
    captioned = emoji.override({"data.source": "a/b", "data.licence": "mine"})
    assert captioned.override({"data.things": "digits"}).data.licence == "mine"


def test_a_preset_has_the_sections_of_its_task(preset):
    classifier = preset('task = "classifier"\n[train]\nsteps = 7')
    classifier.validate()
    written = dump_config(classifier)
    assert "[train]" in written
    assert "[network]" not in written
    with pytest.raises(UserError, match=r"\[diffusion\]"):
        classifier.override({"diffusion.num_timesteps": 10}).validate()


def test_an_unknown_task_is_refused(preset):
    with pytest.raises(UserError, match=r"^mine.toml: task: "):
        preset('task = "dreaming"')


@pytest.mark.parametrize("name", ["", "..", ".hidden", "../../x", "/absolute", "a/b", "a\\b", "a\x07", "a\n", "a" * 61])
def test_a_name_stays_in_its_folder(name):
    with pytest.raises(UserError, match="name: .* is not supported: it should be letters, digits, dots, dashes"):
        dataclasses.replace(TrainingConfig(), name=name).validate()
    dataclasses.replace(TrainingConfig(), name="my_run-2.ü").validate()
