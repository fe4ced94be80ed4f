"""Stored measurements as Markdown, and the plot: the short tables of the README, and the page with all of them."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.results.plan import Plan

FARTHEST, LEAST_READ = 4, 95
"""in the plot: the largest multiple of the distance of real images, and the least percentage"""
KINDS = ("seen", "unseen", "two")
"""of prompts: for one digit, in combinations that training had and that it never had, and for two digits"""


def check(plan: Plan, name: str, record: dict[str, Any]) -> None:
    """Fails in some way where a value is missing that is shown, or is of another kind."""
    f"{record['model']:s} {record['command']:s} {record['n']:,} {record['evaluations']:d}"
    if name in plan.likelihood:
        _bits(record["metrics"])
    elif name in plan.prompts:
        f"{record['reference']['size']:,} {record['reference']['name']:s}"
        f"{_prompts_row(record)} {_attributes(record)}"
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
    of_real = first["metrics"]["fd"]["details"]["real"]["value"]
    name, split = first["reference"]["name"], first["reference"]["split"]
    head = ["model", "drawn by", "evaluations of the network for an image", "read as the digit that was asked for"]
    head += [f"Fréchet distance from the {split} images of {name} (training images: {of_real:.3f})"]
    rows = [_model_row(measured[name], {})[:5] for name in plan.models]
    parts = [_table(head, rows)]
    if told := [measured[name] for name in plan.prompts if name in measured]:
        head = [
            "model",
            "drawn by",
            "evaluations",
            "one digit",
            "one digit, in a combination never trained on",
        ]
        shares = [[_with_error(record["metrics"][f"prompts_{kind}"], ".1%") for kind in KINDS] for record in told]
        parts += [
            "How often is *everything* that a prompt names right: digits, colours, sizes, places and background?",
            _table([*head, "two digits"], [[*_how(record), *row] for record, row in zip(told, shares, strict=True)]),
            *(f"Each by itself, for one digit (`{record['model']}`): {_attributes(record)}." for record in told),
        ]
    return "\n\n".join(parts) + "\n"


def _attributes(record: dict[str, Any]) -> str:
    """How often each thing that a prompt names is right, by itself."""
    right = record["metrics"]["prompts_seen"]["details"]["attributes"]
    return ", ".join(f"{name} {share:.1%}" for name, share in right.items())


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
        "`fromnoise results` writes this page from the measurements beside it. [What was tried](tried.md) is another.",
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
        *_prompts_part([measured[name] for name in told]),
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
    for kind in KINDS:
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
    lines = [head, ["---"] * len(head), *rows]
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
