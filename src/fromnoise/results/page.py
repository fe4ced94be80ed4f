"""Stored measurements as Markdown, and the plot: the short tables of the README, and the page with all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.results.plan import Plan

FARTHEST, LEAST_READ = 4, 95
"""in the plot: the largest multiple of the distance of real images, and the least percentage"""
OPTIONAL = ("prompts_composed", "sharpness", "reconstruction", "psnr", "clip")
"""what is not measured of each model of scenes: its cell stays empty"""


@dataclass(frozen=True)
class Sort:
    """What is said of the models of scenes of digits, or of those of scenes of things."""

    noun: str  # what a scene shows, which is an attribute of each prompt
    kinds: dict[str, str]  # of prompts, as the head of a table calls them
    question: str  # over the table of the README
    sentence: str  # over the table of the page
    clip: bool  # whether there is a column for the CLIP score


DIGITS = Sort(
    "digit",
    {"seen": "one digit", "unseen": "one digit, in a combination never trained on", "two": "two digits"},
    """Scenes of digits: how often is *everything* right that a prompt names (digits, colours, sizes, places and
background)?""",
    """Scenes of digits: there are {n:,} prompts of each kind. They name the digits, their sizes, colours and places,
and the background. True scenes are made of the {size:,} {split} images of {name}. A combination never trained on is one
of digit, colour and background. The CLIP score is a hundred times the cosine between picture and prompt, by the model's
own CLIP; in brackets stand that of true scenes, and that of true scenes with the captions of others.""",
    clip=True,
)
THINGS = Sort(
    "thing",
    {
        "seen": "one thing",
        "unseen": "one thing, on a background never trained with it",
        "composed": "a person or hand, in a tone of skin never trained with it",
        "two": "two things",
    },
    """Scenes of things, made of {size:,} pictures of {name}: how often is *everything* right that a prompt names
(things, tones of skin, sizes, places and background)?""",
    """Scenes of things: there are {n:,} prompts of each kind. They name the things, the tone of skin where there is
one, the sizes and places, and the background. The scenes of training and the true scenes are made of the same {size:,}
pictures of {name}, one for each thing in each of its tones. So training has shown each thing, and what it has not
shown is the thing on that background, or in that tone.""",
    clip=False,
)


def check(plan: Plan, name: str, record: dict[str, Any]) -> None:
    """Fails in some way where a value is missing that is shown, or is of another kind."""
    f"{record['model']:s} {record['command']:s} {record['n']:,} {record['evaluations']:d}"
    if name in plan.likelihood:
        _bits(record["metrics"])
    elif name in plan.prompts:
        sort = _sort(record)
        f"{_about(sort.question, record)} {_about(sort.sentence, record)} {_attributes(record)}"
        f"{_short_prompts_row(record)} {_prompts_row(record)}"
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


def short(plan: Plan, measured: dict[str, Any]) -> str:
    """What the README shows: tables that are read without a legend."""
    first = measured[next(iter(plan.models))]
    details = first["metrics"]["fd"]["details"]
    of_real = f"training images: {details['real']['value']:.3f}"
    if "real_of_these_classes" in details:
        of_real += f"; with each digit equally often: {details['real_of_these_classes']:.3f}"
    name, split = first["reference"]["name"], first["reference"]["split"]
    head = ["model", "drawn by", "evaluations of the network for an image", "read as the digit that was asked for"]
    head += [f"Fréchet distance from the {split} images of {name} ({of_real})"]
    rows = [_model_row(measured[name], {})[:5] for name in plan.models]
    parts = [_table(head, rows)]
    for sort, records in _by_sort(plan, measured):
        head = ["model", "drawn by", "evaluations", *sort.kinds.values(), "sharpness (true scenes: 1)"]
        parts += [
            _about(sort.question, records[0]),
            _table(head, [_short_prompts_row(record) for record in records]),
            *(
                f"Each by itself, for one {sort.noun} (`{record['model']}`): {_attributes(record)}."
                for record in records
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _attributes(record: dict[str, Any]) -> str:
    """How often each thing that a prompt names is right, by itself."""
    right = record["metrics"]["prompts_seen"]["details"]["attributes"]
    few = {"tone": " where one is named"}  # of all else nearly every prompt speaks
    return ", ".join(f"{name} {share:.1%}{few.get(name, '')}" for name, share in right.items())


def whole(plan: Plan, measured: dict[str, Any], plot: str) -> str:
    """The page with everything, beside the plot of that name."""
    likelihood = {measured[name]["model"]: measured[name]["metrics"] for name in plan.likelihood}
    rows = [_model_row(measured[name], likelihood) for name in plan.models]
    rows += [_fid_row(measured[name]) for name in plan.optional if name in measured]
    head = ["model", "drawn by", "evaluations", "read as asked", "Fréchet distance", "ratio to training images"]
    head += ["precision", "recall", "bits/dim, ODE", "bits/dim, bound"]
    first, curve = measured[next(iter(plan.models))], _of_curve(plan, measured)
    real = first["reference"]
    default, ancestral = (measured[name] for name in plan.few_steps)
    published = [[row.model, row.fid, row.bits, row.source] for row in plan.published]
    told = [name for name in plan.prompts if name in measured]
    named = (*plan.models, *plan.likelihood, *plan.few_steps, *plan.book, *told)
    parts = [
        "# Results",
        "`fromnoise results` writes this page from the measurements beside it. "
        "[What was tried](tried.md) is written by hand.",
        f"""Measured with {first["n"]:,} images each, against {real["size"]:,} {real["split"]} images of {real["name"]}.
