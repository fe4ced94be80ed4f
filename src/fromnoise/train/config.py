"""What can be set about a training run: the tables of a preset, which the command line overrides.

Nothing heavy is imported here, so that ``--help`` is quick.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from annotated_types import Ge, Lt, MinLen

from fromnoise.configs import Count, Counts, Fraction, Made, Positive, load, read
from fromnoise.data.table import local, resolved, source_name
from fromnoise.errors import UserError

PRESETS = Path(__file__).parents[1] / "presets"
LOOKED_AT = {f"train.{name}" for name in ("log_every", "validate_every", "preview_every", "checkpoint_every")}
LOOKED_AT.add("train.keep_checkpoints")
"""how often something is looked at or kept, which changes nothing else"""
EMOJI = ("emoji", "emoji-200")
"""the things that are drawn by a font"""
MAY_CHANGE = LOOKED_AT | {f"train.{name}" for name in ("steps", "learning_rate", "final_learning_rate", "warmup_steps")}
MAY_CHANGE |= {f"train.{name}" for name in ("device", "dtype", "compile")}
MAY_CHANGE |= {f"data.{name}" for name in ("source", "digits", "things", "font", "licence")}
MAY_CHANGE |= {f"data.{name}_column" for name in ("image", "label", "caption")}
MAY_CHANGE |= {f"parts.{name}" for name in ("autoencoder", "clip", "unet")}
"""what may differ between a run and its resumption: also where the data and the parts come from, whose checksums
are compared"""


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    source: Annotated[str, MinLen(1)] = "ylecun/mnist"
    """a hub id, a local folder (images, parquet, or MNIST's or CIFAR's own files), "digits" (from scikit-learn), or
    "scenes" (captioned scenes, drawn without end)"""
    things: Annotated[str, MinLen(1)] = "digits"
    """what scenes are made of: "digits", "emoji", "emoji-200" (the best known ones), or a folder of cut-out pictures
    that are named by what they show"""
    digits: Annotated[str, MinLen(1)] = "ylecun/mnist"
    """where the digits in scenes come from, as source"""
    font: str = ""
    """the file of a colour font that has the emoji in scenes; none: Noto Color Emoji, where it is found"""
    configuration: str | None = None
    """which dataset, where the source has several"""
    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour"""
    size: Count = 28
    """height and width in pixels"""
    resize: Literal["crop", "none"] = "crop"
    """images of another size: crop resizes the shorter side and cuts the middle out; none refuses them"""
    background: str = "white"
    """the colour under transparent images, a name or #rrggbb"""
    conditional: bool = False
    """train on the labels too"""
    flip: bool = False
    """mirror half of the images, at random"""
    image_column: str | None = None
    """the column with the images, where it cannot be guessed"""
    label_column: str | None = None
    """the column with the labels, where it cannot be guessed"""
    caption_column: str | None = None
    """the column with the captions, where it cannot be guessed"""
    licence: str = ""
    """of the data, for the model card"""

    @property
    def origin(self) -> tuple[str, ...]:
        """What decides what the images show, folders and files by their paths: the source, of scenes also the things,
        and of emoji the font. Digits are the same wherever they lie."""
        if self.source != "scenes":
            return (resolved(self.source),)
        if self.things in EMOJI:
            return ("scenes", self.things, resolved(self.font) or "the font that is found")
        return ("scenes", self.things if self.things == "digits" else resolved(self.things))

    @property
    def title(self) -> str:
        """What the images are called in a sentence."""
        if self.source != "scenes":
            return source_name(self.source)
        if self.things in EMOJI:
            return f"scenes of {self.things}" + (f" from {source_name(self.font)}" if self.font else "")
        return f"scenes of {source_name(self.things)}"


@dataclass(frozen=True)
class NetworkConfig:
    """The U-Net."""

    channels: Counts = (32, 64, 128)
    """feature channels at each level; each level has half the height and width of the one before"""
    attention_levels: tuple[bool, ...] = (False, False, True)
    """at which levels there is self-attention"""
    layers_per_block: Count = 2
    """residual blocks at each level"""
    head_dim: Annotated[int, Ge(0)] = 32
    """channels of one attention head; 0: a single head"""
    norm_groups: Count = 32
    """groups of the group normalisation"""


