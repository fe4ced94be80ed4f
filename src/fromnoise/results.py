"""The README's table and plot of results, from stored measurements, and how these are made again.

A folder holds ``plan.toml``, which says what is measured, and a JSON file for each measurement, as ``fromnoise evaluate
--json`` writes it, with the command that made it. No figure of ours is typed.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MaxLen, MinLen

from fromnoise.configs import MAX_BYTES, Count, Made, load, read
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, read_bytes

BEGIN, END = "<!-- results: written by fromnoise results -->", "<!-- end of results -->"
PLOT, FARTHEST, LEAST_READ = "quality.png", 4, 95
"""the plot's file; the largest multiple of the distance of real images that it shows, and the least percentage"""
DONE = ".remeasured"
"""names of the measurements that an unfinished remeasuring has made already"""

Name = Annotated[str, Made(r"\w[\w.-]*", "the name of a file, without its ending")]


@dataclass(frozen=True)
class Curve:
    """Quality by the number of steps: the same options for each sampler and number."""

    options: str
    samplers: Annotated[list[str], MinLen(1)]
    steps: Annotated[list[Count], MinLen(1)]

    def measurements(self) -> dict[str, str]:
        """The options of each measurement, by its name."""
        pairs = [(sampler, steps) for sampler in self.samplers for steps in self.steps]
        return {f"{sampler}-{n}": f"{self.options} --sampler {sampler} --steps {n}" for sampler, n in pairs}


@dataclass(frozen=True)
class Published:
    """What others report."""

    model: str
    fid: str
    source: str
    bits: str = ""


@dataclass(frozen=True)
class Plan:
    """What is measured: options of ``fromnoise evaluate`` by the name of each measurement."""

    models: Annotated[dict[Name, str], MinLen(1)]
    likelihood: dict[Name, str]
    few_steps: Annotated[dict[Name, str], MinLen(2), MaxLen(2)]
    curve: Curve
    prompts: dict[Name, str] = field(default_factory=dict)
    optional: dict[Name, str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)

    @property
    def may_be_missing(self) -> dict[str, str]:
        """The measurements that are shown only where they have been made."""
        return self.prompts | self.optional

    def measurements(self) -> dict[str, list[str]]:
        """The arguments of each measurement, quick ones and those that others wait for first."""
        everything = self.likelihood | self.models | self.curve.measurements() | self.few_steps | self.may_be_missing
        return {name: shlex.split(options) for name, options in everything.items()}


