"""Makes the notebooks from the chapters' sources, and checks that they still agree with them.

    python book/notebooks.py write [NAME...]    execute book/NAME.md and write book/NAME.ipynb
    python book/notebooks.py check [NAME...]    execute again, compare with the notebook that is there, write nothing

Without a name, all chapters. A chapter fails when a cell raises, which a failed assertion does. Checked are the cells'
sources (exactly), printed numbers and words, and pictures (closely: processors differ in the last bits). The outputs of
a cell with the tag ``varies``, such as times, are not compared.
"""

import argparse
import base64
import io
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from bridge import chapters
from fromnoise.devices import convolution_rates

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
RELATIVE, ABSOLUTE = 0.02, 1e-3  # how far two printed numbers may lie apart
GREY_LEVELS = 3.0  # how far two pictures may lie apart on average
LIMIT = 120  # seconds that a chapter may take on one core, which is a minute on two,
SPEED = 150  # where both together reach so many GFLOP/s in fp32; a slower processor may take longer


def execute(source: Path, parameters: str = "") -> tuple[nbformat.NotebookNode, float]:
    """The chapter as an executed notebook, and the seconds that took.

    Args:
        parameters: code to run after the cell with the tag ``parameters``, to choose otherwise than it does.
    """
    notebook = jupytext.read(source)
    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.source += f"\n{parameters}"
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03}"
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    started = time.monotonic()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(source.parent)}}).execute()
    seconds = time.monotonic() - started
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [tidy(output) for output in merged(cell.outputs)]
    return notebook, seconds


def merged(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs, with what was printed in several pieces joined: how it is cut is a matter of time."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def tidy(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The output with its picture recompressed, and without the text that only says there is a picture."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        small = io.BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(small.getvalue()).decode()
    if "image/png" in data or "text/markdown" in data:
        data.pop("text/plain", None)
    return output


def differences(old: nbformat.NotebookNode, new: nbformat.NotebookNode) -> list[str]:
    """What tells a notebook from the one its source makes now."""
    if [(cell.cell_type, cell.source) for cell in old.cells] != [(cell.cell_type, cell.source) for cell in new.cells]:
        return ["its cells are not those of the source"]
    found = []
    for before, after in zip(old.cells, new.cells, strict=True):
        if after.cell_type == "code" and "varies" not in after.metadata.get("tags", []):
            found += [f"{after.id}: {problem}" for problem in output_differences(before.outputs, after.outputs)]
    return found


def output_differences(old: list[nbformat.NotebookNode], new: list[nbformat.NotebookNode]) -> list[str]:
    if [kind(output) for output in old] != [kind(output) for output in new]:
        return [f"other kinds of output: {[kind(o) for o in old]} became {[kind(o) for o in new]}"]
    found = []
    for before, after in zip(old, new, strict=True):
        if kind(after) == "image/png":
            found += picture_differences(pixels(before), pixels(after))
        else:
            found += text_differences(text(before), text(after))
    return found


def kind(output: nbformat.NotebookNode) -> str:
    for name in ("image/png", "text/markdown", "text/html", "text/plain"):
        if name in output.get("data", {}):
            return name
    return f"{output.output_type} {output.get('name', '')}".strip()


def text(output: nbformat.NotebookNode) -> str:
    return output.text if "text" in output else output.data[kind(output)]


def pixels(output: nbformat.NotebookNode) -> np.ndarray:
    data = base64.b64decode(output.data["image/png"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)


def picture_differences(old: np.ndarray, new: np.ndarray) -> list[str]:
    if np.abs(np.subtract(old.shape, new.shape)).max() > 4:
        return [f"a picture of another size: {old.shape} became {new.shape}"]
    height, width = np.minimum(old.shape, new.shape)[:2]
    apart = float(np.abs(old[:height, :width] - new[:height, :width]).mean())
    return [f"another picture: {apart:.1f} grey levels apart"] if apart > GREY_LEVELS else []


def text_differences(old: str, new: str) -> list[str]:
    if NUMBER.sub("#", old).split() != NUMBER.sub("#", new).split():
        return [f"other words: {old[:200]!r} became {new[:200]!r}"]
    pairs = zip(map(float, NUMBER.findall(old)), map(float, NUMBER.findall(new)), strict=True)
    return [f"{a:g} became {b:g}" for a, b in pairs if abs(a - b) > ABSOLUTE + RELATIVE * max(abs(a), abs(b))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["write", "check"])
    parser.add_argument("names", nargs="*", help="chapters, such as 01-adding-noise")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # a chapter reaches for nothing
    os.environ["OMP_NUM_THREADS"] = "1"  # as many chapters at a time as there are cores, each on one of them
    sources = [source for source in chapters() if not given.names or source.stem in given.names]
    if unknown := set(given.names) - {source.stem for source in sources}:
        parser.error(f"no such chapter: {', '.join(sorted(unknown))}")
    failed, total = False, 0.0
    limit = LIMIT * max(1.0, SPEED / convolution_rates()["fp32"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {source: pool.submit(execute, source) for source in reversed(sources)}  # the last ones take longest
        for source in sources:
            notebook, seconds = running[source].result()
            target = source.with_suffix(".ipynb")
            total += seconds
            problems = []
            if given.command == "write":
                nbformat.write(notebook, target)
            elif not target.exists():
                problems = [f"{target.name} is missing"]
            else:
                problems = differences(nbformat.read(target, 4), notebook)
            if seconds > limit:
                problems.append(f"took {seconds:.0f} s, more than {limit:.0f}")
            size = target.stat().st_size / 1e6 if target.exists() else 0.0
            print(f"{source.stem}: {seconds:.1f} s, {size:.2f} MB, {'ok' if not problems else 'FAILED'}", flush=True)
            for problem in problems:
                print(f"  {problem}")
            failed |= bool(problems)
    print(f"{len(sources)} chapters in {total:.0f} s")
    if failed and given.command == "check":
        print("To renew the notebooks: make notebooks")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
