"""Presets: they say what they mean, and what they cannot mean is refused by name."""

import dataclasses
import math

import pytest

from fromnoise.errors import UserError
from fromnoise.nn.unet import UNet
from fromnoise.train.config import TrainingConfig, changes, dump_config, load_config, parse_config, preset_names
from fromnoise.train.loop import learning_rate_at, scheduler_config, unet_config
from fromnoise.train.run import command


def test_the_presets_are_those_promised():
    promised = {"digits", "mnist", "mnist-conditional", "cifar10", "cifar10-conditional", "cifar10-small"}
    assert promised <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_preset(name):
    config = load_config(name)
    config.validate()
    assert config.name == name
    assert config.description
    assert config.data.licence
    assert config.expect, "a preset says what loss to expect along the way"
    assert all(0 < int(step) <= config.train.steps for step in config.expect)
    assert parse_config(dump_config(config), "again") == config
    assert command(config) == f"fromnoise train {name}"
    network = UNet(unet_config(config, 10 if config.data.conditional else None))
    assert scheduler_config(config).schedule().num_timesteps == config.diffusion.num_timesteps
    if name.startswith("mnist"):
        assert sum(p.numel() for p in network.parameters()) <= 4_000_000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[train]\nstepz = 3", "stepz"),
        ("steps = 3", "steps"),
        ('[train]\nsteps = "3"', "train.steps"),
        ("[train]\nsteps = 1.5", "train.steps"),
        ("[train]\nsteps = true", "train.steps"),
        ('[network]\nchannels = [1, "a"]', "network.channels"),
        ('[diffusion]\nprediction = "noise"', "diffusion.prediction"),
        ("[train", "not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(text, named):
    with pytest.raises(UserError, match=named) as caught:
        parse_config(text, "mine.toml")
    assert str(caught.value).startswith("mine.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", 0),
        ("train.batch_size", -1),
        ("train.learning_rate", math.nan),
        ("train.learning_rate", math.inf),
        ("train.ema_decay", 1.5),
        ("train.class_dropout", -0.1),
        ("train.warmup_steps", -1),
        ("data.channels", 2),
        ("data.size", 0),
        ("diffusion.gamma", math.nan),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=key):
        TrainingConfig().override({key: value}).validate()


def test_a_network_that_does_not_fit_together_is_refused():
    with pytest.raises(UserError, match="attention_levels"):
        unet_config(TrainingConfig().override({"network.channels": (32, 64)}), None)


def test_whole_numbers_do_for_real_ones():
    assert parse_config("[train]\nlearning_rate = 1", "x").train.learning_rate == 1.0


def test_changes_are_what_override_takes():
    config = TrainingConfig()
    values = {"train.steps": 7, "network.channels": (32, 32, 32)}
    assert changes(config, config.override(values)) == values
    assert command(dataclasses.replace(load_config("mnist"))) == "fromnoise train mnist"
    changed = load_config("mnist").override({"train.batch_size": 32})
    assert command(changed) == "fromnoise train mnist --train.batch-size 32"


def test_learning_rate_rises_then_falls_to_its_floor():
    config = TrainingConfig().override({"train.steps": 100, "train.warmup_steps": 10, "train.learning_rate": 2.0})
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 * 0.5))
    assert rates[100] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)
