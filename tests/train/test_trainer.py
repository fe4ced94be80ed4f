"""The trainer: whatever it trains, a step is a function of the seed and the step alone."""

import random

import numpy as np
import pytest
import torch
from runs import CLASSIFIER, TINY

from fromnoise.errors import UserError
from fromnoise.train import trainer as module
from fromnoise.train.config import load_config
from fromnoise.train.trainer import Trainer


def make_trainer(folder, preset=TINY, **changes) -> Trainer:
    settings = {"dtype": "fp32", "compile": "no", "device": "cpu"} | changes
    return Trainer(
        load_config(str(preset)).override({f"train.{key}": value for key, value in settings.items()}), folder
    )


@pytest.mark.parametrize("preset", [TINY, CLASSIFIER])
def test_nothing_is_drawn_from_a_global_generator(tmp_path, preset):
    """So no checkpoint needs their states."""
    states, validations = [], []
    for disturbed in (False, True):
        trainer = make_trainer(tmp_path, preset)
        for step in range(3):
            if disturbed:
                torch.manual_seed(step + 1)
                random.seed(step)
                np.random.seed(step)  # noqa: NPY002
            trainer.take_step()
        states.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
        validations.append(trainer.validate())
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert validations[0] == validations[1]


def test_the_averaged_network_has_averaged_statistics_too(tmp_path):
    """With a decay of 0 it is the network itself, normalisations included."""
    trainer = make_trainer(tmp_path, CLASSIFIER, ema_decay=0.0)
    trainer.take_step()
    averaged = trainer.averaged.state_dict()
    assert "body.1.running_var" in trainer.state
    assert all(value.equal(averaged[name]) for name, value in trainer.state.items())


def test_the_main_process_decides_the_precision(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "training_dtype", lambda device: ("fp32", "as measured here"))
    assert make_trainer(tmp_path, dtype="auto").dtype == "fp32"
    monkeypatch.setattr(module, "broadcast_object_list", lambda mine: [("bf16", "as measured there")])
    trainer = make_trainer(tmp_path, dtype="auto")
    assert trainer.dtype == "bf16"
    assert capsys.readouterr().out == "training in fp32: as measured here\ntraining in bf16: as measured there\n"
    assert trainer.config.train.dtype == "auto", "the preset stays as it was given"


def test_weights_that_never_learn_stop_the_run(tmp_path):
    """But not in the first few steps, when layers that start at zero pass no gradient on."""
    trainer = make_trainer(tmp_path, warmup_steps=0)
    trainer.network.get_parameter("conv_in.bias").requires_grad_(False)
    for _ in range(9):
        trainer.take_step()
    trainer.check_gradients()
    trainer.take_step()
    with pytest.raises(UserError, match=r"1 weights never had a gradient in 10 steps, such as conv_in\.bias"):
        trainer.check_gradients()