@dataclass(frozen=True)
class PartsConfig:
    """The trained parts around a U-Net that sees latents and is told a text; without them it sees images."""

    autoencoder: str = ""
    """the folder of a run of an autoencoder"""
    clip: str = ""
    """the folder of a run of a small CLIP, whose text encoder and tokeniser are used"""
    train_text_encoder: bool = False
    """train the text encoder further, together with the U-Net; otherwise it stays as it is"""
    unet: str = ""
    """the folder of a run of a U-Net with the same parts, from which training goes on: from the U-Net and from the text
    encoder in it; none: from a U-Net that knows nothing"""


@dataclass(frozen=True)
class AutoencoderSettings:
    """The autoencoder and its loss."""

    channels: Counts = (32, 64, 64)
    """feature channels at each level; the last level has the size of the latents"""
    latent_channels: Count = 4
    layers_per_block: Count = 1
    """residual blocks at each level of the encoder (the decoder has one more)"""
    middle_attention: bool = False
    """self-attention at the size of the latents"""
    norm_groups: Count = 8
    """groups of the group normalisation"""
    kl_weight: Annotated[float, Ge(0)] = 1e-6
    """weight of the divergence of the latents from a standard normal, beside the error of the reconstruction"""
    edge_weight: Annotated[float, Ge(0)] = 1.0
    """weight of the error in the differences of neighbouring pixels, which blur costs most"""


@dataclass(frozen=True)
class ClipSettings:
    """The two towers that learn which picture and which caption belong together."""

    vocabulary: Count = 1024
    """tokens that are learned from the captions, at most"""
    max_length: Count = 24
    """tokens of the longest caption, with those that begin and end it"""
    width: Count = 128
    """length of the vector of a token, or of a patch"""
    layers: Count = 4
    """transformer layers of each tower"""
    heads: Count = 4
    """attention heads"""
    patch_size: Count = 8
    """height and width of a patch, in pixels"""
    embedding: Count = 128
    """length of the vector in which pictures and captions are compared"""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise and the objective."""

    num_timesteps: Count = 1000
    """T"""
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    """betas, by diffusers' names (the last is the cosine schedule)"""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """what the network predicts: noise, image or velocity"""
    weighting: Literal["simple", "output", "vlb", "min-snr"] = "output"
    """which noise levels count how much"""
    gamma: Positive = 5.0
    """the cap of min-snr"""
    timestep_sampling: Literal["uniform", "uniform-and-logit-normal"] = "uniform"
    """which times are trained at: all alike, or half of them drawn from a logit-normal distribution, which is densest
    where an image takes shape"""


