"""Which models there are without a download. Listing those that ship does not load torch."""

import re
from dataclasses import dataclass
from pathlib import Path

ZOO = Path(__file__).parents[1] / "zoo"  # where the models that ship are


@dataclass(frozen=True)
class ShippedModel:
    """A model that comes with the package."""

    name: str
    path: Path
    description: str  # the first line of text in its model card


def shipped_models() -> list[ShippedModel]:
    """The models that come with the package, by name."""
    folders = [index.parent for index in sorted(ZOO.glob("*/model_index.json"))]
    return [ShippedModel(folder.name, folder, _description(folder / "README.md")) for folder in folders]


def _description(card: Path) -> str:
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # the card's metadata
    return next((line for line in text.splitlines() if line and not line.startswith("#")), "")


def cached_models() -> list[str]:
    """The hub ids in the cache that `open_model` can open, judged by their configs. Does not use the network."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if not any(Path(HF_HUB_CACHE).glob("models--*")):
        return []
    from huggingface_hub import scan_cache_dir

    from fromnoise.models.store import is_supported

    models = [repository for repository in scan_cache_dir().repos if repository.repo_type == "model"]
    return sorted(model.repo_id for model in models if any(is_supported(r.snapshot_path) for r in model.revisions))
