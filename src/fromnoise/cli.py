"""The command line, and nothing but it: each command is a dataclass of options and a function.

Torch and all that is heavy is imported inside the functions, so that ``--help`` answers at once.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fromnoise import __version__
from fromnoise.errors import UserError
from fromnoise.train.config import DataConfig, DiffusionConfig, LoopConfig, NetworkConfig, load_config, preset_names

if TYPE_CHECKING:
    from fromnoise.generate import Request

OVERVIEW = f"""fromnoise {__version__}: diffusion models, from the mathematics to the running model

usage: fromnoise COMMAND ...

  models                             what ships, and what was found in the cache
  sample MODEL [options]             images out of noise, as a PNG grid, a folder or an array
  train PRESET|FILE.toml [options]   trains a model; presets: {", ".join(preset_names())}
  evaluate MODEL [options]           how good its images are, in figures
  results [options]                  writes the README's table of results, from stored measurements

fromnoise COMMAND --help tells the options of each.
"""


@dataclass(frozen=True)
class Models:
    """What ships, and what was found in the cache."""


def _unset(metavar: str, default: str) -> Any:
    """How ``--help`` shows an option that may be left out: what it takes, and what happens without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_CLIP_OR_NOT = tyro.conf.create_mutex_group(required=False, title="clipping")


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """How images are drawn: what `sample` and `evaluate` share."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """a shipped name, a model directory (of fromnoise or diffusers), or a hub id"""
    classes: Annotated[str | None, _unset("0,1,2", "all")] = None
    """class numbers with commas, repeated in order until there are n images"""
    sampler: Annotated[str, tyro.conf.arg(metavar="NAME")] = "dpmpp-2m-sde"
    """dpmpp-2m-sde (DPM-Solver++ with noise added back at each step, good in a dozen steps), dpmpp-2m (without), ddpm
    (ancestral), ddim (deterministic, unless eta is above 0), euler (the same as ddim) or heun"""
    steps: Annotated[int | None, _unset("N", "11 for dpmpp-2m and -sde, else 30")] = None
    """network evaluations for an image, twice that with guidance; heun takes two for each step but the last, DDPM was
    published with 1000"""
    spacing: Annotated[str | None, _unset("NAME", "the model's, karras for heun")] = None
    """which times are visited: leading, trailing, linspace, karras or log-snr"""
    eta: float = 0.0
    """ddim: how much fresh noise each step adds, 0 none to 1 as much as ddpm"""
    variance: Annotated[str | None, _unset("NAME", "the model's")] = None
    """ddpm: fixed_small or fixed_large"""
    clip: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CLIP_OR_NOT, _unset("", "the model's")] = False
    """keep each predicted image in range"""
    no_clip: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CLIP_OR_NOT, _unset("", "the model's")] = False
    """let each predicted image go out of range"""
    guidance: Annotated[float, tyro.conf.arg(metavar="S")] = 1.0
    """how strongly the class is followed: 1 as trained, more exaggerates it and costs double"""
    guide: Annotated[str | None, _unset("MODEL", "the model itself, asked for no class")] = None
    """guide away from another, worse model of the same images, which goes for unconditional models, too"""
    guidance_rescale: Annotated[float, tyro.conf.arg(metavar="PHI")] = 0.0
    """how much of the contrast that guidance adds is taken back: 0 none, 1 all"""
    guidance_interval: Annotated[tuple[float, float] | None, _unset("LO HI", "all")] = None
    """guide only above the noise level LO and up to HI (noise to signal, sigma / alpha): elsewhere it costs half"""
    seed: int = 0
    """image i is drawn from seed + i, whatever the batch size"""
    batch_size: int = 64
    """images at a time"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """fp32 loses nothing; bf16 is faster and differs by a grey level here and there, sometimes visibly"""
    revision: Annotated[str | None, _unset("NAME", "the newest")] = None
    """branch, tag or commit of a hub id"""

    def request(self, n: int) -> "Request":
        """These options as a request for n images."""
        from fromnoise.generate import Request

        return Request(
            n=n,
            classes=_class_list(self.classes),
            clip=True if self.clip else False if self.no_clip else None,
            **{name: getattr(self, name) for name in _SHARED_OPTIONS},
        )


@dataclass(frozen=True, kw_only=True)
class Sample(_Drawing):
    """Draws images from a model."""

    n: Annotated[int | None, _unset("N", "64, or 8 of each class")] = None
    """how many images"""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(there is none yet)")] = None
    """what to draw, for a text-to-image model"""
    out: Annotated[Path | None, _unset("PATH", "MODEL.png")] = None
    """FILE.png (one grid), FILE.npz (arrays) or a new folder (one PNG each)"""


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Drawing):
    """Draws many images from a model and measures how good they are."""

    classes: Annotated[str | None, _unset("0,1,2|data", "all")] = None
    """class numbers with commas, repeated in order until there are n images; data: as often as in the real ones, which
    is how distances are best compared"""
    n: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """how many images; with fewer, distances come out too large"""
    metrics: Annotated[str | None, _unset("accuracy,fd,...", "all that fit the model")] = None
    """with commas: accuracy (is it the digit asked for?), fd (Frechet distance to real images, by features of the
    classifier of digits that ships), fid (the same by Inception's features, for which pip install 'fromnoise[fid]'),
    kid (kernel distance, unbiased), pr (precision and recall), nll (bits per dimension of real images: the variational
    bound and the density of the ODE)"""
    features: Annotated[
        Literal["classifier", "inception"] | None,
        _unset("classifier|inception", "classifier for images of 1x28x28, else inception"),
    ] = None
    """kid and pr: the features they go by"""
    data: Annotated[str | None, _unset("NAME|DIR", "what the model was trained on")] = None
    """the real images: a hub id, or a folder with a local copy"""
    nll_images: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """nll: how many real images; each takes as long as 1600 network evaluations"""
    reference: Literal["test", "train"] = "test"
    """which split of the real images is compared with; many published FIDs are of train"""
    json: Annotated[Path | None, _unset("FILE", "none")] = None
    """also writes the figures, and what made them, to a file"""


@dataclass(frozen=True)
class Results:
    """Writes the README's table and plot of results, from the measurements in results/. Run it where README.md is."""

    remeasure: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """first make the measurements again, which takes an hour or two; stopped, it goes on where it was"""
    only: Annotated[str | None, _unset("NAME,NAME", "all in results/plan.toml")] = None
    """with --remeasure: make only these"""


@dataclass(frozen=True)
class Train:
    """Trains a model from a preset, whose every number can be overridden."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = dataclasses.field(default_factory=DiffusionConfig)
    train: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    local_data: Annotated[
        str | None,
        tyro.conf.arg(name="data", metavar="NAME|DIR", help_behavior_hint="(default: the preset's)"),
    ] = None
    """other data, or where a copy of the preset's lies: a hub id or a folder"""
    out: Annotated[Path | None, _unset("DIR", "runs/PRESET")] = None
    """the run's folder, which becomes a model directory"""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """go on from the newest checkpoint in the run's folder"""


def models(arguments: Sequence[str]) -> None:
    """``fromnoise models``."""
    _parse(Models, "models", arguments)
    from fromnoise.models import cached_models, shipped_models

    for model in shipped_models():
        print(f"{model.name:20}  {model.description}")
    for name in cached_models():
        print(f"{name:20}  in the hub's cache")


def sample(arguments: Sequence[str]) -> None:
    """``fromnoise sample``."""
    options = _parse(Sample, "sample", arguments)
    out = options.out or Path(f"{Path(options.model).resolve().name}.png")
    kind = _output_kind(out)
    classes = _class_list(options.classes)

    from tqdm import tqdm

    from fromnoise.generate import generate
    from fromnoise.models import open_model
    from fromnoise.pictures import save_array, save_folder, save_grid

    model = open_model(options.model, options.revision)
    if options.prompt is not None:
        instead = "give --classes" if model.num_classes else "leave --prompt out"
        raise UserError(f"--prompt needs a text-to-image model, and {options.model} is none: {instead}")
    columns = len(classes or range(model.num_classes)) or 8
    request = options.request(8 * columns if options.n is None else options.n)
    request.validate(model)
    with tqdm(total=request.n * request.num_steps(model), unit="step", leave=False, disable=None) as bar:
        images = generate(model, request, progress=bar.update)
    labels = request.labels(model)
    if kind == "grid":
        save_grid(out, images, columns)
    elif kind == "array":
        save_array(out, images, labels)
    else:
        save_folder(out, images, lambda i: f"{i:05d}.png" if labels is None else f"{i:05d}-{int(labels[i])}.png")
    print(f"{request.n} images: {out}")


_SHARED_OPTIONS = [
    "sampler",
    "steps",
    "spacing",
    "eta",
    "variance",
    "guidance",
    "guide",
    "guidance_rescale",
    "guidance_interval",
    "seed",
    "batch_size",
    "device",
    "dtype",
]


def evaluate(arguments: Sequence[str]) -> None:
    """``fromnoise evaluate``."""
    options = _parse(Evaluate, "evaluate", arguments)
    if options.json is not None:
        if options.json.is_dir():
            raise UserError(f"--json {options.json} is a folder: give a file")
        _check_writable("--json", options.json)

    import json

    from tqdm import tqdm

    from fromnoise.evaluate.report import evaluate as run
    from fromnoise.evaluate.report import evaluations_ahead, reference_of
    from fromnoise.files import written_whole
    from fromnoise.models import open_model

    data_mix = options.classes == "data"
    model = open_model(options.model, options.revision)
    request = dataclasses.replace(options, classes=None if data_mix else options.classes).request(options.n)
    metrics = None if options.metrics is None else tuple(options.metrics.split(","))
    request.validate(model)
    reference = reference_of(model, options.model, options.data, options.reference)
    total = evaluations_ahead(model, request, metrics, options.nll_images)
    with tqdm(total=total, unit="step", leave=False, disable=None) as bar:
        more = {"data_mix": data_mix, "features": options.features, "nll_images": options.nll_images}
        report = run(model, request, metrics, reference, **more, progress=bar.update)
    print(f"{options.model}: {report.title}")
    for name, line in report.lines.items():
        print(f"{name:10}  {line}")
    if report.warning:
        print(f"{'note':10}  {report.warning}")
    if options.json is not None:
        record = {"command": shlex.join(["fromnoise", "evaluate", *arguments]), "model": options.model, **report.record}
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"written: {options.json}")


