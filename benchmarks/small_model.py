"""From the command to a picture with the small Stable Diffusions that ship, beside diffusers with the same folders.

python benchmarks/small_model.py             # 5 rounds, in three or four minutes; into benchmarks/results
python benchmarks/small_model.py --quick     # does it run at all? one round, which is only printed

Each picture is drawn by a process of its own, as who types the command waits for it: 64x64 pixels, 15 steps of
DPM-Solver++ with guidance. A process tells how long its imports took, and how long what came after; seconds of the
processor say the same where other processes run beside it. The kernels are built before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, summary

RESULTS = Path(__file__).parent / "results"
ZOO = Path(__file__).parents[1] / "src/fromnoise/zoo"
PROMPTS = {"mini-sd": "a large red seven on a blue background", "emoji-sd": "a taco left of a turtle on blue"}
TIMED = """
import sys, time
{imports}
imported = time.perf_counter() - start, time.process_time()
{drawing}
whole = time.perf_counter() - start, time.process_time()
print(*imported, *whole)
"""
OURS = (
    """
import fromnoise.cli, fromnoise.models.hub, fromnoise.pictures, fromnoise.sampling.words""",
    """
words = ["--prompt", sys.argv[2], "--steps", "15", "--guidance", "3", "--out", sys.argv[3]]
assert fromnoise.cli.main(["sample", sys.argv[1].rpartition("/")[2], *words]) == 0""",
)
THEIRS = (
    """
from diffusers import StableDiffusionPipeline""",
    """
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
picture = pipe(sys.argv[2], num_inference_steps=15, guidance_scale=3.0, width=64, height=64).images[0]
picture.save(sys.argv[3])""",
)
LIBRARIES = {"fromnoise": OURS, "diffusers": THEIRS}
PHASES = "imports", "after the imports", "the whole"


def drawn(library: str, model: str, out: Path) -> dict[str, list[float]]:
    """Seconds and seconds of the processor of each phase of one process."""
    imports, drawing = LIBRARIES[library]
    code = "import time; start = time.perf_counter()" + TIMED.format(imports=imports, drawing=drawing)
    command = [sys.executable, "-c", code, str(ZOO / model), PROMPTS[model], str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    numbers = [float(word) for word in done.stdout.split()[-4:]]
    first, whole = numbers[:2], numbers[2:]
    return dict(zip(PHASES, (first, [b - a for a, b in zip(first, whole, strict=True)], whole), strict=True))


def measure(rounds: int) -> dict[str, Any]:
    """Both libraries with both models, in turns."""
    cases = {f"{model}, {library}": (library, model) for model in PROMPTS for library in LIBRARIES}
    turns: dict[str, list[dict[str, list[float]]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        drawn("fromnoise", "mini-sd", Path(folder) / "first.png")  # which builds the kernels
        for i in range(rounds):
            for case, found in turns.items():
                found.append(drawn(*cases[case], Path(folder) / "picture.png"))
            print(f"  round {i + 1} of {rounds} done", file=sys.stderr)
    kinds = {"seconds": 0, "seconds of the processor": 1}
    return {
        case: {
            phase: {name: summary([turn[phase][i] for turn in found]) for name, i in kinds.items()} for phase in PHASES
        }
        for case, found in turns.items()
    }


def render(result: dict[str, Any]) -> str:
    """The page of a result."""
    about = result["machine"]
    lines = ["# From the command to a picture: the small Stable Diffusions that ship", ""]
    lines += [f"{about['processor']}, {about['threads']} threads, load before {about['load_before']}, {about['date']}."]
    lines += ["", "| | seconds, least to most | seconds of the processor |", "| --- | --- | --- |"]
    for case in (name for name in result if name != "machine"):
        for phase, value in result[case].items():
            cells = ("{median:.2f}, {min:.2f} to {max:.2f}".format(**each) for each in value.values())
            lines.append(f"| {case}, {phase} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    result = {"machine": machine(), **measure(1 if given.quick else given.rounds)}
    print(render(result))
    if not given.quick:
        (RESULTS / "small_model.json").write_text(json.dumps(result, indent=2) + "\n")
        (RESULTS / "small_model.md").write_text(render(result))


if __name__ == "__main__":
    main()
