"""Speed and memory of this project, side by side with other libraries, on this machine's CPU.

python benchmarks/speed.py                     # everything, into benchmarks/results
python benchmarks/speed.py --only memory       # a part anew; the rest of the page stays, if it is of this machine
python benchmarks/speed.py --quick             # does it run at all? into out/benchmarks; the numbers mean nothing
"""

import argparse
import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import breakdown
import memory
import ours
import peers
from fromnoise.devices import DTYPES, training_dtype
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request
from fromnoise.train.trainer import Trainer
from measure import (
    PEAK_SHAPES,
    Case,
    OwnProcess,
    forward_flops,
    interleaved,
    machine,
    parameters,
    peak_convolution,
    ratios,
    summary,
)
from report import render

BATCH = 128
SECTIONS = ("training", "sampling", "digits", "profile", "memory")
RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = Path("out/benchmarks")
COMPILED, EAGER, FP32 = "fromnoise, compiled", "fromnoise, eager", "fromnoise, eager, fp32"
DIFFUSERS, TUNED = "diffusers", "diffusers, our precision, channels-last"
DDP = "denoising-diffusion-pytorch"


CONTESTANTS: dict[str, dict[str, Any]] = {
    COMPILED: {"compiled": True},
    EAGER: {"compiled": False},
    FP32: {"compiled": False, "dtype": "fp32"},
    DIFFUSERS: {},
    TUNED: {},
    DDP: {},
}


