"""Several processes train the model that one would."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from runs import TINY, final_state

from fromnoise.terminal import LAUNCHED
from fromnoise.train.config import load_config
from fromnoise.train.processes import make_accelerator
from fromnoise.train.run import train

TWO = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": [
        *["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
        *["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    ],
}
BRIEF = {"steps": 4, "batch_size": 8, "log_every": 2, "preview_every": 4, "validate_every": 4, "checkpoint_every": 4}
BRIEF |= {
    "dtype": "fp32",
    "compile": "no",
    "device": "cpu",
    "warmup_steps": 0,
    "learning_rate": 1e-4,
    "optimizer": "muon",
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    config = load_config(str(TINY)).override({f"train.{key}": value for key, value in BRIEF.items()})
    return train(config, tmp_path_factory.mktemp("one") / "run")


@pytest.mark.parametrize("launcher", TWO.values(), ids=TWO)
def test_two_processes_train_the_same_model_as_one(one, tmp_path, launcher):
    """They know of each other; what is said and written is said and written once."""
    out = tmp_path / "two"
    options = [word for key, value in BRIEF.items() for word in (f"--train.{key.replace('_', '-')}", str(value))]
    command = [sys.executable, *launcher, "-m", "fromnoise", "train", str(TINY), "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"trained tiny: {out} (fromnoise sample {out})\n"
    assert done.stderr.count("step 4: validation loss") == 1
    states = [json.loads(next(run.glob("checkpoints/*/state.json")).read_text()) for run in (one, out)]
    assert [state["environment"]["processes"] for state in states] == [1, 2]
    logs = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (one, out)]
    assert [line["step"] for line in logs[1]] == [2, 4, 4]
    for ours, theirs in zip(*logs, strict=True):
        for key in ours.keys() & {"loss", "gradient_norm", "validation_loss"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
    assert {path.name for path in one.iterdir()} == {path.name for path in out.iterdir()}
    alone, together = final_state(one), final_state(out)
    moved = max(value.abs().max().item() for name, value in alone.items() if name == "optimizer/exp_avg.conv_in.weight")
    assert moved > 0
    for name, value in alone.items():
        assert (value - together[name]).abs().max() <= 1e-5, name


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "x", "RANK": "0"}, {"LOCAL_RANK": "1"}], ids=str)
def test_what_a_launcher_left_behind_starts_nothing(monkeypatch, left):
    for name in LAUNCHED:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, device = make_accelerator(torch.device("cpu"))
    assert (accelerator.num_processes, device) == (1, torch.device("cpu"))
    assert PartialState().is_main_process
