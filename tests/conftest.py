"""What the tests of several modules share: two tiny models with random weights, as directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.models import Model, save_model
from fromnoise.nn.unet import UNet, UNetConfig

SCHEDULER = NoiseConfig(
    num_train_timesteps=20,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    timestep_spacing="trailing",
)


def save_random_model(directory: Path, class_names: tuple[str, ...] | None = None, rows: int | None = None) -> Path:
    """A network for 8x8 grey images whose class table has so many rows."""
    torch.manual_seed(0)
    config = UNetConfig(
        sample_size=8,
        channels=(8, 16),
        attention_levels=(False, True),
        layers_per_block=1,
        norm_groups=4,
        num_class_embeds=rows,
    )
    network = UNet(config)
    for parameter in network.parameters():  # those that start at zero too
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(Model.of_pixels(network, SCHEDULER, class_names), directory)
    return directory


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes with a null class beside them."""
    return save_random_model(tmp_path_factory.mktemp("models") / "conditional", ("a", "b", "c"), rows=4)


@pytest.fixture(scope="session")
def without_null_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes and nothing else."""
    return save_random_model(tmp_path_factory.mktemp("models") / "without-null-class", ("a", "b", "c"), rows=3)


@pytest.fixture(scope="session")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no classes."""
    return save_random_model(tmp_path_factory.mktemp("models") / "unconditional")


@pytest.fixture
def small_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A few names of emoji in place of all, as their package keeps them."""
    from small_things import NAMES

    from fromnoise.data import emoji

    (tmp_path / "names/data").mkdir(parents=True)
    for group, lines in NAMES.items():
        (tmp_path / f"names/data/emojis_{group}.csv").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(emoji.resources, "files", lambda package: tmp_path / "names")
    emoji.all_emoji.cache_clear()
    yield
    emoji.all_emoji.cache_clear()
