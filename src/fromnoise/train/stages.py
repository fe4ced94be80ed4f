"""Several runs in order, of which the later use what the earlier have trained: Stable Diffusion, for one.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

import dataclasses
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro
from annotated_types import MinLen

from fromnoise import signals
from fromnoise.configs import Made, load, read
from fromnoise.data.table import resolved
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, check_writable, remove_partial
from fromnoise.sampling.request import unset
from fromnoise.terminal import is_first_here, is_one_of_several, warn
from fromnoise.train.config import (
    EMOJI,
    PRESETS,
    READ_BY,
    TABLES,
    TrainingConfig,
    load_config,
    preset_names,
    refuse_other_run,
)
from fromnoise.train.folder import CARD, LOCK, PRESET, STAGES, STAGES_FILE, how_to_go_on, list_checkpoints, locked


@dataclass(frozen=True, kw_only=True)
class SharedData:
    """Where the images come from."""

    digits: Annotated[str | None, unset("NAME|DIR", "the presets'")] = None
    """where the digits in scenes come from, as --data"""
    things: Annotated[str | None, unset("digits|emoji|emoji-200|DIR", "the presets'")] = None
    """what scenes are made of; DIR: cut-out pictures that are named by what they show"""
    font: Annotated[str | None, unset("FILE", "one that is found")] = None
    """a colour font that has the emoji in scenes"""
    configuration: Annotated[str | None, unset("NAME", "the only one")] = None
    """which dataset, where the source has several"""
    image_column: Annotated[str | None, unset("NAME", "the first with images")] = None
    """the column with the images"""
    caption_column: Annotated[str | None, unset("NAME", "text, caption, captions or prompt")] = None
    """the column with the captions"""
    resize: Annotated[Literal["crop", "none"] | None, unset("crop|none", "the presets'")] = None
    """images of another size: crop resizes the shorter side and cuts the middle out; none refuses them"""
    background: Annotated[str | None, unset("COLOUR", "the presets'")] = None
    """the colour under transparent images, a name or #rrggbb"""
    licence: Annotated[str | None, unset("TEXT", "none")] = None
    """of the data, for the model card"""


@dataclass(frozen=True, kw_only=True)
class SharedLoop:
    """How all stages are trained."""

    seed: Annotated[int | None, unset("N", "the presets'")] = None
    """decides everything random"""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, unset("auto|cpu|cuda|mps", "the presets'")] = None
    dtype: Annotated[Literal["auto", "bf16", "fp32"] | None, unset("auto|bf16|fp32", "the presets'")] = None
    """bf16: autocast, weights stay fp32; auto: whichever is found to be faster here"""
    compile: Annotated[Literal["auto", "yes", "no"] | None, unset("auto|yes|no", "the presets'")] = None
    """torch.compile; auto: when a stage is long enough to pay for the warm-up"""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What is set for all stages at once; none leaves it to their presets."""

    data: SharedData = field(default_factory=SharedData)
    train: SharedLoop = field(default_factory=SharedLoop)
    source: Annotated[str | None, tyro.conf.arg(name="data"), unset("NAME|DIR", "the presets'")] = None
    """other data: a hub id or a folder of captioned images"""

    @property
    def overrides(self) -> dict[str, Any]:
        """What is set, as ``{"section.key": value}``; where the data comes from is not among it."""
        tables = {"data": self.data, "train": self.train}
        return {
            f"{section}.{key}": value
            for section, table in tables.items()
            for key, value in vars(table).items()
            if value is not None
        }

    def over(self, other: "Shared") -> "Shared":
        """What is set here, and otherwise what is set there."""
        mine, theirs = (dataclasses.asdict(one) for one in (self, other))
        tables = {
            name: {key: theirs[name][key] if value is None else value for key, value in mine[name].items()}
            for name in ("data", "train")
        }
        source = other.source if self.source is None else self.source
        return Shared(data=SharedData(**tables["data"]), train=SharedLoop(**tables["train"]), source=source)


SHARED = {"data.source", *(f"data.{key.name}" for key in dataclasses.fields(SharedData))}
SHARED |= {f"train.{key.name}" for key in dataclasses.fields(SharedLoop)}
"""what may be set for all stages at once"""
PARTS = {"autoencoder": "autoencoder", "clip": "clip", "denoising": "unet"}
"""by what key of [parts] a later stage is told where one of a task is"""


@dataclass(frozen=True)
class StagesConfig:
    """A preset that is a list of others, which are trained in order."""

    name: Annotated[str, Made(r"\w[\w.-]{0,59}", "letters, digits, dots, dashes and underscores, at most 60")]
    stages: Annotated[tuple[str, ...], MinLen(1)]
    """presets by name, or ``.toml`` files beside this one"""
    description: str = ""
    """one line, for the model card"""
    shared: Shared = field(default_factory=Shared)
    """in the folder of a run: what was set for all stages"""


@dataclass(frozen=True)
class Stage:
    """One of the stages: its settings and its folder."""

    config: TrainingConfig
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether there is its card, which is written last."""
        return (self.folder / CARD).exists()


