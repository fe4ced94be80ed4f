"""A run whose checkpoint is damaged anywhere ends with the same bits, or is refused in one line."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from attempts import attempt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from runs import BRIEFLY as CONFIG

from fromnoise.train.run import train
from fromnoise.train.tasks.denoising import DenoisingTask

pytestmark = pytest.mark.slow

LAST = "step-00000004"
FILES = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "checksums.json")


@pytest.fixture(autouse=True, scope="module")
def quick_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoisingTask, "preview", lambda *_: (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 2))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train(CONFIG, tmp_path_factory.mktemp("finished") / "run")


def bits(folder: Path) -> dict[str, bytes]:
    """What training has decided."""
    state = safetensors.torch.load_file(folder / "checkpoints" / LAST / "weights.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    file=st.sampled_from([f"checkpoints/step-00000003/{name}" for name in FILES] + ["training.toml", "log.jsonl"]),
    place=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1, max_size=8),
    way=st.sampled_from(["replaced", "inserted", "cut", "removed"]),
)
def test_a_damaged_checkpoint_never_changes_the_result(finished, tmp_path, file, place, new, way):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / LAST)
    path = folder / file
    content = path.read_bytes()
    at = int(place * len(content))
    rest = {"replaced": content[at + len(new) :], "inserted": content[at:], "cut": b"", "removed": b""}[way]
    path.unlink() if way == "removed" else path.write_bytes(content[:at] + new + rest)
    if attempt(lambda: train(CONFIG, folder, resume=True)) is not None:
        assert bits(folder) == bits(finished)
