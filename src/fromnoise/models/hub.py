"""Opens models by name: those that ship, those in a directory or a file, and those on the hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromnoise.errors import UserError
from fromnoise.files import read_bytes
from fromnoise.models.conditioning import Prompts
from fromnoise.models.layout import STEM, TEXT_STEM, VARIANTS
from fromnoise.models.model import Model
from fromnoise.models.shipped import shipped_models
from fromnoise.models.store import open_directory, open_single_file
from fromnoise.terminal import warn

VOCABULARY = "openai/clip-vit-large-patch14"  # the hub id of CLIP, for its vocabulary alone
MAX_CARD = 2**20  # bytes of a model card


def open_model(name: str | Path, revision: str | None = None) -> Model:
    """Opens a model, its weights in float32 on the CPU.

    Args:
        name: a shipped name, a directory, a single file of Stable Diffusion, or a hub id ``owner/name``, looked for in
            this order.
        revision: branch, tag or commit of a hub id.

    Raises:
        UserError: there is no such model, or it cannot be opened.
    """
    shipped = {model.name: model.path for model in shipped_models()}
    directory = shipped.get(name, Path(name)) if isinstance(name, str) else name
    if os.path.isdir(directory) or os.path.isfile(directory):  # not Path.is_dir, which has errors for some names
        if revision is not None:
            raise UserError(f"revision {revision} given for {name}, which is not on the hub: leave it out")
    elif isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        directory = _download(name, revision, [_files(variant) for variant in VARIANTS])
    else:
        known = ", ".join(shipped) or "none"
        raise UserError(f"unknown model {str(name)!r}: shipped are {known}; or give a directory or a hub id")
    if os.path.isfile(directory):
        model = open_single_file(Path(directory), _tokenizer_beside)
    else:
        model = open_directory(directory)
    trained_here = os.path.isfile(Path(directory) / "training.toml")  # whose card names the licence of the data
    if not trained_here and isinstance(model.conditioner, Prompts):
        licence = _licence(directory / "README.md")
        under = f"is under the licence {licence}" if licence else "names no licence: see where it is from"
        warn(f"{name} {under}; no safety checker looks at what is drawn")
    return model


def _licence(card: Path) -> str | None:
    """The licence in the metadata of a model card."""
    try:
        found = re.search(
            r"\A---\n.*?^license: *(\S+)", read_bytes(card, MAX_CARD).decode(errors="replace"), re.M | re.S
        )
    except UserError:  # there is no card
        return None
    return found[1] if found else None


def _tokenizer_beside(file: Path) -> Path:
    """The folder of CLIP's vocabulary, which no single file has: ``tokenizer`` beside it, else the one on the hub."""
    beside = file.parent / "tokenizer"
    if os.path.isdir(beside):
        return beside
    try:
        return _download(VOCABULARY, None, [("vocab.json", "merges.txt", "tokenizer_config.json")])
    except UserError as problem:
        raise UserError(f"{file} has no vocabulary: put the tokenizer/ of its model beside it; {problem}") from None


def _files(variant: str) -> list[str]:
    """Patterns of the files of a model that are read, in a variant of its weights."""
    folders = {"": STEM, "unet/": STEM, "vae/": STEM, "text_encoder/": TEXT_STEM}
    weights = [f"{folder}{stem}{variant}{shard}" for folder, stem in folders.items() for shard in ("", "-*-of-*")]
    return ["*.json", "tokenizer/merges.txt", "README.md", *(f"{name}.safetensors" for name in weights)]


def _download(hub_id: str, revision: str | None, choices: Sequence[Sequence[str]]) -> Path:
    """The local copy of a repository on the hub; without a network, the one in the cache.

    Args:
        choices: patterns of the files that are wanted; the first choice that brings weights, or else the last, is it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    def fetch(patterns: Sequence[str], local_files_only: bool = False) -> Path:
        options: dict[str, Any] = {"revision": revision, "allow_patterns": patterns}
        return Path(snapshot_download(hub_id, local_files_only=local_files_only, **options))

    try:
        for patterns in choices:
            directory = fetch(patterns)
            if any(weights for place in ("", "unet/") for weights in directory.glob(f"{place}*.safetensors")):
                break
        return directory
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"no model {hub_id} on the hub: check the name, or log in if it is private") from None
    except RevisionNotFoundError:
        raise UserError(f"no revision {revision} of {hub_id} on the hub: check its branches and tags") from None
    except Exception as failure:  # the transport's own errors are of many classes
        try:
            return fetch(choices[0], local_files_only=True)
        except OSError:
            reason = getattr(failure, "strerror", None) or type(failure.__cause__ or failure).__name__
            raise UserError(
                f"cannot reach the hub for {hub_id} ({reason}): connect, or pass a local directory"
            ) from failure
