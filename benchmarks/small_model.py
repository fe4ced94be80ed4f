"""From the command to a picture with the small Stable Diffusion that ships, beside diffusers with the same folder.

python benchmarks/small_model.py             # 5 rounds, in a minute or two; into benchmarks/results
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
ZOO = Path(__file__).parents[1] / "src/fromnoise/zoo/mini-sd"
PROMPT = "a large red seven on a blue background"
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
assert fromnoise.cli.main(["sample", "mini-sd", *words]) == 0""",
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


def drawn(library: str, out: Path) -> dict[str, list[float]]:
    """Seconds and seconds of the processor of each phase of one process."""
    imports, drawing = LIBRARIES[library]
    code = "import time; start = time.perf_counter()" + TIMED.format(imports=imports, drawing=drawing)
    done = subprocess.run([sys.executable, "-c", code, str(ZOO), PROMPT, str(out)], check=True, stdout=subprocess.PIPE)
    numbers = [float(word) for word in done.stdout.split()[-4:]]
    first, whole = numbers[:2], numbers[2:]
    return dict(zip(PHASES, (first, [b - a for a, b in zip(first, whole, strict=True)], whole), strict=True))


def measure(rounds: int) -> dict[str, Any]:
    """Both libraries, in turns."""
    turns: dict[str, list[dict[str, list[float]]]] = {library: [] for library in LIBRARIES}
    with tempfile.TemporaryDirectory() as folder:
        drawn("fromnoise", Path(folder) / "first.png")  # which builds the kernels
        for i in range(rounds):
            for library, found in turns.items():
                found.append(drawn(library, Path(folder) / "picture.png"))
            print(f"  round {i + 1} of {rounds} done", file=sys.stderr)
    kinds = {"seconds": 0, "seconds of the processor": 1}
    return {
        library: {
            phase: {name: summary([turn[phase][i] for turn in found]) for name, i in kinds.items()} for phase in PHASES
        }
        for library, found in turns.items()
    }


def render(result: dict[str, Any]) -> str:
    """The page of a result."""
    about = result["machine"]
    lines = ["# From the command to a picture: the small Stable Diffusion that ships", ""]
    lines += [f"{about['processor']}, {about['threads']} threads, load before {about['load_before']}, {about['date']}."]
    lines += ["", "| | seconds, least to most | seconds of the processor |", "| --- | --- | --- |"]
    for library in LIBRARIES:
        for phase, value in result[library].items():
            cells = ("{median:.1f}, {min:.1f} to {max:.1f}".format(**each) for each in value.values())
            lines.append(f"| {library}, {phase} | {' | '.join(cells)} |")
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
