"""The results as Markdown, made of the JSON file alone: no number is typed.

python benchmarks/report.py FILE.json prints it.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def render(results: dict[str, Any]) -> str:
    """Everything that a results file holds, as one page."""
    parts = ["# Speed and memory", _machine(results)]
    if results["quick"]:
        parts.append("**A quick run: these numbers mean nothing.**")
    sections = {
        "training": _training,
        "sampling": _sampling,
        "digits": _digits,
        "profile": _profile,
        "memory": _memory,
    }
    for name, write in sections.items():
        if name in results:
            parts += [write(results[name]), *_measured(results[name])]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three digits that count, and no fraction above a hundred."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def spread(values: dict[str, float]) -> str:
    """Median, and in brackets least and greatest."""
    median, least, greatest = (number(values[key]) for key in ("median", "min", "max"))
    return median if least == greatest else f"{median} ({least} to {greatest})"


def percent(values: dict[str, float]) -> str:
    return f"{100 * values['median']:.0f}%"


def _measured(section: dict[str, Any]) -> list[str]:
    """When a section was measured by itself, and how."""
    measured = section.get("measured")
    return [f"This part was measured on {measured['date']} by `{measured['command']}`."] if measured else []


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    bf16 = ", ".join(machine["bf16_instructions"]) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, bf16 instructions: {bf16}. "
        f"{machine['system']}, {versions}. Measured on {machine['date']} at a load of {machine['load_before']} by "
        f"`{results['command']}`. Figures are medians, in brackets least and greatest, of {results['rounds']} rounds "
        "in which each contestant had one turn; ratios are taken within each round."
    )


def _training(training: dict[str, Any]) -> str:
    rows = [
        [
            name,
            spread(case["images_per_second"]),
            spread(case["times_diffusers"]),
            spread(case["times_ddp"]),
            f"{case['parameters'] / 1e6:.2f}",
            f"{case['forward_flops'] / 1e6:.0f}",
            percent(case["fraction_of_peak"]),
        ]
        for name, case in training["cases"].items()
    ]
    head = ["training", "images/s", "times diffusers", "times d-d-p", "M parameters", "MFLOP/image", "of peak"]
    peak = training["peak"]
    shapes = [[name, spread(_scaled(rate, 1e-9))] for name, rate in peak["flops_per_second"].items()]
    return "\n\n".join(
        [
            "## Training",
            f"Whole steps of {training['batch']} images with the network of the preset `{training['preset']}`: data, "
            f"loss, gradients, clipping, optimiser, averaged weights. Ours in {training['dtype']} unless it says fp32, "
            "by the train command's own step. The others as their own training code runs on a CPU: fp32, contiguous; "
            + "".join(
                f"`{name}` is the same with our precision and memory format. "
                for name in training["cases"]
                if "channels-last" in name
            )
            + "diffusers has the same architecture; denoising-diffusion-pytorch (d-d-p) its own, of nearly as many "
            "parameters, without classes."
            + " Each runs in a process of its own."
            * training.get("own_processes", False),
            table(head, rows),
            "MFLOP/image are those of a forward pass; a step counts as three. The peak is the best rate of 3x3 "
            f"convolutions in {' or '.join(peak.get('precisions', ['bf16']))} and channels-last, measured in the same "
            f"rounds, here {peak['best']}:",
            table(["batch x channels x height x width", "GFLOP/s"], shapes),
        ]
    )


def _sampling(sampling: dict[str, Any]) -> str:
    rows = [
        [name, *(spread(case[key]) for key in ("evaluations_per_second", "times_diffusers", "times_ddp"))]
        for name, case in sampling["cases"].items()
    ]
    return "\n\n".join(
        [
            "## Drawing",
            f"Network evaluations a second (images times steps), all of drawing included: {sampling['images']} images "
            f"in {sampling['steps']} steps without guidance, with an untrained network of `{sampling['preset']}`. "
            "Ours by the function that `fromnoise sample` calls, which shows the network few rows at a time. "
            "The others in fp32, at the batch that is their default and at ours; ratios are to the faster of the two.",
            table(["drawing", "evaluations/s", "times diffusers", "times d-d-p"], rows),
        ]
    )


def _digits(digits: dict[str, Any]) -> str:
    rows = [
        [name, number(digits["images"] / rate), spread(case["images_per_second"]), spread(case["times_slow"])]
        for name, case in digits["cases"].items()
        for rate in [case["images_per_second"]["median"]]
    ]
    return "\n\n".join(
        [
            f"## {digits['evaluations']} evaluations and a thousand steps",
            f"{digits['images']:,} digits by `{digits['preset']}` as `fromnoise sample` draws them by default, in "
            f"{digits['evaluations']} evaluations of the network each; and by ancestral sampling in 1000 steps as it "
            "is usually written: the same network in diffusers, fp32, 64 images at a time. The time of the latter is "
            f"extrapolated from {digits['timed_steps']} steps. The README's results say how good either is.",
            table(["drawing", "seconds", "images/s", "times as fast"], rows),
        ]
    )


def _profile(profile: dict[str, Any]) -> str:
    rows = [[kind, f"{100 * fraction:.1f}%"] for kind, fraction in profile["fractions"].items()]
    return "\n\n".join(
        [
            "## Where the time goes",
            f"{profile['steps']} training steps of `{profile['preset']}` without torch.compile, forward and backward:",
            table(["operation", "of the time"], rows),
        ]
    )


def _memory(memory: dict[str, Any]) -> str:
    tasks = list(next(iter(memory["presets"].values())))
    rows = [
        [preset, *(_gib(found[task]) if task in found else "" for task in tasks)]
        for preset, found in memory["presets"].items()
    ]
    return "\n\n".join(
        [
            "## Memory",
            "GiB of resident memory at the peak, each in a process of its own. Training holds the whole dataset, "
            "decoded, and takes a few steps at the preset's batch size; drawing makes 64 images. `import` is what "
            "the program takes before it does anything, and is part of the others; compiled means compiled anew.",
            table(["preset", *tasks], rows),
        ]
    )


def _gib(found: dict[str, Any]) -> str:
    return f"{found['bytes'] / 2**30:.2f}" if "bytes" in found else str(found["failed"])


def _scaled(values: dict[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in values.items()}


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
