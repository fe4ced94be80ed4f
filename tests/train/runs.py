"""Training runs in processes of their own, which can be killed for real.

They are forked from a server that has imported everything already, so that each starts at once.
"""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from fromnoise.train.config import load_config

TINY = Path(__file__).with_name("tiny.toml")
CLASSIFIER = Path(__file__).with_name("tiny-classifier.toml")
AUTOENCODER = Path(__file__).with_name("tiny-autoencoder.toml")
BRIEF = {
    "log_every": 1,
    "checkpoint_every": 1,
    "validate_every": 4,
    "preview_every": 4,
    "steps": 4,
    "batch_size": 8,
    "warmup_steps": 0,
}
BRIEF |= {"dtype": "fp32", "compile": "no", "device": "cpu"}
SMALL = {
    "network.channels": (8,),
    "network.attention_levels": (False,),
    "network.norm_groups": 4,
    "network.head_dim": 8,
}
BRIEFLY = load_config(str(TINY)).override(SMALL | {f"train.{key}": value for key, value in BRIEF.items()})
"""the tiny preset, made smaller still: a run of four steps, each with a checkpoint"""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["fromnoise.cli", "fromnoise.train.run", "sklearn.datasets", "torch._dynamo", "torch._inductor.compile_fx"]
)


class Run:
    """``fromnoise train`` on a tiny preset."""

    def __init__(self, out: Path, *options: str, preset: Path = TINY, largest_file: int | None = None):
        command = ["fromnoise", "train", str(preset), "--out", str(out), *options]
        self.said = Path(tempfile.mkdtemp())
        self.process = SERVER.Process(target=_run, args=(command, self.said, largest_file))
        self.process.start()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def when(self, moment: Callable[[], bool]) -> "Run":
        """Waits for a moment within the run."""
        deadline = time.monotonic() + 300
        while not moment():
            assert self.process.is_alive(), f"the run ended before the moment came: {self.errors()[-2000:]}"
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.0002)
        return self

    def kill_when(self, moment: Callable[[], bool]) -> None:
        """Sends SIGKILL as soon as ``moment()`` holds."""
        self.when(moment).send(signal.SIGKILL)
        self.finish(-signal.SIGKILL)

    def finish(self, status: int = 0) -> str:
        """Waits for the run to end as expected; what it printed."""
        self.process.join(timeout=600)
        assert self.process.exitcode == status, f"exit status {self.process.exitcode}: {self.errors()[-2000:]}"
        return (self.said / "output").read_text()

    def errors(self) -> str:
        return (self.said / "errors").read_text()


def _run(command: list[str], said: Path, largest_file: int | None) -> None:
    from fromnoise.__main__ import main

    for descriptor, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    sys.argv = command
    status = main()
    sys.stdout.flush()
    sys.exit(status)


def logged_step(out: Path) -> int:
    """The last step in a run's log, 0 before there is one."""
    log = out / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1].split()[1].strip(",")) if lines and lines[-1].endswith("}") else 0


def checkpoint_steps(out: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))


def final_state(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint that training decides: weights, averages, optimiser."""
    last = max((out / "checkpoints").glob("step-*"))
    return {
        f"{group}/{name}": tensor
        for group in ("weights", "ema", "optimizer")
        for name, tensor in safetensors.torch.load_file(last / f"{group}.safetensors").items()
    }


def assert_same_run(out: Path, reference: Path) -> None:
    """Both runs ended at the same step with the same bits in every tensor and in every file of exported weights."""
    assert checkpoint_steps(out)[-1] == checkpoint_steps(reference)[-1]
    ours, theirs = final_state(out), final_state(reference)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    exported = [path for path in reference.rglob("*.safetensors") if "checkpoints" not in path.parts]
    assert exported
    for path in exported:
        assert (out / path.relative_to(reference)).read_bytes() == path.read_bytes()