@dataclass(frozen=True)
class TrainStages:
    """Trains several presets in order; the later ones use what the earlier ones have trained."""

    shared: Annotated[Shared, tyro.conf.arg(name="")] = field(default_factory=Shared)
    out: Annotated[Path | None, unset("DIR", "runs/PRESET")] = None
    """the folder, which becomes a model directory; the earlier stages are below it, in stages/"""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """pass over the stages that are finished, and go on from the newest checkpoint of the one that is not"""


def load_stages(preset: str) -> StagesConfig | None:
    """The list that a preset is, by its name or from a ``.toml`` file; none if it is no list.

    Raises:
        UserError: the list is not valid; names the key.
    """
    path = PRESETS / f"{preset}.toml" if preset in preset_names() else Path(preset)
    if path.suffix != ".toml" or not path.is_file() or "stages" not in (values := load(path)):
        return None
    if path.parent == PRESETS:  # tests have checked it, and what checks takes long to import for a help
        return StagesConfig(values["name"], tuple(values["stages"]), values["description"])
    config = read(StagesConfig, values, str(path))
    beside = (stage if stage in preset_names() else str(path.parent.resolve() / stage) for stage in config.stages)
    return dataclasses.replace(config, stages=tuple(beside))


def refuse_other_options(config: StagesConfig, words: Sequence[str]) -> None:
    """Refuses settings that do not hold for all stages, by a UserError that says which preset takes them."""
    for word in words:
        if not (found := re.match(r"--([a-z]+)\.(?:no-)?([\w-]+)", word)):
            continue
        section, key = found[1], found[2].replace("-", "_")
        takers = [name for name in config.stages if section in READ_BY[load_config(name).task]]
        if takers and key in _keys(TABLES[section]) and f"{section}.{key}" not in SHARED:
            alone = " or ".join(f"fromnoise train {name} {found[0]}" for name in takers)
            raise UserError(f"{config.name} takes no {found[0]}, which belongs to a stage of its own: {alone}")