def load_plan(folder: Path) -> Plan:
    """The plan of a results folder; a `UserError` if there is none, or it is not valid."""
    path = folder / "plan.toml"
    if not path.exists():
        raise UserError(f"{path} is missing: run this where fromnoise's README.md and results/ are")
    plan = read(Plan, {key.replace("-", "_"): value for key, value in load(path).items()}, str(path))
    try:
        plan.measurements()
    except ValueError as problem:  # quotes that are never closed
        raise UserError(f"{path}: the options of a measurement cannot be read: {problem}") from None
    return plan


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
    """Writes the table between the markers in the README, and the plot beside the measurements.

    Raises:
        UserError: a measurement is missing, the README has no markers, or matplotlib is not there.
    """
    measured = _read(plan, folder)
    try:
        text = read_bytes(readme, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {readme}: {error}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{readme} has no place for the results: it takes the lines {BEGIN} and {END}")
    plot = folder / PLOT
    section = render(plan, measured, plot.relative_to(readme.parent).as_posix())
    draw(plan, measured, plot)
    with atomic_write(readme) as partial:
        partial.write_text(f"{before}{BEGIN}\n\n{section}\n{END}{after}", encoding="utf-8")


def _read(plan: Plan, folder: Path) -> dict[str, Any]:
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
            _check(plan, name, measured[name])
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {again} again") from None
    return measured


def _check(plan: Plan, name: str, record: dict[str, Any]) -> None:
    """Fails in some way where a value is missing that is shown, or is of another kind."""
    f"{record['model']:s} {record['command']:s} {record['n']:,} {record['evaluations']:d}"
    if name in plan.likelihood:
        _bits(record["metrics"])
    elif name in plan.prompts:
        f"{record['reference']['size']:,} {record['reference']['name']:s}"
        _prompts_row(record)
    elif name in plan.optional:
        _fid_row(record)
    elif name in plan.models:
        f"{record['reference']['name']:s} {record['reference']['size']:,} {record['reference']['split']:s}"
        _model_row(record, {})
    elif name in plan.few_steps:
        f"{_with_halves(record, 'fd', '.4f')} {_with_halves(record, 'accuracy', '.2%')}"
    else:
        fd, accuracy = (record["metrics"][metric] for metric in ("fd", "accuracy"))
        f"{fd['value']:f} {fd['details']['real']['value']:f} {accuracy['value']:f}"


def render(plan: Plan, measured: dict[str, Any], plot: str) -> str:
    """The section as Markdown."""
    likelihood = {measured[name]["model"]: measured[name]["metrics"] for name in plan.likelihood}
    rows = [_model_row(measured[name], likelihood) for name in plan.models]
    rows += [_fid_row(measured[name]) for name in plan.optional if name in measured]
    head = ["model", "sampler", "evaluations", "read as asked", "Fréchet distance", "ratio to training images"]
    head += ["precision", "recall", "bits/dim, ODE", "bits/dim, bound"]
    first, curve = measured[next(iter(plan.models))], measured[next(iter(plan.curve.measurements()))]
    real = first["reference"]
    default, ancestral = (measured[name] for name in plan.few_steps)
    published = [[row.model, row.fid, row.bits, row.source] for row in plan.published]
    told = [name for name in plan.prompts if name in measured]
    named = (*plan.models, *plan.likelihood, *plan.few_steps, *told)
    parts = [
        f"""Measured with {first["n"]:,} images each, against {real["size"]:,} {real["split"]} images of {real["name"]}.
The Fréchet distance is computed from the features of the classifier of digits that ships, so it is not an FID. Beside
it stands its ratio to the distance of an equal number of training images. A conditional model is asked for each digit
as often as it occurs in MNIST or, where a row says evenly, for an equal number of each digit. Such a row has a second
ratio, in brackets: to the distance of training images with an equal number of each digit. Evaluations of the network
are counted for one image; a guided one counts twice. Bits per dimension are of real test images, with a standard
error.""",
        _table(head, rows),
        f"""{default["n"]:,} images each, in brackets the two halves of them. Drawn as by default, in
{default["evaluations"]} evaluations, their Fréchet distance is {_with_halves(default, "fd", ".4f")}, and
{_with_halves(default, "accuracy", ".2%")} are read as asked. By ancestral sampling, in
{ancestral["evaluations"]} evaluations, it is {_with_halves(ancestral, "fd", ".4f")}, and
{_with_halves(ancestral, "accuracy", ".2%")} are.""",
        f"![Fréchet distance and accuracy by the number of evaluations]({plot})",
        f"""Quality by the number of evaluations, {curve["n"]:,} images each without guidance, from the same noise. With
so few images the distance is too large, by about the distance of an equal number of real images, the dotted line.""",
        *_prompts_part([measured[name] for name in told]),
        """What others report, as published and not measured here (FID by Inception's features on CIFAR-10, which
cannot be compared with ours):""",
        _table(["model", "FID", "bits/dim", "source"], published),
        "The commands, which `fromnoise results --remeasure` runs again, with those of the plot, in an hour or two:",
        "\n".join(f"- `{measured[name]['command']}`" for name in named),
    ]
    return "\n\n".join(parts) + "\n"


def _model_row(record: dict[str, Any], likelihood: dict[str, Any]) -> list[str]:
    metrics, fd = record["metrics"], record["metrics"]["fd"]
    has_classes = "accuracy" in metrics
    evenly = ", evenly" if has_classes and record["classes"] is None and not record.get("data_mix") else ""
    of_classes = fd["details"].get("real_of_these_classes")
    return [
        *_how(record, evenly),
        f"{metrics['accuracy']['value']:.2%}" if has_classes else "",
        f"{fd['value']:.4f}",
        f"{fd['details']['ratio']:.2f}" + (f" ({fd['value'] / of_classes:.2f})" if of_classes else ""),
        *(f"{metrics[name]['value']:.3f}" for name in ("precision", "recall")),
        *(_bits(likelihood[record["model"]]) if record["model"] in likelihood else ["", ""]),
    ]


def _bits(nll: dict[str, Any]) -> list[str]:
    return [_with_error(nll[name], ".2f") for name in ("ode", "vlb")]


def _fid_row(record: dict[str, Any]) -> list[str]:
    return [*_how(record), "", f"FID {record['metrics']['fid']['value']:.2f}", *[""] * 5]


def _prompts_part(records: list[dict[str, Any]]) -> list[str]:
    """What is measured of models of scenes, if there is any."""
    if not records:
        return []
    first, real = records[0], records[0]["reference"]
    head = ["model", "sampler", "evaluations", "one digit", "one digit, new combinations", "two digits"]
    head += ["digits that the autoencoder keeps", "PSNR", "CLIP score"]
    return [
        f"""Do pictures show what their prompts say? There are {first["n"]:,} prompts of each kind, and they name
everything: the digits, their sizes, colours and places, and the background. A picture counts if all of it is right
together, as it is read off the pixels, with the classifier for the digits. New combinations are those of digit, colour
and background that training never showed. In brackets stand true scenes with the same captions, made of the
{real["size"]:,} test images of {real["name"]}: what they lack is the reader's own error. The autoencoder keeps a digit
that is read right in a true scene if it is still read right after encoding and decoding; PSNR is the mean of these
reconstructions. The CLIP score is a hundred times the cosine between picture and prompt, by the model's own CLIP; in
brackets stand that of true scenes, and that of true scenes with the captions of others. Errors are standard errors.""",
        _table(head, [_prompts_row(record) for record in records]),
    ]


def _prompts_row(record: dict[str, Any]) -> list[str]:
    metrics = record["metrics"]
    row = _how(record)
    for kind in ("seen", "unseen", "two"):
        found = metrics[f"prompts_{kind}"]
        row.append(f"{_with_error(found, '.2%')} ({found['details']['true']['together']:.2%})")
    row.append(_with_error(metrics["reconstruction"], ".2%") if "reconstruction" in metrics else "")
    row.append(f"{_with_error(metrics['psnr'], '.2f')} dB" if "psnr" in metrics else "")
    score = metrics.get("clip")
    return [*row, f"{_with_error(score, '.2f')} ({_of_true_scenes(score)})" if score else ""]


def _of_true_scenes(score: dict[str, Any]) -> str:
    return f"{score['details']['true']:.2f} and {score['details']['shuffled']:.2f}"


def _with_error(found: dict[str, Any], form: str) -> str:
    return f"{found['value']:{form}} ± {found['details']['standard_error']:{form}}"


def _how(record: dict[str, Any], evenly: str = "") -> list[str]:
    """The first three columns: which model, how its images were drawn, in how many evaluations."""
    guided, interval, guide = record["guidance"] != 1, record["guidance_interval"], record.get("guide")
    how = f"{record['sampler']}, {record['steps']} steps"
    how += f", guidance {record['guidance']:g}" if guided else ""
    how += f" away from `{guide}`" if guided and guide else ""
    how += " between {:g} and {:g}".format(*interval) if guided and interval else ""
    return [f"`{record['model']}`", how + evenly, str(record["evaluations"])]


def _with_halves(record: dict[str, Any], metric: str, form: str) -> str:
    found = record["metrics"][metric]
    return f"{found['value']:{form}} ({' and '.join(format(half, form) for half in found['details']['halves'])})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(plan: Plan, measured: dict[str, Any], path: Path) -> None:
    """The plot of quality by the number of evaluations."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("the plot needs matplotlib: pip install 'fromnoise[results]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = measured[next(iter(plan.curve.measurements()))]["metrics"]["fd"]["details"]
    real = first.get("real_of_these_classes", first["real"]["value"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    axes[0].axhline(real, color="grey", linestyle=":", linewidth=1.2, label="training images")
    axes[0].set(ylim=(0, FARTHEST * real), ylabel="Fréchet distance", title="how far from real digits")
    axes[1].set(ylim=(LEAST_READ, 100), ylabel="percent", title="read as the digit asked for")
    for axis, metric, scale in zip(axes, ("fd", "accuracy"), (1, 100), strict=True):
        outside = []
        for sampler, mark in zip(plan.curve.samplers, "osv^Dx*", strict=False):
            records = [measured[f"{sampler}-{steps}"] for steps in plan.curve.steps]
            points = [(record["evaluations"], scale * record["metrics"][metric]["value"]) for record in records]
            axis.plot(*zip(*points, strict=True), mark + "-", markersize=4, linewidth=1.2, label=sampler)
            low, high = axis.get_ylim()
            outside += [f"{sampler} at {n}: {value:.3g}" for n, value in points if not low <= value <= high]
        if outside:
            axis.text(0.98, 0.03, f"outside: {', '.join(outside)}", transform=axis.transAxes, ha="right", fontsize=8)
        axis.set(xscale="log", xlabel="network evaluations for an image")
        axis.set_xticks(plan.curve.steps, [str(steps) for steps in plan.curve.steps])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