def results(arguments: Sequence[str]) -> None:
    """``fromnoise results``."""
    options = _parse(Results, "results", arguments)
    if options.only is not None and not options.remeasure:
        raise UserError("--only says what to measure again: give --remeasure, too")

    from fromnoise.results import load_plan, remeasure, rewrite

    folder, readme = Path("results"), Path("README.md")
    plan = load_plan(folder)
    if options.remeasure:
        remeasure(plan, folder, evaluate, options.only.split(",") if options.only else ())
    rewrite(plan, folder, readme)
    print(f"written: {readme}")


def train(arguments: Sequence[str]) -> None:
    """``fromnoise train``."""
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        raise UserError(f"which preset? There are {', '.join(preset_names())}; or give a .toml file")
    preset = load_config(arguments[0] if named else "mnist-conditional")
    defaults = Train(preset.data, preset.network, preset.diffusion, preset.train)
    options = _parse(Train, "train PRESET|FILE.toml", arguments[1:] if named else arguments, defaults)
    sections = {name: getattr(options, name) for name in ("data", "network", "diffusion", "train")}
    given = dataclasses.replace(preset, **sections)
    out = options.out or Path("runs") / preset.name

    from fromnoise.train.run import check_folder, resumed_config
    from fromnoise.train.run import train as run

    check_folder(out, options.resume)
    resuming = options.resume and (out / "training.toml").exists()
    config = resumed_config(out, preset, given) if resuming else given
    run(config, out, data=options.local_data, resume=options.resume)
    if os.environ.get("RANK", "0") == "0":
        print(f"trained {config.name}: {out} (fromnoise sample {out})")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "models": models,
    "sample": sample,
    "train": train,
    "evaluate": evaluate,
    "results": results,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 2 after a mistake of the user's, told in one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(OVERVIEW, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"fromnoise {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise UserError(f"unknown command {words[0]!r}: there are {', '.join(COMMANDS)}")
        COMMANDS[words[0]](words[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"fromnoise: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfromnoise: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # head or less has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _parse(options: type[Any], name: str, arguments: Sequence[str], default: Any = None) -> Any:
    """The dataclass ``options`` from the command line; a mistake in it is a `UserError`."""
    settings = {} if default is None else {"default": default}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            config = (tyro.conf.DisallowNone,)
            return tyro.cli(options, prog=f"fromnoise {name}", args=list(arguments), config=config, **settings)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        command = name.split()[0]
        raise UserError(f"{_complaint(box.getvalue())}; fromnoise {command} --help tells the options") from None


def _complaint(box: str) -> str:
    """The first paragraph in the box that tyro draws around a mistake, as one line, without the title."""
    body = re.sub(r"\x1b\[[\d;]*m|[│─]", "", box).partition("\n")[2]
    paragraph = re.search(r"(.*\w.*\n)+", body)
    return "the options cannot be understood" if paragraph is None else " ".join(paragraph[0].split()).rstrip(".")


def _class_list(text: str | None) -> tuple[int, ...] | None:
    """``0,1,2`` as numbers."""
    try:
        return None if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--classes takes class numbers with commas, 0,1,2, not {text!r}") from None


def _output_kind(out: Path) -> Literal["grid", "array", "folder"]:
    """What ``--out`` asks for, by its ending; refuses what could not be written before any work is done."""
    kinds: dict[str, Literal["grid", "array", "folder"]] = {".png": "grid", ".npz": "array", "": "folder"}
    if out.suffix not in kinds:
        raise UserError(f"--out ends in {out.suffix}: give FILE.png (a grid), FILE.npz (arrays) or a folder")
    if kinds[out.suffix] == "folder" and out.exists():
        raise UserError(f"--out {out} exists already: give a new folder")
    if kinds[out.suffix] != "folder" and out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file, or a new folder without an ending")
    _check_writable("--out", out)
    return kinds[out.suffix]


def _check_writable(option: str, path: Path) -> None:
    """Refuses a place that cannot be written, before any work is done."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {parent}: {error.strerror}") from None
