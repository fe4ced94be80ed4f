"""A training run from its first step or its last checkpoint to the folder of the result."""

import shlex
from pathlib import Path
from typing import Any

import torch

from fromnoise.data.table import source_name
from fromnoise.devices import DTYPES
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, remove_partial
from fromnoise.pictures import save_grid
from fromnoise.train.checkpoint import list_checkpoints, newest_checkpoint
from fromnoise.train.config import TrainingConfig, changes, dump_config, load_config, preset_names
from fromnoise.train.log import RunLog
from fromnoise.train.loop import Loop
from fromnoise.train.trainer import Trainer

# What may differ between a run and its resumption: how often something is looked at or kept.
MAY_CHANGE = {"train.log_every", "train.validate_every", "train.preview_every", "train.checkpoint_every"}
MAY_CHANGE |= {"train.keep_checkpoints", "train.device"}


def check_folder(folder: Path, resume: bool) -> None:
    """Refuses a folder that holds something already, or can never be written.

    Raises:
        UserError: what is wrong with it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give --out a folder")
    if (folder / "training.toml").exists():
        if not resume:
            raise UserError(f"{folder} already holds a run: give --resume to go on with it, or another --out")
    elif folder.exists() and any(not path.name.startswith(".partial-") for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run: give another --out")


def resumed_config(folder: Path, config: TrainingConfig, given: TrainingConfig) -> TrainingConfig:
    """The config a run goes on with: its own, and whatever may be changed and is asked for anew.

    Args:
        config: the preset as it stands; given: the same with the command line's overrides.

    Raises:
        UserError: a key was overridden that would make it another run.
    """
    saved = load_config(str(folder / "training.toml"))
    if saved.name != given.name:
        raise UserError(f"{folder} holds a run of {saved.name!r}, not of {given.name!r}")
    asked = changes(config, given)
    for key, value in asked.items():
        section, name = key.split(".")
        old = getattr(getattr(saved, section), name)
        if key not in MAY_CHANGE and value != old:
            raise UserError(f"this run was started with {key} {old}, not {value}: leave it out, or start a new run")
    return saved.override({key: value for key, value in asked.items() if key in MAY_CHANGE})


def train(config: TrainingConfig, folder: Path, *, data: str | None = None, resume: bool = False) -> Path:
    """Trains what the preset says and returns the folder, which then holds the result, of a diffusion model a model.

    Args:
        data: a hub id or a folder, which is trained on and recorded instead of ``config.data.source``; none: that. A
            folder whose path ends in that source's hub id is a copy of it, and the hub id is recorded.
        resume: go on from the newest checkpoint, if there is one. On the CPU the result is bit for bit that of a
            run that was never stopped.

    Raises:
        UserError: bad settings or data; a folder that cannot be written or fills the disk; a loss that is not
            finite. The newest checkpoint is then still good.
    """
    config = config if data is None else config.trained_on(data)
    config.validate()
    check_folder(folder, resume)
    trainer = Trainer(config, folder, data)
    recorded = config.override({"train.dtype": trainer.dtype})
    main = trainer.accelerator.is_main_process
    try:
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            with atomic_write(folder / "training.toml") as partial:
                partial.write_text(dump_config(recorded), encoding="utf-8")
        trainer.accelerator.wait_for_everyone()
        seconds = Loop(trainer, _resumed(trainer)).run()
        if main:
            facts = trainer.task.export(trainer.averaged, folder, DTYPES[trainer.dtype])
            save_grid(folder / "samples.png", *trainer.task.preview(trainer.averaged))
            with atomic_write(folder / "README.md") as partial:
                partial.write_text(model_card(trainer, recorded, facts, seconds), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; {newest_checkpoint(folder)}") from error
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return folder


def _resumed(trainer: Trainer) -> float:
    """Goes back to the newest checkpoint, if there is one; the seconds spent until then."""
    say, checkpoints = trainer.accelerator.print, list_checkpoints(trainer.folder / "checkpoints")
    seconds = trainer.load(checkpoints[-1])["seconds"] if checkpoints else 0.0
    if trainer.dtype_reason:
        say(f"training in {trainer.dtype}: {trainer.dtype_reason}")
    if checkpoints:
        say(f"resuming from {checkpoints[-1]}")
    if trainer.compile and trainer.step < trainer.config.train.steps:
        say("compiling the network first (about a minute); --train.compile no starts at once and runs slower")
    return float(seconds)


def model_card(trainer: Trainer, config: TrainingConfig, facts: dict[str, str], seconds: float) -> str:
    """The model card in Markdown: ``config`` is what is recorded with the run, ``facts`` what the task says of it."""
    loop, data = config.train, config.data
    parameters = sum(parameter.numel() for parameter in trainer.averaged.parameters())
    images = loop.steps * loop.batch_size
    rows = "\n".join(f"| {step} | {loss} |" for step, loss in RunLog.validations(trainer.folder))
    lines = "".join(f"\n- {name}: {value}" for name, value in facts.items())
    speed = f"{images / seconds:.0f} images/s" if seconds else "no time"
    where = f"{trainer.device.type}, {torch.get_num_threads()} threads, {loop.dtype}"
    return f"""# {config.name}

{config.description}

![samples](samples.png)

- parameters: {parameters / 1e6:.2f} million
- data: {source_name(data.source)}, {len(trainer.task.data)} images of {data.size}x{data.size}{lines}
- licence of the data: {data.licence or "not stated"}
- trained by: `{command(config)}`
- trained on: {images} images in {seconds / 60:.0f} minutes ({speed}; {where}{", compiled" if trainer.compile else ""})

The validation loss along the way ({trainer.task.objective}):

| step | loss |
| --- | --- |
{rows}
"""


def command(config: TrainingConfig) -> str:
    """The command that trains this config again."""
    if config.name not in preset_names():
        return "fromnoise train training.toml"
    words: list[Any] = ["fromnoise", "train", config.name]
    for key, value in changes(load_config(config.name), config).items():
        words += [f"--{key.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
    return shlex.join(map(str, words))
