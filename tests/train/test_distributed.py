"""Several processes train the model that one would."""

import socket

import torch
from runs import final_state, finish, start

OPTIONS = ("--train.dtype", "fp32", "--train.learning-rate", "1e-4", "--train.steps", "20", "--train.compile", "no")


def test_two_processes_train_the_same_model_as_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    finish(start(tmp_path / "one", *OPTIONS))
    finish(start(tmp_path / "two", *OPTIONS, launcher=launcher))
    one, two = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    moved = final_state_difference(one, start_weights(tmp_path))
    assert moved > 1e-4, "twenty steps should have moved the weights"
    for name in one:
        if not name.startswith("optimizer/"):
            assert (one[name] - two[name]).abs().max() <= 1e-5, name


def start_weights(tmp_path) -> dict[str, torch.Tensor]:
    finish(start(tmp_path / "still", *OPTIONS, "--train.steps", "1", "--train.warmup-steps", "1000000"))
    return final_state(tmp_path / "still")


def final_state_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a if name.startswith("weights/"))
