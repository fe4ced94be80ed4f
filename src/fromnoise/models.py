"""A model directory: open it, save it, list those that ship and those in the hub's cache.

The layout is that of diffusers: ``model_index.json``, ``unet/`` and ``scheduler/``, weights as safetensors. What is
saved here opens there with ``from_pretrained(DIR)``, and what diffusers saved for a ``UNet2DModel`` opens here, also
from a flat directory. Pickles are never opened.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas
from fromnoise.errors import UserError
from fromnoise.files import written_whole
from fromnoise.nn.diffusers_config import (
    ANYTHING,
    COUNT,
    DIFFUSERS_VERSION,
    FLAG,
    NUMBER,
    Rule,
    check_keys,
    one_of,
    optional,
    unet_config_from_diffusers,
    unet_config_to_diffusers,
)
from fromnoise.nn.unet import UNet, UNetConfig

ZOO = Path(__file__).parent / "zoo"
"""where the models that ship are"""

INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"

LEGACY_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""parts of state-dict names as older releases of diffusers wrote them, and as they are today"""


@dataclass(frozen=True)
class SchedulerConfig:
    """How a model was trained and is to be sampled: the keys of diffusers' ``scheduler_config.json`` that decide it.

    The defaults are those of diffusers' ``DDPMScheduler`` and ``DDIMScheduler``.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    """linear, scaled_linear, or squaredcos_cap_v2, which is the cosine schedule"""
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"
    """epsilon, sample (the clean image) or v_prediction"""
    variance_type: str = "fixed_small"
    """fixed_small (the posterior's) or fixed_large (beta)"""
    clip_sample: bool = True
    """clip each predicted clean image to [-clip_sample_range, clip_sample_range]"""
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    """leading, trailing or linspace"""
    steps_offset: int = 0
    """added to leading timesteps"""
    set_alpha_to_one: bool = True
    """the last step goes to alpha-bar 1, not to that of the first timestep"""

    @classmethod
    def from_diffusers(cls, config: dict[str, Any]) -> "SchedulerConfig":
        """From the content of a ``scheduler_config.json``; keys that it leaves out take the defaults.

        Raises:
            UserError: a key that would change the computation, an unknown one, or a wrong type, by name.
        """
        class_name = config.get("_class_name", "DDPMScheduler")
        if not _SCHEDULER_CLASS.accepts(class_name):
            raise UserError(f"_class_name: {class_name} is not supported")
        values = check_keys(config, _SCHEDULER_RULES)
        if values.get("variance_type") in (None, "fixed_small_log"):  # the same variance, kept as its logarithm
            values["variance_type"] = cls.variance_type
        return cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})

    def to_diffusers(self) -> dict[str, Any]:
        """The content of a ``scheduler_config.json``."""
        return {"_class_name": "DDPMScheduler", "_diffusers_version": DIFFUSERS_VERSION, **asdict(self)}

    def schedule(self) -> Schedule:
        """alpha(t) and sigma(t)."""
        if self.beta_schedule == "squaredcos_cap_v2":
            return Schedule(cosine_betas(self.num_train_timesteps))
        betas = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}[self.beta_schedule]
        return Schedule(betas(self.num_train_timesteps, self.beta_start, self.beta_end))


_BETA = Rule("a number between 0 and 1", lambda value: NUMBER.accepts(value) and 0 < value < 1)

_SCHEDULER_CLASS = one_of(  # those that share the betas and differ in the sampler
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)