The Fréchet distance is computed from the features of the classifier of digits that ships, so it is not an FID. Beside
it stands its ratio to the distance of an equal number of training images. A conditional model is asked for each digit
as often as it occurs in MNIST or, where a row says so, for an equal number of each digit. Such a row has a second
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
        *_prompts_part(plan, measured),
        """What others report, as published and not measured here (FID by Inception's features on CIFAR-10, which
cannot be compared with ours):""",
        _table(["model", "FID", "bits/dim", "source"], published),
        "The commands, which `fromnoise results --remeasure` runs again, with those of the plot, in a few hours:",
        "\n".join(f"- `{measured[name]['command']}`" for name in named),
    ]
    return "\n\n".join(parts) + "\n"


def _model_row(record: dict[str, Any], likelihood: dict[str, Any]) -> list[str]:
    metrics, fd = record["metrics"], record["metrics"]["fd"]
    has_classes = "accuracy" in metrics
    of_classes = fd["details"].get("real_of_these_classes")
    return [
        *_how(record),
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


def _prompts_part(plan: Plan, measured: dict[str, Any]) -> list[str]:
    """What is measured of models of scenes, if there is any: a table for each sort, after what they have in common."""
    tables = []
    for sort, records in _by_sort(plan, measured):
        head = ["model", "drawn by", "evaluations", *sort.kinds.values(), "sharpness"]
        head += [f"{sort.noun}s that the autoencoder keeps", "PSNR", *(["CLIP score"] if sort.clip else [])]
        tables += [_about(sort.sentence, records[0]), _table(head, [_prompts_row(record) for record in records])]
    if not tables:
        return []
    common = """Do pictures show what their prompts say? A prompt names everything in its scene. A picture counts if all
of it is right together, as it is read off the pixels, with a classifier that says which digits or things there are. In
brackets stand true scenes with the same captions: what they lack is the reader's own error. Sharpness is the mean
squared difference of neighbouring pixels, divided by that of the true scenes: 1 is as sharp, and less is blurred. The
autoencoder keeps a digit or a thing that is read right in a true scene if it is still read right after encoding and
decoding; PSNR, the peak signal-to-noise ratio, is the mean of these reconstructions. Errors are standard errors."""
    return [common, *tables]


def _by_sort(plan: Plan, measured: dict[str, Any]) -> list[tuple[Sort, list[dict[str, Any]]]]:
    """The measurements of models of scenes that there are: those of digits, then those of things."""
    told = [measured[name] for name in plan.prompts if name in measured]
    found = [(sort, [record for record in told if _sort(record) is sort]) for sort in (DIGITS, THINGS)]
    return [(sort, records) for sort, records in found if records]


def _sort(record: dict[str, Any]) -> Sort:
    """By what prompts name."""
    named = record["metrics"]["prompts_seen"]["details"]["attributes"]
    (sort,) = (sort for sort in (DIGITS, THINGS) if sort.noun in named)
    return sort


def _about(template: str, record: dict[str, Any]) -> str:
    """What is said of all measurements of a sort, of which one is given."""
    real = record["reference"]
    name, split = f"{real['name']:s}", f"{real['split']:s}"
    return template.format(n=record["n"], size=real["size"], name=name, split=split)


def _short_prompts_row(record: dict[str, Any]) -> list[str]:
    kinds = [_figure(record, f"prompts_{kind}", ".1%") for kind in _sort(record).kinds]
    return [*_how(record), *kinds, _figure(record, "sharpness", ".2f")]


def _prompts_row(record: dict[str, Any]) -> list[str]:
    sort, row = _sort(record), _how(record)
    for kind in sort.kinds:
        figure = _figure(record, f"prompts_{kind}", ".2%")
        row.append(f"{figure} ({_of_true_scenes(record, kind)})" if figure else "")
    row += [_figure(record, "sharpness", ".3f"), _figure(record, "reconstruction", ".2%")]
    row.append(f"{psnr} dB" if (psnr := _figure(record, "psnr", ".2f")) else "")
    if sort.clip:
        score = _figure(record, "clip", ".2f")
        row.append(f"{score} ({_clip_of_true_scenes(record)})" if score else "")
    return row


def _figure(record: dict[str, Any], metric: str, form: str) -> str:
    """A figure of a model of scenes with its error; nothing where it may be missing, and is."""
    if metric in OPTIONAL and metric not in record["metrics"]:
        return ""
    return _with_error(record["metrics"][metric], form)


def _of_true_scenes(record: dict[str, Any], kind: str) -> str:
    return f"{record['metrics'][f'prompts_{kind}']['details']['true']['together']:.2%}"


def _clip_of_true_scenes(record: dict[str, Any]) -> str:
    details = record["metrics"]["clip"]["details"]
    return f"{details['true']:.2f} and {details['shuffled']:.2f}"


def _with_error(found: dict[str, Any], form: str) -> str:
    return f"{found['value']:{form}} ± {found['details']['standard_error']:{form}}"


def _how(record: dict[str, Any]) -> list[str]:
    """The first three columns: which model, how its images were drawn, in how many evaluations."""
    guided, interval, guide = record["guidance"] != 1, record["guidance_interval"], record.get("guide")
    how = f"{record['sampler']}, {record['steps']} steps"
    how += f", guidance {record['guidance']:g}" if guided else ""
    how += f" away from `{guide}`" if guided and guide else ""
    how += " between {:g} and {:g}".format(*interval) if guided and interval else ""
    evenly = "accuracy" in record["metrics"] and record["classes"] is None and not record.get("data_mix")
    how += ", each digit equally often" if evenly else ""
    return [f"`{record['model']}`", how, str(record["evaluations"])]


def _with_halves(record: dict[str, Any], metric: str, form: str) -> str:
    found = record["metrics"][metric]
    return f"{found['value']:{form}} ({' and '.join(format(half, form) for half in found['details']['halves'])})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, without the columns in which there is nothing."""
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[line[column] for column in kept] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_curve(plan: Plan, measured: dict[str, Any]) -> dict[str, Any]:
    """The first measurement of the plot, which has in common with the others what is asked of it."""
    return measured[next(iter(plan.curve.measurements()))]


def draw(plan: Plan, measured: dict[str, Any], path: Path) -> None:
    """The plot of quality by the number of evaluations."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("the plot needs matplotlib: pip install 'fromnoise[results]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = _of_curve(plan, measured)["metrics"]["fd"]["details"]
    real = first.get("real_of_these_classes", first["real"]["value"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    axes[0].axhline(real, color="grey", linestyle=":", linewidth=1.2, label="training images")
    axes[0].set(ylim=(0, FARTHEST * real), ylabel="Fréchet distance", title="how far from real digits")
    axes[1].set(ylim=(LEAST_READ, 100), ylabel="percent", title="read as the digit asked for")
    for axis, metric, scale in zip(axes, ("fd", "accuracy"), (1, 100), strict=True):
        outside = []
        for sampler, mark in zip(plan.curve.samplers, cycle("osv^Dx*"), strict=False):
            records = [measured[f"{sampler}-{steps}"] for steps in plan.curve.steps]
            points = [(record["evaluations"], scale * record["metrics"][metric]["value"]) for record in records]
            label = f"{sampler} (ancestral)" if sampler == "ddpm" else sampler
            axis.plot(*zip(*points, strict=True), mark + "-", markersize=4, linewidth=1.2, label=label)
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
