"""A training run from its first step or its last checkpoint to the folder of the result."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from fromnoise import signals
from fromnoise.data.table import source_name
from fromnoise.devices import DTYPES
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, remove_partial
from fromnoise.pictures import save_grid
from fromnoise.train.config import TrainingConfig, changes, dump_config, load_config, preset_names, refuse_other_run
from fromnoise.train.folder import PRESET, check_folder, how_to_go_on, list_checkpoints, locked
from fromnoise.train.log import RunLog
from fromnoise.train.loop import Loop
from fromnoise.train.optimizer import learning_rate_at
from fromnoise.train.record import State, differences
from fromnoise.train.trainer import Trainer


def train(config: TrainingConfig, folder: Path, *, data: str | None = None, resume: bool = False) -> Path:
    """Trains what the preset says and returns the folder, which then holds the result, of a diffusion model a model.

    Args:
        data: a hub id or a folder, which is trained on and recorded instead of ``config.data.source``; none: that. A
            folder whose path ends in that source's hub id is a copy of it, and the hub id is recorded.
        resume: go on from the newest checkpoint, if there is one. On the CPU the result is bit for bit that of a
            run that was never stopped. Settings in `MAY_CHANGE` may differ from those that the run was started with;
            a precision of ``auto`` stays what it has come down to.

    Raises:
        UserError: bad settings or data; a folder that cannot be written, fills the disk, or in which another process
            trains; a loss that is not finite. The newest checkpoint is then still good.
        KeyboardInterrupt: says how to go on.
    """
    config = config if data is None else config.trained_on(data)
    config.validate()
    check_folder(folder, resume)
    config = _merged(config, folder)
    trainer = Trainer(config, folder, data)
    main = trainer.accelerator.is_main_process
    with signals.advising(lambda: how_to_go_on(folder)), ExitStack() as stack:
        if main:
            stack.enter_context(locked(folder))
            check_folder(folder, resume)  # which another run may have filled until now
            stack.callback(remove_partial, folder)
        trainer.accelerator.wait_for_everyone()
        spent = _resumed(trainer)
        with _explained(folder):
            if main:
                remove_partial(folder)
                with atomic_write(folder / PRESET) as partial:
                    partial.write_text(dump_config(trainer.recorded), encoding="utf-8")
            trainer.accelerator.wait_for_everyone()
            seconds = Loop(trainer, spent).run()
            if main:
                _finish(trainer, seconds)
        trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return folder


def _finish(trainer: Trainer, seconds: float) -> None:
    """Writes what a run is for, its picture and its card."""
    folder = trainer.folder
    facts = trainer.task.export(trainer.averaged, folder, DTYPES[trainer.dtype])
    facts |= {"changed on the way": "; ".join(trainer.history)} if trainer.history else {}
    save_grid(folder / "samples.png", *trainer.task.preview(trainer.averaged))
    with atomic_write(folder / "README.md") as partial:
        partial.write_text(model_card(trainer, trainer.recorded, facts, seconds), encoding="utf-8")


def _merged(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The settings that a run goes on with: its own, and whatever may be changed and is given anew."""
    if not (folder / PRESET).exists():
        return config
    own = load_config(str(folder / PRESET))
    if config.train.dtype == "auto":
        config = config.override({"train.dtype": own.train.dtype})
    refuse_other_run(str(folder), own, config)
    return own.override(changes(own, config))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Adds to an error how to go on after it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; {how_to_go_on(folder)}") from error
    except UserError as error:
        raise UserError(f"{error}; {how_to_go_on(folder)}") from error


def _resumed(trainer: Trainer) -> float:
    """Goes back to the newest checkpoint, if there is one, and says what is to be known; the seconds spent until then.

    Raises:
        UserError: no checkpoint is whole or of this run, or all have come further than the run is to go.
    """
    say, folder, steps = trainer.accelerator.print, trainer.folder, trainer.config.train.steps
    if trainer.dtype_reason:
        say(f"training in {trainer.dtype}: {trainer.dtype_reason}")
    state = _newest_whole(trainer)
    if state is None and (folder / PRESET).exists():
        say(f"{folder} has no checkpoint yet: starting at step 0")
    if state is not None:
        if trainer.step > steps:
            needed = f"give --train.steps {trainer.step} or more, or start anew with another --out"
            raise UserError(f"{folder} has come to step {trainer.step} already: {needed}")
        say(f"resuming from step {trainer.step}" + (", the last: nothing is left to train" * (trainer.step == steps)))
        if new := trainer.history[len(state.history) :]:
            rates = [learning_rate_at(trainer.step, config.train) for config in (state.config, trainer.config)]
            final = learning_rate_at(steps, trainer.config.train)
            rate = f"the learning rate was {rates[0]:.2g}, is {rates[1]:.2g} now, and falls to {final:.2g}"
            say(f"{'; '.join(new)}: {rate} at step {steps}")
        if other := differences(state.environment, trainer.environment):
            line = f"the bits may not be those of a run that never stopped: {', '.join(other)}"
            say(f"warning: {line}", file=sys.stderr)
    if trainer.compile and trainer.step < steps:
        say("compiling the network first (about a minute); --train.compile no starts at once and runs slower")
    return 0.0 if state is None else state.seconds


def _newest_whole(trainer: Trainer) -> State | None:
    """Loads the newest checkpoint; damaged ones are named and put aside, unless all are."""
    damaged: list[tuple[Path, UserError]] = []
    for checkpoint in reversed(list_checkpoints(trainer.folder)):
        try:
            state = trainer.load(checkpoint)
        except UserError as problem:
            damaged.append((checkpoint, problem))
            continue
        for path, reason in damaged:
            trainer.accelerator.print(f"warning: {reason}; resuming from {checkpoint.name} instead", file=sys.stderr)
            if trainer.accelerator.is_main_process:
                with suppress(OSError):
                    path.rename(path.with_name(f"damaged-{path.name}"))
        return state
    if damaged:
        raise damaged[0][1]
    return None


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
        option = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--{option.replace('.', '.no-')}")
        else:
            words += [f"--{option}", *(value if isinstance(value, tuple) else [value])]
    return shlex.join(map(str, words))
