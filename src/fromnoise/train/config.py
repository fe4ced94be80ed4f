"""What can be set about a training run: the tables of a preset, which the command line overrides.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dacite
import tomli_w

from fromnoise.errors import UserError

PRESETS = Path(__file__).parents[1] / "presets"


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    source: str = "ylecun/mnist"
    """a hub id, a local folder (parquet, or images), or "digits" (bundled with scikit-learn)"""
    channels: int = 1
    """1 for grey, 3 for colour"""
    size: int = 28
    """height and width in pixels"""
    conditional: bool = False
    """train on the labels too"""
    flip: bool = False
    """mirror half of the images, at random"""
    image_column: str | None = None
    """the column with the images, where it cannot be guessed"""
    label_column: str | None = None
    """the column with the labels, where it cannot be guessed"""
    licence: str = ""
    """of the data, for the model card"""


@dataclass(frozen=True)
class NetworkConfig:
    """The U-Net."""

    channels: tuple[int, ...] = (32, 64, 128)
    """feature channels at each level; each level has half the height and width of the one before"""
    attention_levels: tuple[bool, ...] = (False, False, True)
    """at which levels there is self-attention"""
    layers_per_block: int = 2
    """residual blocks at each level"""
    head_dim: int = 32
    """channels of one attention head; 0: a single head"""
    norm_groups: int = 32
    """groups of the group normalisation"""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise and the objective."""

    num_timesteps: int = 1000
    """T"""
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    """betas, by diffusers' names (the last is the cosine schedule)"""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """what the network predicts: noise, image or velocity"""
    weighting: Literal["simple", "output", "vlb", "min-snr"] = "output"
    """which noise levels count how much"""
    gamma: float = 5.0
    """the cap of min-snr"""
    times: Literal["uniform", "middle"] = "uniform"
    """which times are trained at: all alike, or half of them drawn towards the middle, where an image takes shape"""


@dataclass(frozen=True)
class LoopConfig:
    """The training loop."""

    steps: int = 1000
    """optimiser steps"""
    batch_size: int = 128
    """images a step, over all processes together"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonal steps for the matrices in the middle of the network, AdamW for the rest"""
    learning_rate: float = 1e-3
    """the highest, after the warm-up"""
    warmup_steps: int = 200
    """steps over which the learning rate rises from 0"""
    final_learning_rate: float = 0.01
    """where the cosine decay ends, as a fraction of the highest"""
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    """largest norm of a step's gradient"""
    ema_decay: float = 0.999
    """decay of the averaged weights, which are what is sampled from"""
    class_dropout: float = 0.1
    """probability that a label is replaced by the null class (the probability of no condition)"""
    seed: int = 0
    """decides everything random"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16: autocast, weights stay fp32; auto: bf16 where the processor has instructions for it, else fp32"""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile; auto: when the run is long enough to pay for the warm-up"""
    log_every: int = 20
    """steps between log lines"""
    validate_every: int = 500
    """steps between validations"""
    preview_every: int = 1000
    """steps between preview grids"""
    checkpoint_every: int = 500
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """how many of the newest are kept"""


@dataclass(frozen=True)
class TrainingConfig:
    """A preset: everything that decides what a training run produces."""

    name: str = "model"
    """of the model"""
    description: str = ""
    """one line, for the model card"""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    expect: dict[str, float] = field(default_factory=dict)
    """the validation loss to expect at some steps, {"1000" = 0.05}"""

    def override(self, values: dict[str, Any]) -> "TrainingConfig":
        """A copy with ``{"section.key": value}`` replaced."""
        config = self
        for key, value in values.items():
            section, name = key.split(".")
            table = dataclasses.replace(getattr(config, section), **{name: value})
            config = dataclasses.replace(config, **{section: table})
        return config

    def validate(self) -> None:
        """Refuses numbers no run can have, with a `UserError` that names the key."""
        positive = ["data.channels", "data.size", "network.layers_per_block", "network.norm_groups"]
        positive += ["diffusion.num_timesteps", "diffusion.gamma", "train.steps", "train.batch_size"]
        positive += ["train.learning_rate", "train.gradient_clip", "train.log_every", "train.validate_every"]
        positive += ["train.preview_every", "train.checkpoint_every", "train.keep_checkpoints"]
        fractions = ["train.final_learning_rate", "train.ema_decay", "train.class_dropout"]
        others = ["network.head_dim", "train.warmup_steps", "train.weight_decay", "train.seed"]
        for key in [*positive, *fractions, *others]:
            section, name = key.split(".")
            value = getattr(getattr(self, section), name)
            if key in positive and not 0 < value < float("inf"):
                raise UserError(f"{key} must be above 0, not {value}")
            if key in fractions and not 0 <= value <= 1:
                raise UserError(f"{key} must be between 0 and 1, not {value}")
            if not 0 <= value < float("inf"):
                raise UserError(f"{key} must not be negative, not {value}")
        if self.data.channels not in (1, 3):
            raise UserError(f"data.channels must be 1 (grey) or 3 (colour), not {self.data.channels}")
        if min(self.network.channels, default=0) < 1:
            raise UserError(f"network.channels must be one or more numbers above 0, not {list(self.network.channels)}")
        if self.train.seed >= 2**63:
            raise UserError(f"train.seed must be below 2^63, not {self.train.seed}")


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(preset: str) -> TrainingConfig:
    """A preset by name, or from a ``.toml`` file.

    Raises:
        UserError: there is none, or it is not valid; names the key.
    """
    path = PRESETS / f"{preset}.toml" if preset in preset_names() else Path(preset)
    if path.suffix != ".toml":
        raise UserError(f"unknown preset {preset!r}: there are {', '.join(preset_names())}; or give a .toml file")
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def parse_config(text: str, origin: str) -> TrainingConfig:
    """A preset from the text of a TOML file; ``origin`` names it in errors."""
    try:
        table = tomllib.loads(text)
        tuples = {tuple[int, ...]: _as_tuple, tuple[bool, ...]: _as_tuple}
        settings = dacite.Config(strict=True, type_hooks={float: _as_float, int: _as_int, **tuples})
        return dacite.from_dict(TrainingConfig, table, settings)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{origin} is not valid TOML: {error}") from error
    except dacite.UnexpectedDataError as error:
        raise UserError(f"{origin}: unknown key {', '.join(sorted(map(str, error.keys)))}") from error
    except dacite.DaciteError as error:
        raise UserError(f"{origin}: {error}".replace("\n", " ")) from error


def dump_config(config: TrainingConfig) -> str:
    """The text of a TOML file that `parse_config` reads back as the same preset."""
    return tomli_w.dumps(_without_none(dataclasses.asdict(config)))


def changes(before: TrainingConfig, after: TrainingConfig) -> dict[str, Any]:
    """What ``after`` sets differently, as ``{"section.key": value}``."""
    return {
        f"{section}.{name}": value
        for section in ("data", "network", "diffusion", "train")
        for name, value in vars(getattr(after, section)).items()
        if value != getattr(getattr(before, section), name)
    }


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_int(value: Any) -> Any:
    if isinstance(value, bool):
        raise dacite.WrongTypeError(int, value)
    return value