def _keys(kind: type[Any]) -> set[str]:
    return {key.name for key in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()


def train_stages(config: StagesConfig, out: Path, *, shared: Shared | None = None, resume: bool = False) -> Path:
    """Trains the stages in order: the last in ``out`` itself, others in ``out/stages``, by the names of their tasks.

    Args:
        shared: what is set for all stages.
        resume: pass over the stages that are finished and go on with the one that is not, to the same bits as if
            nothing had been stopped. What ``shared`` does not set is as it was when the stages were begun.

    Raises:
        UserError: as `train`; and before anything is begun, if the folder is not that of these stages.
        KeyboardInterrupt: says how to go on.
    """
    first = is_first_here()
    if first:  # who alone writes, so that others may come when something is there
        _check_out(config, out, resume)
    shared = _absolute(shared or config.shared)
    if resume and (record := _recorded(out)) is not None:
        shared = shared.over(record.shared)
    stages = _stages(config, out, shared, resume)
    if is_one_of_several() and any(stage.config.task == "clip" and not stage.is_finished for stage in stages):
        ways = f"start it without a launcher, or train its stages by themselves: {', '.join(config.stages)}"
        raise UserError(f"{config.name} trains a clip, which takes one process: {ways}")
    with ExitStack() as stack:
        stack.enter_context(signals.advising(lambda: _how_to_go_on(stages)))
        new = [
            folder for folder in ((out / STAGES).absolute(), *(out / STAGES).absolute().parents) if not folder.exists()
        ]
        if first:
            stack.enter_context(locked(out / STAGES))
            remove_partial(out / STAGES)
            with atomic_write(out / STAGES / STAGES_FILE) as partial:
                partial.write_text(_text(dataclasses.replace(config, shared=shared)), encoding="utf-8")
        try:
            for number, stage in enumerate(stages, 1):
                _train_stage(stage, f"stage {number} of {len(stages)}", shared.source, resume)
        except UserError as error:
            if not any((stage.folder / PRESET).exists() for stage in stages):
                if first and new:
                    _remove(new)
                raise
            advice = _how_to_go_on(stages)
            raise error if advice in str(error) else UserError(f"{error}; {advice}") from error
    _end_processes()
    return out


def _train_stage(stage: Stage, place: str, source: str | None, resume: bool) -> None:
    """Trains a stage, unless it is finished."""
    done = stage.is_finished
    if is_first_here():
        print(f"{place}: {stage.config.task}{' (finished)' if done else ''}", flush=True)
    if not done:
        from fromnoise.train.run import train

        train(stage.config, stage.folder, data=source, resume=resume, staged=True)


def _end_processes() -> None:
    """Lets the processes go that a launcher has started; each stage has found them as they were."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _how_to_go_on(stages: Sequence[Stage]) -> str:
    """What to do after the stages have stopped, in words."""
    for number, stage in enumerate(stages, 1):
        if not stage.is_finished:
            if list_checkpoints(stage.folder):
                return how_to_go_on(stage.folder)
            return f"stage {number} has no checkpoint yet: the same command with --resume begins with it"
    return "all stages are finished"


def _remove(new: Sequence[Path]) -> None:
    """Removes the folder of the stages, in which nothing has begun, and those above it that are new."""
    with suppress(OSError):
        for name in (STAGES_FILE, LOCK):
            (new[0] / name).unlink()
        for folder in new:
            folder.rmdir()


def _check_out(config: StagesConfig, out: Path, resume: bool) -> None:
    """Refuses a folder that cannot be made, or holds anything but these stages, to be resumed."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give --out a folder")
    if not out.exists():
        return check_writable(out, "--out")
    names = {path.name for path in out.iterdir() if path.name != LOCK and not path.name.startswith(".partial-")}
    if names and STAGES not in names:
        held = "a run that has no stages" if PRESET in names else "no stages of a run"
        raise UserError(f"{out} is not empty and holds {held}: give another --out")
    if names and not resume:
        raise UserError(f"{out} already holds stages of a run: give --resume to go on with them, or another --out")
    if (record := _recorded(out)) is not None and record.name != config.name:
        raise UserError(f"{out} holds stages of {record.name!r}, not of {config.name!r}: give another --out")


def _recorded(out: Path) -> StagesConfig | None:
    """What was written down when the stages in a folder were begun."""
    return load_stages(str(out / STAGES / STAGES_FILE))


def _text(config: StagesConfig) -> str:
    """The text of a TOML file that `load_stages` reads back."""
    return tomli_w.dumps(
        dataclasses.asdict(config, dict_factory=lambda items: {key: value for key, value in items if value is not None})
    )


def _absolute(shared: Shared) -> Shared:
    """The same, with folders and files that can be found from anywhere."""
    given = {name: text for name in ("digits", "things", "font") if (text := getattr(shared.data, name))}
    places: dict[str, Any] = {name: resolved(text) for name, text in given.items() if text not in EMOJI}
    data = dataclasses.replace(shared.data, **places)
    return dataclasses.replace(shared, source=resolved(shared.source) if shared.source else shared.source, data=data)


def _stages(config: StagesConfig, out: Path, shared: Shared, resume: bool) -> list[Stage]:
    """All stages with their folders and settings, which are checked before the first begins."""
    stages: list[Stage] = []
    parts: dict[str, Any] = {}  # [parts] of the stages to come
    for number, preset in enumerate(config.stages, 1):
        settings, last = load_config(preset), number == len(config.stages)
        folder = out if last else out / STAGES / settings.task
        if any(stage.folder == folder for stage in stages):
            raise UserError(f"{config.name}: two of its stages train a {settings.task}: leave one out")
        if last:  # it becomes the model
            about = config.description or settings.description
            settings = dataclasses.replace(settings, name=config.name, description=about)
        before = load_config(str(folder / PRESET)) if resume and (folder / PRESET).exists() else settings
        if (before.name, before.task) != (settings.name, settings.task):
            refuse_other_run(str(folder), before, settings)
        after = before if shared.source is None else before.trained_on(shared.source)
        after = after.override(shared.overrides | (parts if "parts" in READ_BY[after.task] else {}))
        after.validate()
        stages.append(Stage(after, folder))
        if before is not settings:
            refuse_other_run(str(folder), before, after)
            pairs = zip(before.data.origin, after.data.origin, strict=False)
            if stages[-1].is_finished and (other := next((pair for pair in pairs if pair[0] != pair[1]), None)):
                warn(f"{folder} is finished, and was trained on {other[0]}, not on {other[1]}")
        if after.task in PARTS:
            parts |= {f"parts.{PARTS[after.task]}": str(folder)}
    return stages
