"""A training run from its first step or its last checkpoint to the folder of the result."""

import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from fromnoise import signals
from fromnoise.data.table import source_name
from fromnoise.devices import DTYPES
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, remove_partial
from fromnoise.pictures import save_grid
from fromnoise.train.checkpoint import State, differences
from fromnoise.train.config import TrainingConfig, changes, dump_config, load_config, preset_names, refuse_other_run
from fromnoise.train.folder import CARD, PRESET, check_folder, how_to_go_on, list_checkpoints, locked
from fromnoise.train.loop import Loop, validations
from fromnoise.train.optimizer import learning_rate_at
from fromnoise.train.stages import SHARED, load_stages
from fromnoise.train.trainer import Trainer


def train(
    config: TrainingConfig, folder: Path, *, data: str | None = None, resume: bool = False, staged: bool = False
) -> Path:
    """Trains what the preset says and returns the folder, which then holds the result, of a diffusion model a model.

    Args:
        data: a hub id or a folder, which is trained on and recorded instead of ``config.data.source``; none: that. A
            folder whose path ends in that source's hub id is a copy of it, and the hub id is recorded.
        resume: go on from the newest checkpoint, if there is one. On the CPU the result is bit for bit that of a
            run that was never stopped. Settings in `MAY_CHANGE` may differ from those that the run was started with;
            a precision of ``auto`` stays what it has come down to.
        staged: whether this run is one of several stages, of which others may be in the folder, or follow.

    Raises:
        UserError: bad settings or data; a folder that cannot be written, fills the disk, or in which another process
            trains; a loss that is not finite. The newest checkpoint is then still good.
        KeyboardInterrupt: says how to go on.
    """
    config = config if data is None else config.trained_on(data)
    config.validate()
    check_folder(folder, resume, staged)
    trainer = Trainer(_merged(config, folder), folder, data)
    accelerator, main = trainer.accelerator, trainer.accelerator.is_main_process
    with signals.advising(lambda: how_to_go_on(folder)), ExitStack() as stack:
        if main:
            stack.enter_context(locked(folder))
            check_folder(folder, resume, staged)  # which another run may have filled until now
            stack.callback(remove_partial, folder)
        accelerator.wait_for_everyone()
        spent = _resumed(trainer)
        try:
            if main:
                remove_partial(folder)
                with atomic_write(folder / PRESET) as partial:
                    partial.write_text(dump_config(trainer.recorded), encoding="utf-8")
            seconds = Loop(trainer, spent).run()
            if main:
                _finish(trainer, seconds)
        except (OSError, UserError) as error:
            told = f"cannot write {folder}: {error.strerror or error}" if isinstance(error, OSError) else error
            raise UserError(f"{told}; {how_to_go_on(folder)}") from error
        accelerator.wait_for_everyone()
    if not staged:
        accelerator.end_training()
    return folder


def _merged(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The settings that a run goes on with: its own, and whatever may be changed and is given anew."""
    if not (folder / PRESET).exists():
        return config
    own = load_config(str(folder / PRESET))
    if config.train.dtype == "auto":
        config = config.override({"train.dtype": own.train.dtype})
    refuse_other_run(str(folder), own, config)
    return own.override(changes(own, config))


def _resumed(trainer: Trainer) -> float:
    """Goes back to the newest checkpoint, if there is one, and says what is to be known; the seconds spent until then.

    Raises:
        UserError: no checkpoint is whole or of this run, or all have come further than the run is to go.
    """
    say, folder, steps = trainer.accelerator.print, trainer.folder, trainer.config.train.steps
    state = _newest_whole(trainer)
    if trainer.step > steps:
        needed = f"give --train.steps {trainer.step} or more, or start anew with another --out"
        raise UserError(f"{folder} has come to step {trainer.step} already: {needed}")
    if state is not None:
        say(f"resuming from step {trainer.step}" + (", the last: nothing is left to train" * (trainer.step == steps)))
        if new := trainer.history[len(state.history) :]:
            before, now = (learning_rate_at(trainer.step, config.train) for config in (state.config, trainer.config))
            rate = f"the learning rate was {before:.2g}, is {now:.2g} now, and falls to"
            say(f"{'; '.join(new)}: {rate} {learning_rate_at(steps, trainer.config.train):.2g} at step {steps}")
        if other := differences(state.environment, trainer.environment):
            say(f"warning: the bits may not be those of a run that never stopped: {other}", file=sys.stderr)
    elif (folder / PRESET).exists():
        say(f"{folder} has no checkpoint yet: starting at step 0")
    if trainer.compile and trainer.step < steps:
        say("compiling the network first (about a minute); --train.compile no starts at once and runs slower")
    return 0.0 if state is None else state.seconds


def _newest_whole(trainer: Trainer) -> State | None:
    """Loads the newest checkpoint; damaged ones are named and put aside, unless all are."""
    damaged: dict[Path, UserError] = {}
    for checkpoint in reversed(list_checkpoints(trainer.folder)):
        try:
            state = trainer.load(checkpoint)
        except UserError as problem:
            damaged[checkpoint] = problem
            continue
        for path, reason in damaged.items():
            trainer.accelerator.print(f"warning: {reason}; resuming from {checkpoint.name} instead", file=sys.stderr)
            if trainer.accelerator.is_main_process:
                with suppress(OSError):
                    path.rename(path.with_name(f"damaged-{path.name}"))
        return state
    for reason in damaged.values():
        raise reason
    return None


def _finish(trainer: Trainer, seconds: float) -> None:
    """Writes what a run is for, its picture and its card."""
    folder = trainer.folder
    facts = trainer.task.export(trainer.averaged, folder, DTYPES[trainer.dtype])
    facts |= {"changed on the way": "; ".join(trainer.history)} if trainer.history else {}
    save_grid(folder / "samples.png", *trainer.task.preview(trainer.averaged))
    with atomic_write(folder / CARD) as partial:
        partial.write_text(_model_card(trainer, facts, seconds), encoding="utf-8")


def _model_card(trainer: Trainer, facts: dict[str, str], seconds: float) -> str:
    """The model card in Markdown; ``facts`` are what the task says of the model."""
    config, data = trainer.recorded, trainer.recorded.data
    parameters = sum(parameter.numel() for parameter in trainer.averaged.parameters())
    images = config.train.steps * config.train.batch_size
    rows = "\n".join(f"| {step} | {loss:.4f} |" for step, loss in validations(trainer.folder))
    lines = "".join(f"\n- {name}: {value}" for name, value in facts.items())
    speed = f"{images / seconds:.0f} images/s" if seconds else "no time"
    where = f"{trainer.device.type}, {torch.get_num_threads()} threads, {trainer.dtype}"
    return f"""# {config.name}

{config.description}

![samples](samples.png)

- parameters: {parameters / 1e6:.2f} million
- data: {source_name(data.source)}, {trainer.task.rows or "endless"} images of {data.size}x{data.size}{lines}
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
    stages = load_stages(config.name)
    for key, value in changes(load_config(stages.stages[-1] if stages else config.name), config).items():
        if stages and key not in SHARED or key == "data.licence" and not value:  # which other data has not
            continue
        option = "data" if stages and key == "data.source" else key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--{option.replace('.', '.no-')}")
        else:
            words += [f"--{option}", *(value if isinstance(value, tuple) else [value])]
    return shlex.join(map(str, words))
