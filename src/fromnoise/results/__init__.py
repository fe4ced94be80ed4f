"""The tables and the plot of results, from stored measurements, and how these are made again.

A folder holds ``plan.toml``, which says what is measured, and a JSON file for each measurement, as ``fromnoise evaluate
--json`` writes it, with the command that made it. No figure of ours is typed. The README has the short table, the
folder's own ``README.md`` all of them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fromnoise.configs import MAX_BYTES, load
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, read_bytes
from fromnoise.results import page
from fromnoise.results.plan import Plan, load_plan

__all__ = ["BEGIN", "END", "PAGE", "PLOT", "Plan", "load_plan", "read_measured", "remeasure", "rewrite"]

BEGIN, END = "<!-- results: written by fromnoise results -->", "<!-- end of results -->"
PAGE, PLOT = "README.md", "quality.png"
"""the files beside the measurements that are made of them"""
DONE = ".remeasured"
"""names of the measurements that an unfinished remeasuring has made already"""


def remeasure(
    plan: Plan,
    folder: Path,
    evaluate: Callable[[Sequence[str]], None],
    only: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[str]:
    """Makes all measurements again, or those that ``only`` names, by ``fromnoise evaluate``, given its arguments.

    A call after an interruption goes on where the last one stopped. Returns the names of measurements that may be
    missing and could not be made.

    Raises:
        UserError: a measurement that must not be missing could not be made, or there is none of that name.
    """
    measurements = plan.measurements()
    if unknown := set(only) - set(measurements):
        raise UserError(f"no measurement {', '.join(sorted(unknown))} in the plan: there are {', '.join(measurements)}")
    note, missed = folder / DONE, []
    done = read_bytes(note, MAX_BYTES).decode(errors="replace").split() if note.exists() and not only else []
    wanted = [name for name in only or measurements if name not in done]
    for place, name in enumerate(wanted, start=1):
        say(f"[{place} of {len(wanted)}] {name}")
        try:
            evaluate([*measurements[name], "--json", (folder / f"{name}.json").as_posix()])
        except UserError as error:
            if name not in plan.may_be_missing:
                raise
            missed.append(name)
            say(f"{name} is left out: {error}")
        if not only:
            done.append(name)
            with atomic_write(note) as partial:
                partial.write_text("\n".join(done))
    if not only:
        note.unlink(missing_ok=True)
    return missed


def rewrite(plan: Plan, folder: Path, readme: Path) -> None:
    """Writes the short table between the markers in the README, and all tables and the plot beside the measurements.

    Raises:
        UserError: a measurement is missing, the README has no markers, or matplotlib is not there.
    """
    measured = read_measured(plan, folder)
    try:
        text = read_bytes(readme, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {readme}: {error}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{readme} has no place for the results: it takes the lines {BEGIN} and {END}")
    page.draw(plan, measured, folder / PLOT)
    for path, content in (
        (folder / PAGE, page.whole(plan, measured, PLOT)),
        (readme, f"{before}{BEGIN}\n\n{page.short(plan, measured)}\n{END}{after}"),
    ):
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")


def read_measured(plan: Plan, folder: Path) -> dict[str, Any]:
    """The measurements of a folder by name; a `UserError` where one is missing or damaged."""
    measured = {}
    for name in plan.measurements():
        path = folder / f"{name}.json"
        again = f"fromnoise results --remeasure --only {name} makes it"
        if not path.exists():
            if name in plan.may_be_missing:
                continue
            raise UserError(f"{path} is missing: {again}")
        try:
            measured[name] = load(path)
            page.check(plan, name, measured[name])
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {again} again") from None
    return measured
