"""The wheel: what is in it, and that it works alone, from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fromnoise"
SHIPPED = ["cifar10-small", "emoji-sd", "mini-sd", "mnist", "mnist-conditional", "mnist-guide"]


def run(*words, cwd, **environment):
    """Runs a command without the paths of this test process; returns what it printed."""
    keep = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # -P keeps the current folder out of sys.path
    result = subprocess.run(
        [sys.executable, "-P", *words], cwd=cwd, env=keep | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    run("-m", "pip", "wheel", str(ROOT), *options, "--wheel-dir", str(folder), cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel):
    site = wheel.parent / "site"
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    run("-m", "pip", "install", *options, "--target", str(site), str(wheel), cwd=wheel.parent)
    return site


def test_what_is_inside(wheel):
    """Every file of the package, the licence and the metadata, and nothing else."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    source = {
        f"fromnoise/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("fromnoise/")} == source
    assert {"fromnoise/py.typed", "fromnoise/cli.py", "fromnoise/presets/digits.toml"} <= names
    for model in SHIPPED:
        for name in ("model_index.json", "README.md", "training.toml", "unet/diffusion_pytorch_model.safetensors"):
            assert f"fromnoise/zoo/{model}/{name}" in names
    [metadata] = {name.partition("/")[0] for name in names - source}
    assert metadata.startswith("fromnoise-")
    assert metadata.endswith(".dist-info")
    assert f"{metadata}/licenses/LICENSE" in names


def test_it_works_alone(installed, tmp_path):
    path = {"PYTHONPATH": str(installed)}
    where = run("-c", "import fromnoise; print(fromnoise.__file__)", cwd=tmp_path, **path)
    assert Path(where.strip()) == installed / "fromnoise" / "__init__.py"

    environment = {**path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no-cache")}
    listed = run("-m", "fromnoise", "models", cwd=tmp_path, **environment)
    assert [line.split()[0] for line in listed.splitlines()] == SHIPPED
    for model in SHIPPED:
        asked = ("--prompt", "a red 7 on blue") if model.endswith("-sd") else ()
        said = run("-m", "fromnoise", "sample", model, "--n", "2", "--steps", "2", *asked, cwd=tmp_path, **environment)
        assert said == f"2 images: {model}.png\n"
        assert (tmp_path / f"{model}.png").read_bytes().startswith(b"\x89PNG")
