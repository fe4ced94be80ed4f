"""A training run from its first step, or its last checkpoint, to a model directory."""

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fromnoise.errors import UserError
from fromnoise.files import remove_partial, written_whole
from fromnoise.models import save_model
from fromnoise.pictures import save_grid
from fromnoise.train.checkpoint import list_checkpoints
from fromnoise.train.config import TrainingConfig, changes, dump_config, load_config, parse_config, preset_names
from fromnoise.train.loop import RunLog, Trainer, learning_rate_at, unet_config

# What may differ between a run and its resumption: how often something is looked at or kept.
HARMLESS = {"train.log_every", "train.validate_every", "train.preview_every", "train.checkpoint_every"}
HARMLESS |= {"train.keep_checkpoints", "train.device"}


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
    """The config a run goes on with: its own, and whatever harmless key is asked for anew.

    Args:
        config: the preset as it stands; given: the same with the command line's overrides.

    Raises:
        UserError: a key was overridden that would make it another run.
    """
    path = folder / "training.toml"
    try:
        saved = parse_config(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if saved.name != given.name:
        raise UserError(f"{folder} holds a run of {saved.name!r}, not of {given.name!r}")
    for key, value in changes(config, given).items():
        section, name = key.split(".")
        old = getattr(getattr(saved, section), name)
        if key not in HARMLESS and value != old:
            raise UserError(f"this run was started with {key} {old}, not {value}: leave it out, or start a new run")
    return saved.override({k: v for k, v in changes(config, given).items() if k in HARMLESS})


def train(config: TrainingConfig, folder: Path, *, data: str | None = None, resume: bool = False) -> Path:
    """Trains a model into ``folder`` and returns the folder, which is then a model directory.

    Args:
        data: where a local copy of the preset's data lies; none: ``config.data.source``.
        resume: go on from the newest checkpoint, if there is one. On the CPU the result is bit for bit that of a
            run that was never stopped.

    Raises:
        UserError: bad settings or data; a folder that cannot be written or fills the disk; a loss that is not
            finite. The newest checkpoint is then still good.
    """
    config.validate()
    unet_config(config, None)  # refuses, before the data is read, what does not fit together
    check_folder(folder, resume)
    trainer = Trainer(config, folder, data)
    main = trainer.accelerator.is_main_process
    try:
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            with written_whole(folder / "training.toml") as partial:
                partial.write_text(dump_config(trainer.config), encoding="utf-8")
        trainer.accelerator.wait_for_everyone()
        seconds = _loop(trainer)
        if main:
            _export(trainer, seconds)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; {_newest(folder)}") from error
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return folder


def _loop(trainer: Trainer) -> float:
    """Takes all steps that are left; returns the seconds spent training, those before a resumption included."""
    loop, folder, say = trainer.config.train, trainer.folder, trainer.accelerator.print
    main = trainer.accelerator.is_main_process
    checkpoints = list_checkpoints(folder / "checkpoints")
    before = trainer.load(checkpoints[-1])["seconds"] if checkpoints else 0.0
    if checkpoints:
        say(f"resuming from {checkpoints[-1]}")
    if trainer.compile and trainer.step < loop.steps:
        say("compiling the network first (about a minute); --train.compile no starts at once and runs slower")
    log = RunLog(folder, trainer.step) if main else None
    start = window_start = time.monotonic()
    window: list[tuple[torch.Tensor, torch.Tensor]] = []

    def due(every: int) -> bool:
        return trainer.step % every == 0 or trainer.step == loop.steps

    with tqdm(
        total=loop.steps * loop.batch_size,
        initial=trainer.step * loop.batch_size,
        unit="img",
        smoothing=0.05,
        disable=not main,
        dynamic_ncols=True,
    ) as bar:
        while trainer.step < loop.steps:
            window.append(trainer.take_step())
            bar.update(loop.batch_size)
            if due(loop.log_every) or due(loop.checkpoint_every) or due(loop.validate_every):
                losses, norms = (torch.stack(values).float() for values in zip(*window, strict=True))
                loss = trainer.accelerator.reduce(losses.mean(), "mean").item()
                if not math.isfinite(loss + norms.sum().item()):
                    raise UserError(
                        f"the loss is no longer finite at step {trainer.step}: lower --train.learning-rate or use "
                        f"--train.dtype fp32; {_newest(folder)}"
                    )
                now = time.monotonic()
                if log is not None and due(loop.log_every):
                    bar.set_postfix(loss=f"{loss:.4f}")
                    log.write(
                        trainer.step,
                        loss=loss,
                        gradient_norm=norms.mean().item(),
                        learning_rate=learning_rate_at(trainer.step - 1, trainer.config),
                        images_per_second=len(window) * loop.batch_size / (now - window_start),
                        seconds=before + now - start,
                    )
                window, window_start = [], now
            if due(loop.checkpoint_every):
                trainer.check_that_all_learn()
            if log is not None and due(loop.validate_every):
                bands = trainer.validate()
                validation = sum(bands) / len(bands)
                log.write(trainer.step, validation_loss=validation, validation_loss_by_noise=bands)
                expected = trainer.config.expect.get(str(trainer.step))
                note = f" (to expect: {expected})" if expected is not None else ""
                bar.write(f"step {trainer.step}: validation loss {validation:.4f}{note}", file=sys.stderr)
            if log is not None and due(loop.preview_every):
                log.picture(trainer.step, folder / "previews" / f"step-{trainer.step:08d}.png", *trainer.preview())
            if main and due(loop.checkpoint_every):
                trainer.save(seconds=before + time.monotonic() - start)
            if due(loop.validate_every) or due(loop.preview_every) or due(loop.checkpoint_every):
                trainer.accelerator.wait_for_everyone()
                window_start = time.monotonic()
    if log is not None:
        log.close()
    return before + time.monotonic() - start


def _newest(folder: Path) -> str:
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {checkpoints[-1]}: go on from it with --resume"


def _export(trainer: Trainer, seconds: float) -> None:
    """Makes the run's folder a model directory: averaged weights, model card, samples."""
    folder, config = trainer.folder, trainer.config
    dtype = torch.bfloat16 if config.train.dtype == "bf16" else torch.float32
    save_model(trainer.model(), folder, dtype=dtype)
    save_grid(folder / "samples.png", *trainer.preview())
    with written_whole(folder / "README.md") as partial:
        partial.write_text(model_card(trainer, seconds), encoding="utf-8")


def model_card(trainer: Trainer, seconds: float) -> str:
    """The model card: what it is, how it was trained and how to use it, in Markdown."""
    config, loop = trainer.config, trainer.config.train
    parameters = sum(parameter.numel() for parameter in trainer.averaged.parameters())
    images = loop.steps * loop.batch_size
    rows = [f"| {step} | {loss} |" for step, loss in RunLog.validations(trainer.folder)]
    classes = "" if trainer.class_names is None else f"\n- classes: {', '.join(trainer.class_names)}, and none"
    speed = f"{images / seconds:.0f} images/s" if seconds else "no time"
    where = f"{trainer.device.type}, {torch.get_num_threads()} threads, {loop.dtype}"
    return f"""# {config.name}

{config.description}

![samples](samples.png)

- parameters: {parameters / 1e6:.2f} million
- data: {config.data.source}, {len(trainer.images)} images of {config.data.size}x{config.data.size}{classes}
- licence of the data: {config.data.licence or "not stated"}
- trained by: `{command(config)}`
- trained on: {images} images in {seconds / 60:.0f} minutes ({speed}; {where}{", compiled" if trainer.compile else ""})

The validation loss along the way ({config.diffusion.weighting} weighting, {config.diffusion.prediction}):

| step | loss |
| --- | --- |
{chr(10).join(rows)}
"""


def command(config: TrainingConfig) -> str:
    """The command that trains this config again."""
    if config.name not in preset_names():
        return "fromnoise train training.toml"
    words: list[Any] = ["fromnoise", "train", config.name]
    for key, value in changes(load_config(config.name), config).items():
        words += [f"--{key.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
    return shlex.join(map(str, words))
