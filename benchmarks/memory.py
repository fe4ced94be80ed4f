"""The most memory that training and sampling hold, each measured in a process of its own.

    python benchmarks/memory.py TASK PRESET [--quick]

does one task, in the process that is measured, and prints one JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import fromnoise.train.run  # noqa: F401  what the command imports
import ours
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request
from fromnoise.train.config import load_config, preset_names
from fromnoise.train.stages import load_stages
from measure import peak_memory

TASKS = ("import", "sample", "train eager", "train compiled")
STEPS = 3  # a step's memory is that of any other; the first two make the optimiser's


def measure(quick: bool) -> dict[str, dict[str, Any]]:
    """Bytes at the peak, for each preset of a diffusion model and each task."""
    results: dict[str, dict[str, Any]] = {}
    models = [name for name in preset_names() if load_stages(name) is None and load_config(name).task == "denoising"]
    for preset in ["digits"] if quick else models:
        results[preset] = {}
        for task in TASKS[:-1] if quick else TASKS:
            results[preset][task] = in_a_process(task, preset, quick)
            print(f"  {preset}, {task}: {results[preset][task]}", file=sys.stderr)
    return results


def in_a_process(task: str, preset: str, quick: bool) -> dict[str, Any]:
    """What one task came to: its bytes, or how it failed."""
    command = [sys.executable, __file__, task, preset, *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory() as cache:  # compiles anew, as a first run does
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"failed": f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def do(task: str, preset: str, quick: bool) -> None:
    """One task, to its peak."""
    if task.startswith("train"):
        config = ours.configuration(preset, compiled=task == "train compiled", batch_size=4 if quick else None)
        trainer = ours.trainer(config)
        for _ in range(STEPS):
            trainer.take_step()
    elif task == "sample":
        generate(ours.model(preset), Request(n=4 if quick else 64, steps=STEPS))


if __name__ == "__main__":
    do(sys.argv[1], sys.argv[2], "--quick" in sys.argv)
    print(json.dumps({"bytes": peak_memory()}))