_SCHEDULER_RULES = {
    # what a SchedulerConfig is made of
    "num_train_timesteps": COUNT,
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "prediction_type": one_of("epsilon", "sample", "v_prediction"),
    "variance_type": one_of("fixed_small", "fixed_small_log", "fixed_large", None),
    "clip_sample": FLAG,
    "clip_sample_range": NUMBER,
    "timestep_spacing": one_of("leading", "trailing", "linspace"),
    "steps_offset": Rule("a whole number from 0", lambda value: type(value) is int and value >= 0),
    "set_alpha_to_one": FLAG,
    # what must be as it is here
    "trained_betas": one_of(None),
    "rescale_betas_zero_snr": one_of(False),
    "thresholding": one_of(False),
    "predict_epsilon": one_of(True),
    "use_karras_sigmas": one_of(False, None),
    "use_exponential_sigmas": one_of(False, None),
    "use_beta_sigmas": one_of(False, None),
    "use_lu_lambdas": one_of(False),
    "use_flow_sigmas": one_of(False),
    "use_dynamic_shifting": one_of(False),
    "sigma_min": one_of(None),
    "sigma_max": one_of(None),
    "shift_terminal": one_of(None),
    "final_sigmas_type": one_of("zero"),
    "interpolation_type": one_of("linear"),
    "timestep_type": one_of("discrete"),
    "solver_order": one_of(2),
    "algorithm_type": one_of("dpmsolver++", "sde-dpmsolver++", "deis"),
    "solver_type": one_of("midpoint", "bh2", "logrho"),
    "lower_order_final": one_of(True),
    "euler_at_final": one_of(False),
    "lambda_min_clipped": one_of(-math.inf),
    "predict_x0": one_of(True),
    "disable_corrector": one_of([]),
    "solver_p": one_of(None),
    # what only the keys above, or samplers that are not here, would read
    "dynamic_thresholding_ratio": NUMBER,
    "sample_max_value": NUMBER,
    "flow_shift": NUMBER,
    "time_shift_type": ANYTHING,
    "skip_prk_steps": FLAG,
    "tensor_format": ANYTHING,
}


@dataclass
class Model:
    """A network and what is needed to sample from it.

    ``class_names`` holds one name for each class, the null class not included; without it the classes of a
    conditional network are called by their numbers.
    """

    unet: UNet
    scheduler: SchedulerConfig
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        rows = self.unet.config.num_class_embeds or 0
        if self.class_names is None and rows:
            self.class_names = tuple(str(i) for i in range(rows))
        if self.num_classes not in (rows, rows - 1):
            raise ValueError(f"{self.num_classes} class names do not fit a class table of {rows} rows")

    @property
    def num_classes(self) -> int:
        """How many classes can be asked for, the null class not included; 0 for an unconditional network."""
        return len(self.class_names or ())

    @property
    def null_class(self) -> int | None:
        """The label that means no condition, where the class table has a row for it: the last one."""
        return self.num_classes if self.unet.config.num_class_embeds == self.num_classes + 1 else None


_INDEX_RULES = {
    "unet": ANYTHING,
    "scheduler": ANYTHING,
    "id2label": optional(
        Rule(
            'an object {"0": name, "1": name, ...}',
            lambda value: (
                isinstance(value, dict)
                and set(value) == {str(i) for i in range(len(value))}
                and all(isinstance(name, str) for name in value.values())
            ),
        )
    ),
}


def open_model(name: str | Path, revision: str | None = None) -> Model:
    """Opens a model, its weights in float32 on the CPU.

    Args:
        name: a shipped name, a directory, or a hub id ``owner/name``, looked for in this order.
        revision: branch, tag or commit of a hub id.

    Raises:
        UserError: there is no such model, or it cannot be opened.
    """
    directory = _locate(name, revision)
    config = _unet_config(directory)
    flat = _unet_directory(directory) == directory
    index_path = directory / INDEX
    alone = flat and not index_path.exists()
    scheduler_path = directory / "scheduler" / SCHEDULER_CONFIG
    if flat and not scheduler_path.exists():
        scheduler_path = directory / SCHEDULER_CONFIG

    index = {} if alone else _read_json(index_path)
    with _about(index_path):
        id2label = check_keys(index, _INDEX_RULES).get("id2label")
    scheduler = {} if alone and not scheduler_path.exists() else _read_json(scheduler_path)
    with _about(scheduler_path):
        scheduler_config = SchedulerConfig.from_diffusers(scheduler)

    unet = _open_unet(config, _unet_directory(directory) / WEIGHTS)
    class_names = None if id2label is None else tuple(id2label[str(i)] for i in range(len(id2label)))
    try:
        return Model(unet, scheduler_config, class_names)
    except ValueError as problem:
        raise UserError(f"{index_path}: id2label: {problem}") from None


