"""The two notebooks that train: with no ready model they train one, and everything after that works with it."""

from pathlib import Path

import pytest

import notebooks
from bridge import BOOK
from fromnoise.models import open_model

TINY = Path(__file__).parents[1] / "train" / "tiny.toml"


@pytest.mark.parametrize(
    ("chapter", "conditional"), [("05-simple-diffusion", False), ("06-conditional-diffusion", True)]
)
def test_the_notebook_trains_where_there_is_no_ready_model(chapter, conditional, tmp_path):
    preset = tmp_path / "tiny.toml"
    preset.write_text(TINY.read_text().replace("conditional = true", f"conditional = {str(conditional).lower()}"))
    choice = {
        "DATASET": str(preset),
        "READY_MODEL": None,
        "RUN": str(tmp_path / "run"),
        "OVERRIDES": {"train.steps": 20},
    }
    notebooks.execute(BOOK / f"{chapter}.md", "\n".join(f"{name} = {value!r}" for name, value in choice.items()))
    model = open_model(tmp_path / "run")
    assert (len(model.conditioner.names) == 10) is conditional
