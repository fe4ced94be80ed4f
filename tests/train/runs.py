"""Training runs in processes of their own, which can be killed for real."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch

TINY = Path(__file__).with_name("tiny.toml")
CLASSIFIER = Path(__file__).with_name("tiny-classifier.toml")


def start(out: Path, *options: str, preset: Path = TINY, launcher: Sequence[str] = (), **settings) -> subprocess.Popen:
    """Starts ``fromnoise train`` on a tiny preset."""
    command = [sys.executable, *launcher, "-m", "fromnoise", "train", str(preset), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **settings)


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    """Waits for a run to end as expected; what it printed."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == status, f"exit status {process.returncode}: {errors[-2000:]}"
    return output, errors


def kill_when(process: subprocess.Popen, moment: Callable[[], bool]) -> None:
    """Sends SIGKILL as soon as ``moment()`` holds."""
    deadline = time.monotonic() + 600
    while not moment():
        assert process.poll() is None, f"the run ended before the moment came: {process.communicate()[1][-2000:]}"
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


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