def contestant(name: str, batch: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """A training step, and how large its network is."""
    like, options = ours.model(ours.PRESET).unet, CONTESTANTS[name]
    if "compiled" in options:
        trainer = ours.trainer(ours.configuration(ours.PRESET, batch_size=batch, **options))
        size, dtype = like.config.sample_size, trainer.dtype
        inputs = (torch.zeros(1, like.config.in_channels, size, size), torch.zeros(1), torch.zeros(1).long())
        return trainer.take_step, _size(trainer.averaged, inputs) | {"dtype": dtype}
    if name == DDP:
        peer = peers.ddp_peer(like.config, like, batch)
    else:
        precision = training_dtype(torch.device("cpu"))[0] if name == TUNED else None
        peer = peers.diffusers_peer(like.config, batch, like_ours=precision)
    return peer.step, _size(peer.network, peer.inputs)


def _size(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    flops = forward_flops(network.eval(), *inputs)
    network.train()
    return {"parameters": parameters(network), "forward_flops": flops}


def training(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of whole training steps, and the fraction of the machine's peak that ours reach."""
    batch = 4 if options.quick else BATCH
    steps = {name: OwnProcess(contestant, name, batch) for name in CONTESTANTS}
    peak = {
        f"{name}, {dtype}": OwnProcess(peak_convolution, 2 if options.quick else images, *shape, dtype)
        for name, (images, *shape) in PEAK_SHAPES.items()
        for dtype in DTYPES
    }
    cases = {name: Case(step, batch) for name, step in steps.items()}
    cases |= {name: Case(convolution, convolution.about, seconds=1.0) for name, convolution in peak.items()}
    rates = interleaved(cases, options.rounds, options.quick)
    for each in (*steps.values(), *peak.values()):
        each.close()

    best = max(peak, key=lambda name: median(rates[name]))
    results = {}
    for name, step in steps.items():
        flops = step.about["forward_flops"]
        results[name] = {
            "images_per_second": summary(rates[name]),
            "rounds": rates[name],
            "times_diffusers": ratios(rates[name], rates[DIFFUSERS]),
            "times_ddp": ratios(rates[name], rates[DDP]),
            "parameters": step.about["parameters"],
            "forward_flops": flops,
            "fraction_of_peak": summary([3 * flops * a / b for a, b in zip(rates[name], rates[best], strict=True)]),
        }
    return {
        "batch": batch,
        "preset": ours.PRESET,
        "own_processes": True,
        "dtype": steps[EAGER].about["dtype"],
        "cases": results,
        "peak": {
            "best": best,
            "precisions": list(DTYPES),
            "flops_per_second": {name: summary(rates[name]) for name in peak},
        },
    }


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Network evaluations a second: images times steps, the whole of drawing included."""
    count, steps = (16, 2) if options.quick else (64, 30)
    model = ours.model(ours.PRESET)
    cases = {}
    for dtype in ("fp32", "bf16"):
        request = Request(n=count, steps=steps, guidance=1.0, device="cpu", dtype=dtype)
        cases[f"fromnoise, {dtype}"] = Case(functools.partial(generate, model, request), count * steps)
    config = model.unet.config
    others = {DIFFUSERS: peers.diffusers_peer(config, 1), DDP: peers.ddp_peer(config, model.unet, 1)}
    for name, peer in others.items():
        for batch in sorted({min(peers.USUAL_BATCH, count), count}):
            run = functools.partial(peer.sample, batch, steps)
            cases[f"{name}, {batch} at a time"] = Case(run, batch * steps)
    rates = interleaved(cases, options.rounds, options.quick)
    best = {
        peer: max((name for name in rates if name.startswith(peer)), key=lambda name: median(rates[name]))
        for peer in others
    }
    return {
        "preset": ours.PRESET,
        "images": count,
        "steps": steps,
        "best": best,
        "cases": {
            name: {
                "evaluations_per_second": summary(rate),
                "rounds": rate,
                "times_diffusers": ratios(rate, rates[best[DIFFUSERS]]),
                "times_ddp": ratios(rate, rates[best[DDP]]),
            }
            for name, rate in rates.items()
        },
    }


def digits(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second as by default, and by ancestral sampling in 1000 steps written the usual way."""
    count, steps = (16, 2) if options.quick else (1000, 20)
    model = ours.model(ours.PRESET)
    cases = {}
    for dtype in ("fp32", "bf16"):
        request = Request(n=count, device="cpu", dtype=dtype)
        cases[f"fromnoise, as by default, {dtype}"] = Case(functools.partial(generate, model, request), count)
    peer, batch = peers.diffusers_peer(model.unet.config, 1), min(64, count)
    share = steps / peers.STEPS  # of the way from noise to image
    cases[f"{DIFFUSERS}, {peers.STEPS} steps, fp32"] = Case(functools.partial(peer.sample, batch, steps), batch * share)
    rates = interleaved(cases, options.rounds, options.quick)
    slow = rates[f"{DIFFUSERS}, {peers.STEPS} steps, fp32"]
    return {
        "preset": ours.PRESET,
        "images": count,
        "evaluations": plan(model, Request()).evaluations,
        "timed_steps": steps,
        "cases": {
            name: {"images_per_second": summary(rate), "rounds": rate, "times_slow": ratios(rate, slow)}
            for name, rate in rates.items()
        },
    }


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Where the time of an eager step goes."""
    config = ours.configuration(ours.PRESET, compiled=False, batch_size=4 if options.quick else None)
    trainer: Trainer = ours.trainer(config)
    steps = 1 if options.quick else 5
    return {"preset": ours.PRESET, "steps": steps, "fractions": breakdown.time_by_kind(trainer, steps)}


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory of training and of drawing 64 images."""
    return {"presets": memory.measure(options.quick)}


MEASURE = {
    "training": training,
    "sampling": sampling,
    "digits": digits,
    "profile": profile,
    "memory": measure_memory,
}


def beside_earlier(path: Path, results: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    """The results file with some sections measured anew: what else it holds is kept, if it is of the same machine."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    same = ("processor", "cores", "threads", "versions")
    if earlier is None or any(earlier["machine"][key] != results["machine"][key] for key in same):
        return results
    measured = {"command": results["command"], "date": results["machine"]["date"]}
    return earlier | {section: results[section] | {"measured": measured} for section in sections}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny batches and turns: only to see that it runs")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, help=f"folder; default: {RESULTS.name}/ here, with --quick {QUICK_RESULTS}")
    options = parser.parse_args(arguments)
    sections = options.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}, only {', '.join(SECTIONS)}")
    folder = options.out or (QUICK_RESULTS if options.quick else RESULTS)

    command = shlex.join(["python", "benchmarks/speed.py", *arguments])
    results: dict[str, Any] = {"machine": machine(), "command": command, "quick": options.quick}
    results["rounds"] = options.rounds
    for section in SECTIONS:  # memory last: its processes have the machine for themselves
        if section in sections:
            print(section, file=sys.stderr)
            results[section] = MEASURE[section](options)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speed.json"
    if len(sections) < len(SECTIONS) and not options.quick:
        results = beside_earlier(path, results, sections)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = render(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    print(f"wrote {path} and {path.with_suffix('.md')}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