@dataclass(frozen=True)
class LoopConfig:
    """The training loop."""

    steps: Count = 1000
    """optimiser steps"""
    batch_size: Count = 128
    """images a step, over all processes together"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonal steps for the matrices in the middle of the network, AdamW for the rest"""
    learning_rate: Positive = 1e-3
    """the highest, after the warm-up"""
    warmup_steps: Annotated[int, Ge(0)] = 200
    """steps over which the learning rate rises from 0"""
    final_learning_rate: Fraction = 0.01
    """where the cosine decay ends, as a fraction of the highest"""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    gradient_clip: Positive = 1.0
    """largest norm of a step's gradient"""
    ema_decay: Fraction = 0.999
    """decay of the averaged weights, which are what is sampled from"""
    class_dropout: Fraction = 0.1
    """probability that a label is replaced by the null class, or a caption by the empty one (no condition)"""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """decides everything random"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16: autocast, weights stay fp32; auto: whichever is found to be faster here"""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile; auto: on a CPU, when the run is long enough to pay for the warm-up (on CUDA a step is a graph)"""
    log_every: Count = 20
    """steps between log lines"""
    validate_every: Count = 500
    """steps between validations"""
    preview_every: Count = 1000
    """steps between preview grids"""
    checkpoint_every: Count = 500
    """steps between checkpoints"""
    keep_checkpoints: Count = 2
    """how many of the newest are kept; never less than two, since only later steps show that one is good"""


TABLES = {
    "data": DataConfig,
    "parts": PartsConfig,
    "network": NetworkConfig,
    "diffusion": DiffusionConfig,
    "autoencoder": AutoencoderSettings,
    "clip": ClipSettings,
    "train": LoopConfig,
}
READ_BY = {
    "denoising": {"data", "parts", "network", "diffusion", "train"},
    "classifier": {"data", "train"},
    "autoencoder": {"data", "autoencoder", "train"},
    "clip": {"data", "clip", "train"},
    "reader": {"data", "train"},
}
"""the tables of a preset that each task reads"""


@dataclass(frozen=True)
class TrainingConfig:
    """A preset: everything that decides what a training run produces."""

    name: Annotated[str, Made(r"\w[\w.-]{0,59}", "letters, digits, dots, dashes and underscores, at most 60")] = "model"
    """of the model, and of its folder in ``runs``"""
    description: str = ""
    """one line, for the model card"""
    task: Literal["denoising", "classifier", "autoencoder", "clip", "reader"] = "denoising"
    """what is trained: a diffusion model, the classifier that judges digits, an autoencoder, a small CLIP, or the
    classifier that tells the things of scenes"""
    data: DataConfig = field(default_factory=DataConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    clip: ClipSettings = field(default_factory=ClipSettings)
    train: LoopConfig = field(default_factory=LoopConfig)
    expect: dict[str, float] = field(default_factory=dict)
    """the validation loss to expect at some steps, {"1000" = 0.05}"""

    def override(self, values: dict[str, Any]) -> "TrainingConfig":
        """A copy with ``{"section.key": value}`` replaced; with other data, what is said of the old is left out."""
        config = self
        data = {key.removeprefix("data."): value for key, value in values.items() if key.startswith("data.")}
        if (other := dataclasses.replace(self.data, **data)).origin != self.data.origin:
            about = f"Trained with the settings of {self.name}, on {other.title}."
            config = dataclasses.replace(self, description=about, expect={})
            values = {"data.licence": ""} | values
        for key, value in values.items():
            section, name = key.split(".")
            table = dataclasses.replace(getattr(config, section), **{name: value})
            config = dataclasses.replace(config, **{section: table})
        return config

    def trained_on(self, source: str) -> "TrainingConfig":
        """A copy for the data in a folder or of a hub id; the same, if the folder's path ends in this data's own id.

        Raises:
            UserError: it has no name that can be written down.
        """
        if not source.strip() or source != source.encode(errors="replace").decode():
            raise UserError("--data is empty, or no UTF-8: give digits, a hub id, or a folder with another name")
        if path := local(source):
            source, own = str(path.resolve()), Path(self.data.source).parts
            if "/" in self.data.source and path.resolve().parts[-len(own) :] == own:
                return self
        return self.override({"data.source": source})

    def validate(self) -> None:
        """Refuses, by a UserError that names the key, what no file could say: the command line may overstep a limit."""
        read(TrainingConfig, dataclasses.asdict(self), self.name)
        for section in sorted(TABLES.keys() - READ_BY[self.task]):
            if getattr(self, section) != TABLES[section]():
                raise UserError(f"a {self.task} has no settings [{section}]: leave them out")


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
    if "stages" in (values := load(path)):
        raise UserError(f"{preset} is a list of stages: give one of them, or train it by its name")
    if preset in preset_names():  # tests have checked it, and what checks takes long to import for a help
        for section, kind in TABLES.items():
            table = values.get(section, {})
            values[section] = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in table.items()})
        return TrainingConfig(**values)
    return read(TrainingConfig, values, str(path))


def dump_config(config: TrainingConfig) -> str:
    """The text of a TOML file that `load_config` reads back as the same preset."""
    table = dataclasses.asdict(config, dict_factory=lambda items: {k: v for k, v in items if v is not None})
    unread = TABLES.keys() - READ_BY[config.task]
    return tomli_w.dumps({name: value for name, value in table.items() if name not in unread})


def changes(before: TrainingConfig, after: TrainingConfig) -> dict[str, Any]:
    """What ``after`` sets differently, as ``{"section.key": value}``."""
    return {
        f"{section}.{name}": value
        for section in TABLES
        for name, value in vars(getattr(after, section)).items()
        if value != getattr(getattr(before, section), name)
    }


def refuse_other_run(origin: str, before: TrainingConfig, after: TrainingConfig) -> None:
    """Refuses to go on with the run ``before``, found at ``origin``, by settings ``after`` that make it another.

    Raises:
        UserError: names the setting.
    """
    if (before.name, before.task) != (after.name, after.task):
        raise UserError(f"{origin} holds a run of {before.name!r}, not of {after.name!r}")
    for key, old in changes(after, before).items():
        if key not in MAY_CHANGE:
            new = changes(before, after)[key]
            raise UserError(f"{origin} was started with {key} {old}, not {new}: leave it out, or start a new run")
