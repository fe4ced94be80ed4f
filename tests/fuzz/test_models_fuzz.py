"""Model directories of any content open and draw, or are refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from attempts import attempt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fromnoise.models.hub import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request

pytestmark = pytest.mark.slow

FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**13), 10**13) | st.integers(0, 4) | st.floats() | st.text(max_size=8)
)
NAMES = st.sampled_from(
    ["linear", "squaredcos_cap_v2", "epsilon", "v_prediction", "trailing", "DownBlock2D", "Infinity"]
)
VALUES = st.recursive(
    SCALARS | NAMES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FEW = settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def directory(conditional: Path, tmp_path: Path) -> Path:
    return tmp_path / "model"


def anew(original: Path, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(original, directory)


def opens_and_draws_or_is_refused(directory: Path) -> None:
    model = attempt(lambda: open_model(str(directory)))
    if model is not None:
        assert all(parameter.isfinite().all() for parameter in model.unet.parameters())
        images = attempt(lambda: generate(model, Request(n=1, steps=1, device="cpu")))
        assert images is None or images.dtype == torch.uint8


@FEW
@given(data=st.data())
def test_a_config_with_other_values(conditional, directory, data):
    anew(conditional, directory)
    for file in data.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2), label="files"):
        path = directory / file
        content = json.loads(path.read_text())
        key = data.draw(st.sampled_from(sorted(content)) | st.text(max_size=6), label="key")
        if data.draw(st.booleans(), label="removed"):
            content.pop(key, None)
        else:
            content[key] = data.draw(VALUES, label="value")
        path.write_text(json.dumps(content))
    opens_and_draws_or_is_refused(directory)


@FEW
@given(file=st.sampled_from([*FILES, WEIGHTS]), place=st.floats(0, 1), new=st.binary(max_size=12), cut=st.booleans())
def test_a_file_with_other_bytes(conditional, directory, file, place, new, cut):
    anew(conditional, directory)
    path = directory / file
    content = path.read_bytes()
    at = int(place**4 * len(content))  # most of what can go wrong is at the beginning
    path.write_bytes(content[:at] + new + (b"" if cut else content[at + len(new) :]))
    opens_and_draws_or_is_refused(directory)


@FEW
@given(header=VALUES, body=st.binary(max_size=40), length=st.none() | st.integers(0, 2**64 - 1))
def test_weights_with_any_header(conditional, directory, header, body, length):
    anew(conditional, directory)
    text = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    assert attempt(lambda: open_model(str(directory))) is None
