"""The command line, and nothing but it: each command is a dataclass of options and a function.

Torch and all that is heavy is imported inside the functions, so that ``--help`` answers at once.
"""

import dataclasses
import json
import mimetypes
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fromnoise import __version__, signals
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, check_new_folder, check_writable
from fromnoise.memory import prefer_large_pages
from fromnoise.parsing import parse
from fromnoise.sampling.request import Request, unset
from fromnoise.terminal import explained, is_first_here, outlets, say
from fromnoise.train.config import (
    TABLES,
    AutoencoderSettings,
    ClipSettings,
    DataConfig,
    DiffusionConfig,
    LoopConfig,
    NetworkConfig,
    PartsConfig,
    TrainingConfig,
    changes,
    load_config,
    preset_names,
)
from fromnoise.train.folder import PRESET, check_folder, how_to_go_on
from fromnoise.train.stages import StagesConfig, TrainStages, load_stages, refuse_other_options, train_stages

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


_CLIP_OR_NOT = tyro.conf.create_mutex_group(required=False, title="clipping")


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """How images are drawn: what `sample` and `evaluate` share."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """a shipped name, a model directory (of fromnoise or diffusers), a single file of Stable Diffusion, or a hub id"""
    asked: Annotated[Request, tyro.conf.arg(name="")] = Request()
    clip: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CLIP_OR_NOT, unset("", "the model's")] = False
    """keep each predicted image in range; ddim then derives the noise anew from the image that was clipped, as OpenAI's
    code does, and diffusers with use_clipped_model_output=True"""
    no_clip: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CLIP_OR_NOT, unset("", "the model's")] = False
    """let each predicted image go out of range"""
    revision: Annotated[str | None, unset("NAME", "the newest")] = None
    """branch, tag or commit of a hub id"""

    @property
    def request(self) -> Request:
        """What is asked for, clipping included."""
        return dataclasses.replace(self.asked, clip=True if self.clip else False if self.no_clip else None)


@dataclass(frozen=True, kw_only=True)
class Sample(_Drawing):
    """Draws images from a model."""

    out: Annotated[Path | None, unset("PATH", "MODEL.png")] = None
    """FILE.png (one grid, or one picture as it is), FILE.npz (arrays) or a new folder (one PNG each)"""
    attention_maps: Annotated[Path | None, unset("DIR", "none")] = None
    """a new folder for where each word of a prompt was looked at: a picture for each word, and the arrays by layer and
    step"""


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Drawing):
    """Draws many images from a model, 10,000 unless told otherwise, and measures how good they are. A model of scenes
    draws 2,000 of each kind of prompt: for one thing, in combinations that training had or never had, and for two."""

    data_mix: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """ask for each class as often as the real images have it, which is how distances are best compared"""
    metrics: Annotated[str | None, unset("accuracy,fd,...", "all that fit the model")] = None
    """with commas: accuracy (is it the digit asked for?), fd (Frechet distance to real images, by features of the
    classifier of digits that ships), fid (the same by Inception's features, for which pip install 'fromnoise[fid]'),
    kid (kernel distance, unbiased), pr (precision and recall), nll (bits per dimension of real images: the variational
    bound and the density of the ODE). Of a model of scenes instead: prompts (is everything right that they name?),
    sharpness (how much do neighbouring pixels differ, beside true scenes?), reconstruction (are things still read right
    after the autoencoder?), clip (CLIP score, by the model's own CLIP)"""
    features: Annotated[
        Literal["classifier", "inception"] | None,
        unset("classifier|inception", "classifier for images of 1x28x28, else inception"),
    ] = None
    """kid and pr: the features they go by"""
    data: Annotated[str | None, unset("NAME|DIR", "what the model was trained on")] = None
    """the real images, or the digits in true scenes: a hub id, or a folder with a local copy (of emoji, the font)"""
    nll_images: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """nll: how many real images; each takes as long as 1600 network evaluations"""
    reference: Literal["test", "train"] = "test"
    """which split of the real images is compared with; many published FIDs are of train"""
    json: Annotated[Path | None, unset("FILE", "none")] = None
    """also writes the figures, and what made them, to a file"""


@dataclass(frozen=True)
class Results:
    """Writes the README's table and plot of results, from the measurements in results/. Run it where README.md is."""

    remeasure: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """first make the measurements again, which takes a few hours; stopped, it goes on where it was"""
    only: Annotated[str | None, unset("NAME,NAME", "all in results/plan.toml")] = None
    """with --remeasure: make only these"""


@dataclass(frozen=True)
class Train:
    """Trains a model from a preset, whose every number can be overridden."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    parts: PartsConfig = dataclasses.field(default_factory=PartsConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = dataclasses.field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderSettings = dataclasses.field(default_factory=AutoencoderSettings)
    clip: ClipSettings = dataclasses.field(default_factory=ClipSettings)
    train: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    local_data: Annotated[
        str | None, tyro.conf.arg(name="data", metavar="NAME|DIR", help_behavior_hint="(default: the preset's)")
    ] = None
    """other data: a hub id or a folder. One whose path ends in the preset's own hub id is a copy of the preset's"""
    out: Annotated[Path | None, unset("DIR", "runs/PRESET")] = None
    """the run's folder, which becomes a model directory"""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """go on from the newest checkpoint in the run's folder"""


def models(arguments: Sequence[str]) -> None:
    parse(Models, "models", arguments)
    from fromnoise.models import cached_models, shipped_models

    for model in shipped_models():
        print(f"{model.name:20}  {model.description}")
    for name in cached_models():
        print(f"{name:20}  in the hub's cache")


def sample(arguments: Sequence[str]) -> None:
    options: Sample = parse(Sample, "sample", arguments)
    prefer_large_pages()
    out = options.out or Path(f"{Path(options.model).resolve().name}.png")
    _check_out(out)
    if options.attention_maps is not None:
        check_new_folder(options.attention_maps, "--attention-maps")
        if out.resolve().is_relative_to(options.attention_maps.resolve()):
            raise UserError("--out lies in the folder of --attention-maps: give another")
    from tqdm import tqdm

    with tqdm(desc="opening", unit="evaluation", leave=False, disable=None) as bar:  # there from the first second
        from fromnoise.models import open_model
        from fromnoise.pictures import save_array, save_folder, save_grid, save_maps
        from fromnoise.sampling.generate import draw
        from fromnoise.sampling.plan import plan
        from fromnoise.sampling.words import draw_with_maps

        planned = plan(open_model(options.model, options.revision), options.request)
        bar.reset(planned.n * planned.evaluations)
        bar.set_description("drawing")
        if options.attention_maps is None:
            images = draw(planned, progress=bar.update)
        else:
            images, maps = draw_with_maps(planned, progress=bar.update)
    made_by = json.dumps({"model": options.model, **dataclasses.asdict(planned.request)}, default=str)
    facts = {"fromnoise": __version__, "request": made_by}
    if (suffix := out.suffix.lower()) == ".png":
        asked = options.request.classes or options.request.prompts or planned.model.conditioner.names
        save_grid(out, images, min(planned.n, len(asked) if len(asked) > 1 else 8), facts)
    elif suffix == ".npz":
        save_array(out, images, planned.wishes)
    else:
        save_folder(out, images, planned.wishes, facts)
    print(f"{planned.n} images: {out}")
    if options.attention_maps is not None:
        save_maps(options.attention_maps, images, maps)
        print(f"attention maps: {options.attention_maps}")


def evaluate(arguments: Sequence[str]) -> None:
    options: Evaluate = parse(Evaluate, "evaluate", arguments)
    if options.json is not None:
        if options.json.is_dir():
            raise UserError(f"--json {options.json} is a folder: give a file")
        check_writable(options.json, "--json")
    prefer_large_pages()
    from tqdm import tqdm

    from fromnoise.evaluate.reference import reference_of
    from fromnoise.evaluate.report import prepare
    from fromnoise.evaluate.true_scenes import scenes_of
    from fromnoise.models import open_model

    model = open_model(options.model, options.revision)
    metrics = None if options.metrics is None else options.metrics.split(",")
    scenes = scenes_of(options.model, options.data)
    real = reference_of(model, options.model, options.data, options.reference)
    more: dict[str, Any] = {name: getattr(options, name) for name in ("data_mix", "features", "nll_images")}
    evaluation = prepare(model, options.request, metrics, real, scenes=scenes, **more)
    with tqdm(total=evaluation.total, unit="evaluation", leave=False, disable=None) as bar:
        report = evaluation.run(bar.update)
    print(f"{options.model}: {report.title}")
    width = max(10, *map(len, report.lines))
    for name, line in report.lines.items():
        print(f"{name:{width}}  {line}")
    if report.warning:
        print(f"{'note':{width}}  {report.warning}")
    if options.json is not None:
        record = {"command": shlex.join(["fromnoise", "evaluate", *arguments]), "model": options.model, **report.record}
        with atomic_write(options.json) as partial:
            partial.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        print(f"written: {options.json}")


def results(arguments: Sequence[str]) -> None:
    options = parse(Results, "results", arguments)
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
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        raise UserError(f"which preset? There are {', '.join(preset_names())}; or give a .toml file")
    if named and (stages := load_stages(arguments[0])) is not None:
        return _train_stages(stages, arguments[1:])
    preset = load_config(arguments[0] if named else "mnist-conditional")
    words = arguments[1:] if named else arguments
    config, options = _overridden(preset, words)
    if options.local_data is not None:
        config = preset.trained_on(options.local_data).override(changes(preset, config))
    out = options.out or Path("runs") / preset.name
    if options.resume and (out / PRESET).exists():  # what is not given is as the run has it
        own = load_config(str(out / PRESET))
        config, _ = _overridden(dataclasses.replace(own, name=preset.name), words)
    with signals.advising(lambda: how_to_go_on(out)):
        check_folder(out, options.resume)
        from fromnoise.train.run import train as run

        run(config, out, data=options.local_data, resume=options.resume)
    if is_first_here():
        hint = f" (fromnoise sample {out})" if config.task == "denoising" else ""
        print(f"trained {config.name}: {out}{hint}")


def _train_stages(stages: StagesConfig, arguments: Sequence[str]) -> None:
    refuse_other_options(stages, arguments)
    options: TrainStages = parse(TrainStages, f"train {stages.name}", arguments)
    out = options.out or Path("runs") / stages.name
    train_stages(stages, out, shared=options.shared, resume=options.resume)
    if is_first_here():
        print(f"trained {stages.name}: {out}")


def _overridden(preset: TrainingConfig, arguments: Sequence[str]) -> tuple[TrainingConfig, Train]:
    """A preset with what the command line sets otherwise, and the options beside it."""
    defaults = Train(**{name: getattr(preset, name) for name in TABLES})
    options: Train = parse(Train, "train PRESET|FILE.toml", arguments, defaults)
    given = dataclasses.replace(preset, **{name: getattr(options, name) for name in TABLES})
    return preset.override(changes(preset, given)), options


COMMANDS = {"models": models, "sample": sample, "train": train, "evaluate": evaluate, "results": results}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 2 after a mistake of the user's, told in one line.

    What `signals` makes of a request to stop passes through.
    """
    with outlets() as output:
        try:
            status = _run(list(sys.argv[1:] if arguments is None else arguments))
        except Exception as error:
            if (line := explained(error)) is None:
                raise
            if is_first_here() or not isinstance(error, UserError):  # of several processes one says it
                say(line)
            return 2
        output.flush()
        if output.problem is not None:
            say(f"what was printed is lost, what was written is there: {output.problem}")
            return 2
        return status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(OVERVIEW, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"fromnoise {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UserError(f"unknown command {words[0]!r}: there are {', '.join(COMMANDS)}")
    os.getcwd()  # where the folder is gone that this runs in, libraries fail in their own ways
    try:
        COMMANDS[words[0]](words[1:])
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _check_out(out: Path) -> None:
    """Refuses an ``--out`` that could not be written. An ending of no known kind, as in ``run.v1``, is a folder's."""
    known = mimetypes.MimeTypes()  # without what a system adds, such as .1 for pages of manuals
    if (suffix := out.suffix.lower()) in (".png", ".npz"):
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give a file, or a new folder without an ending")
    elif suffix == ".npy" or any(known.guess_type(out.name)):
        raise UserError(f"--out ends in {out.suffix}: give FILE.png (a grid), FILE.npz (arrays) or a folder")
    else:
        return check_new_folder(out, "--out")
    check_writable(out, "--out")
