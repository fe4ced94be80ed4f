"""The two notebooks that train: with no ready model they train one, and everything after that works with it."""

from pathlib import Path

import pytest

import notebooks
from bridge import BOOK
from fromnoise.models import open_model
from fromnoise.train.config import load_config

TINY = Path(__file__).parents[1] / "train" / "tiny.toml"


@pytest.mark.parametrize(
    ("chapter", "conditional"),
    [pytest.param("05-simple-diffusion", False, marks=pytest.mark.slow), ("06-conditional-diffusion", True)],
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


@pytest.mark.parametrize("chapter", ["05-simple-diffusion", "06-conditional-diffusion"])
def test_a_short_run_does_not_stand_in_for_the_long_one(chapter, tmp_path, capsys):
    """The cell that trains, run as it stands, then again without the override that made the run short."""
    text = (BOOK / f"{chapter}.md").read_text()
    (cell,) = [cell for cell in text.split("```") if "from fromnoise.train.run import train" in cell]
    code = cell[cell.index("if READY_MODEL is None:") :].partition("    train(")
    code = "".join([*code[:2], code[2].partition("\n")[0]])
    preset, run = tmp_path / "tiny.toml", tmp_path / "run"
    preset.write_text(TINY.read_text().replace("steps = 40", "steps = 3"))
    names = {"READY_MODEL": None, "DATASET": str(preset), "DATA": None, "RUN": str(run), "Path": Path}
    for steps, overrides in ((1, {"train.steps": 1}), (3, {})):
        exec(code, names | {"OVERRIDES": overrides, "load_config": load_config})
        assert max(path.name for path in (run / "checkpoints").iterdir()) == f"step-{steps:08d}"
    assert "train.steps was 1 until step 1: the learning rate was " in capsys.readouterr().out