def save_model(model: Model, directory: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Saves a model as diffusers' ``DDPMPipeline`` would; each file appears complete or not at all.

    Raises:
        UserError: a file cannot be written.
    """
    index: dict[str, Any] = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    if model.class_names is not None:
        index["id2label"] = {str(i): name for i, name in enumerate(model.class_names)}
    tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in model.unet.state_dict().items()}
    _write(directory / "unet" / CONFIG, _to_json(unet_config_to_diffusers(model.unet.config)))
    _write(directory / "unet" / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    _write(directory / "scheduler" / SCHEDULER_CONFIG, _to_json(model.scheduler.to_diffusers()))
    _write(directory / INDEX, _to_json(index))


@dataclass(frozen=True)
class ShippedModel:
    """A model that comes with the package."""

    name: str
    path: Path
    description: str
    """the first line of text in its model card"""


def shipped_models() -> list[ShippedModel]:
    """The models that come with the package, by name."""
    return [
        ShippedModel(index.parent.name, index.parent, _description(index)) for index in sorted(ZOO.glob(f"*/{INDEX}"))
    ]


def _description(index: Path) -> str:
    card = index.with_name("README.md")
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # the card's metadata
    return next((line for line in text.splitlines() if line and not line.startswith("#")), "")


def cached_models() -> list[str]:
    """The hub ids in the cache that `open_model` can open, judged by their configs. Does not use the network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        repository.repo_id
        for repository in repositories
        if repository.repo_type == "model"
        and any(_is_supported(revision.snapshot_path) for revision in repository.revisions)
    )


def _is_supported(directory: Path) -> bool:
    try:
        _unet_config(directory)
    except UserError:
        return False
    return (_unet_directory(directory) / WEIGHTS).exists()


def _locate(name: str | Path, revision: str | None) -> Path:
    """The directory that a name stands for."""
    shipped = {model.name: model.path for model in shipped_models()}
    found = shipped.get(name, Path(name)) if isinstance(name, str) else name
    if found.is_dir():
        if revision is not None:
            raise UserError(f"revision {revision} given for {name}, which is not on the hub: leave it out")
        return found
    if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _download(name, revision)
    known = ", ".join(shipped) or "none"
    raise UserError(f"unknown model {str(name)!r}: shipped are {known}; or give a directory or a hub id")


def _download(hub_id: str, revision: str | None) -> Path:
    """The local copy of a model on the hub; without a network, the one in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    weights = [WEIGHTS, f"unet/{WEIGHTS}"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=["*.json", "README.md", *weights]))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"no model {hub_id} on the hub: check the name, or log in if it is private") from None
    except RevisionNotFoundError:
        raise UserError(f"no revision {revision} of {hub_id} on the hub: check its branches and tags") from None
    except Exception as failure:  # the transport's own errors are of many classes
        try:
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=weights, local_files_only=True))
        except OSError:
            reason = getattr(failure, "strerror", None) or type(failure.__cause__ or failure).__name__
            raise UserError(
                f"cannot reach the hub for {hub_id} ({reason}): connect, or pass a local directory"
            ) from failure


def _unet_directory(directory: Path) -> Path:
    """Where the U-Net is: in a folder of its own, or flat."""
    return directory / "unet" if (directory / "unet").is_dir() else directory


def _unet_config(directory: Path) -> UNetConfig:
    path = _unet_directory(directory) / CONFIG
    config = _read_json(path)
    with _about(path):
        return unet_config_from_diffusers(config)


def _open_unet(config: UNetConfig, path: Path) -> UNet:
    """The network with the weights of a safetensors file, every key and shape accounted for."""
    if not path.exists():
        pickles = [
            file.name for file in sorted(path.parent.iterdir()) if file.suffix in (".bin", ".pt", ".pth", ".ckpt")
        ]
        hint = f", and the pickle {pickles[0]} is never opened: convert it to safetensors" if pickles else ""
        raise UserError(f"{path} is missing{hint}")
    try:
        state = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as problem:
        raise UserError(f"{path} is not a complete safetensors file: {problem}") from None
    state = {_modern_name(key): tensor for key, tensor in state.items()}

    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be read
        unet = UNet(config)
    _check_state(state, unet.state_dict(), path)
    unet.to_empty(device="cpu")
    unet.load_state_dict(state, strict=True)
    return unet.eval()


def _modern_name(key: str) -> str:
    for legacy, modern in LEGACY_NAMES.items():
        key = key.replace(legacy, modern)
    return key


def _check_state(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """What ``load_state_dict(strict=True)`` would find wrong, in one line."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, first {missing[0]}")
    if extra:
        problems.append(f"{len(extra)} extra, first {extra[0]}")
    if reshaped:
        key = reshaped[0]
        shapes = f"found {list(state[key].shape)}, expected {list(expected[key].shape)}"
        problems.append(f"{len(reshaped)} of the wrong shape, first {key}: {shapes}")
    if problems:
        raise UserError(f"{path}: keys do not fit the config: {'; '.join(problems)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is not a JSON file: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Names the file in the errors of what is done inside."""
    try:
        yield
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as partial:
        partial.write_bytes(content)
