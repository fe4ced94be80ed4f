"""What is common to all measurements: turns in rounds, medians and ratios, operations, the machine."""

import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.devices import DTYPES
from fromnoise.memory import keep_freed_memory

PEAK_SHAPES = {  # of 3x3 convolutions: batch, channels, height and width; the first three are the MNIST network's
    "128 x 32 x 28 x 28": (128, 32, 28),
    "128 x 64 x 14 x 14": (128, 64, 14),
    "128 x 128 x 7 x 7": (128, 128, 7),
    "64 x 256 x 32 x 32": (64, 256, 32),
}


@dataclass(frozen=True)
class Case:
    """Something that does so many units of work (images, evaluations, operations) each time it is called."""

    run: Callable[[], object]
    units: float
    seconds: float = 6.0
    """a turn lasts about so long, and is at least one call"""


def interleaved(cases: dict[str, Case], rounds: int, quick: bool = False) -> dict[str, list[float]]:
    """Units a second of each case in each round. All cases have one turn a round, so that all share its conditions.

    Args:
        quick: a turn is one call.
    """
    calls = {}
    for name, case in cases.items():
        _timed(case, 1)  # compiles, allocates
        calls[name] = 1 if quick else max(1, round(case.seconds / _timed(case, 1)))
        print(f"  {name}: {calls[name]} calls a turn", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(rounds):
        for name, case in cases.items():
            rates[name].append(calls[name] * case.units / _timed(case, calls[name]))
        print(f"  round {i + 1} of {rounds} done", file=sys.stderr)
    return rates


def _timed(case: Case, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        case.run()
    return time.perf_counter() - start


class OwnProcess:
    """Something to call that lives in a process of its own, where no other contestant's settings reach it.

    Args:
        build: a function of a module, which returns what is to be called and whatever is to be known about it.
    """

    def __init__(self, build: Callable[..., tuple[Callable[[], object], Any]], *arguments: object):
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        context.Process(target=_serve, args=(there, build, arguments), daemon=True).start()
        there.close()  # so that the end of the process is the end of the pipe
        self.about: Any = self.pipe.recv()

    def __call__(self) -> None:
        self.pipe.send("again")
        self.pipe.recv()

    def close(self) -> None:
        self.pipe.close()


def _serve(pipe: Connection, build: Callable[..., tuple[Callable[[], object], Any]], arguments: tuple[object]) -> None:
    run, about = build(*arguments)
    pipe.send(about)
    try:
        while pipe.recv():
            run()
            pipe.send("done")
    except EOFError:
        return


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times as fast, round by round, so that what slows a whole round down drops out."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def forward_flops(network: nn.Module, *inputs: Tensor) -> int:
    """Operations of one forward pass in training, a multiplication and an addition as two, by torch's own counter.

    It counts convolutions and matrix products. It does not know the CPU's fused attention, so attention is written
    out while it counts.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def peak_convolution(batch: int, channels: int, size: int, dtype: str) -> tuple[Callable[[], object], float]:
    """A 3x3 convolution, channels-last, whose best rate is what the machine can do; and how many operations it takes.

    Args:
        dtype: bf16 or fp32. Which of the two is faster depends on the processor.
    """
    keep_freed_memory()
    x = torch.randn(batch, channels, size, size).to(DTYPES[dtype], memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3).to(DTYPES[dtype], memory_format=torch.channels_last)
    run = torch.no_grad()(lambda: F.conv2d(x, weight, padding=1))
    return run, 2.0 * batch * channels * channels * 9 * size * size


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes.

    Linux's own figure for this program: ``ru_maxrss`` would start at the parent's, which lives on through exec.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": [name for name in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(name)],
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in ("torch", "diffusers", "denoising-diffusion-pytorch")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
