"""How a training run went: its losses, drawn from what the run logged or from what its preset says to expect."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import style
from fromnoise.train.config import TrainingConfig, load_config, preset_names
from fromnoise.train.folder import read_log

BANDS = ["cleanest quarter", "second", "third", "noisiest quarter"]


def expected(config: TrainingConfig | None) -> dict[int, float]:
    """The held-out loss that a preset says to expect, by step; empty for other settings than a preset's."""
    if config is None:
        return {}
    known = load_config(config.name).expect if config.name in preset_names() else config.expect
    return {int(step): loss for step, loss in known.items()}


def draw_losses(folder: Path, config: TrainingConfig | None) -> None:
    """Draws the losses in a run's ``log.jsonl``; those by noise level beside them. Without a log, what is expected."""
    record = read_log(folder)
    held_out = [entry for entry in record if "validation_loss" in entry]
    known = expected(config)
    if not record and not known:
        print(f"{folder} has no log, and no preset says what to expect of it.")
        return
    axes = plt.subplots(1, 2 if held_out else 1, figsize=(7, 2.6), squeeze=False)[1][0]
    if record:
        steps, losses = zip(*[(entry["step"], entry["loss"]) for entry in record if "loss" in entry], strict=True)
        axes[0].plot(steps, losses, color=style.GREY, lw=0.8, label="training")
    if held_out:
        steps = [entry["step"] for entry in held_out]
        axes[0].plot(steps, [entry["validation_loss"] for entry in held_out], "o-", ms=3, label="held-out")
        _draw_bands(axes[1], steps, [entry["validation_loss_by_noise"] for entry in held_out])
    if known:
        line = "" if record else "-"
        axes[0].plot([*known], [*known.values()], "s", ls=line, mfc="none", color=style.ORANGE, label="to expect")
    axes[0].set(xlabel="step", ylabel="loss")
    axes[0].legend()
    plt.show()


def _draw_bands(axes: Axes, steps: list[int], bands: list[list[float]]) -> None:
    for name, curve in zip(BANDS, zip(*bands, strict=True), strict=True):
        axes.plot(steps, curve, "o-", ms=3, label=name)
    axes.set(xlabel="step", ylabel="held-out loss, by time")
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncol=2)
