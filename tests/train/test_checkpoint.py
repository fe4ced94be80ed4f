"""Checkpoints: what is damaged is named, what is whole is used, and nothing of others' is touched."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from runs import checkpoint_steps

from fromnoise.errors import UserError
from fromnoise.train.checkpoint import (
    DataRecord,
    Environment,
    State,
    discard_unproven,
    load_checkpoint,
    mark_proven,
    save_checkpoint,
)
from fromnoise.train.config import TrainingConfig
from fromnoise.train.folder import list_checkpoints, remove_checkpoint

GROUPS = {"weights": {"a": torch.arange(3.0), "count": torch.tensor(7)}, "ema": {"a": torch.ones(2, 2)}}
STATE = State(
    step=5,
    seconds=1.5,
    ema_updates=5,
    config=TrainingConfig(expect={"5": 0.1}),
    data=DataRecord(3, 1, 2, ("a", "b")),
    environment=Environment.here(torch.device("cpu"), False, 1),
    history=("train.learning_rate was 1.0 until step 2",),
)
NAMES = ("state.json", "checksums.json", "weights.safetensors", "ema.safetensors")


def save(folder: Path, step: int = 5, keep: int = 2) -> Path:
    return save_checkpoint(folder, dataclasses.replace(STATE, step=step), GROUPS, keep)


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint = save(tmp_path)
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(NAMES)
    groups, state = load_checkpoint(checkpoint, GROUPS)
    assert state == STATE
    assert all(groups[group][name].equal(GROUPS[group][name]) for group in GROUPS for name in GROUPS[group])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "pipe": pipe,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(tmp_path, name, damage):
    checkpoint = save(tmp_path)
    damage(checkpoint / name)
    named = name.removesuffix(".json") if name == "checksums.json" else f"{checkpoint / name}"
    with pytest.raises(UserError) as caught:
        load_checkpoint(checkpoint, GROUPS)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def forge(path: Path, content: bytes) -> None:
    """Another content, with the right checksum."""
    path.write_bytes(content)
    sums = path.with_name("checksums.json")
    sums.write_text(json.dumps(json.loads(sums.read_text()) | {path.name: hashlib.sha256(content).hexdigest()}))


FORGED = {
    "missing": ({"count": torch.tensor(7)}, "a is missing"),
    "extra": (GROUPS["weights"] | {"b": torch.ones(1)}, "b is not known"),
    "reshaped": (GROUPS["weights"] | {"a": torch.ones(1, 3)}, r"a is float32 \[1, 3\], not float32 \[3\]"),
    "retyped": (GROUPS["weights"] | {"a": torch.ones(3).half()}, r"a is float16 \[3\], not"),
    "infinite": (GROUPS["weights"] | {"a": torch.tensor([1, torch.inf, 2])}, "a has numbers that are not finite"),
    "huge": ({"a": torch.ones(2**23)}, "is larger than"),
}


@pytest.mark.parametrize(("tensors", "told"), FORGED.values(), ids=FORGED)
def test_tensors_that_do_not_belong_there_are_named(tmp_path, tensors, told):
    path = save(tmp_path) / "weights.safetensors"
    forge(path, safetensors.torch.save(tensors))
    with pytest.raises(UserError, match=f"{path}.*{told}"):
        load_checkpoint(path.parent, GROUPS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": 6}, "is of step 6"),
        ({"step": True}, "step"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": None}, "seconds"),
        ({"surprise": 1}, "unknown key surprise"),
        ({"environment": {}}, "environment"),
        ({"config": {"train": {"steps": 0}}}, "config.train.steps"),
    ],
)
def test_a_state_that_cannot_be_is_refused(tmp_path, change, told):
    path = save(tmp_path) / "state.json"
    forge(path, json.dumps(json.loads(path.read_text()) | change).encode())
    with pytest.raises(UserError, match=f"{path}.*{told}"):
        load_checkpoint(path.parent, GROUPS)


def test_only_what_is_named_as_ours_is_read_or_removed(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    others = ["step-notes", "step-1", "step-0000001", "step-000000001", "step-00000001.bak", "best", "Step-00000001"]
    for name in others:
        (checkpoints / name).mkdir(parents=True)
    (checkpoints / "step-00000002").write_text("a file")
    (checkpoints / "step-00000003").symlink_to(checkpoints / "best")
    for step in (5, 6, 7, 8, 123456789):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000008", "step-123456789"]
    assert {path.name for path in checkpoints.iterdir()} - {path.name for path in list_checkpoints(tmp_path)} == {
        *others,
        "step-00000002",
        "step-00000003",
    }


def test_one_that_cannot_be_removed_stops_nothing(tmp_path, monkeypatch):
    """It has lost its name by then; the next run removes what is left."""
    old, _ = save(tmp_path, 1), save(tmp_path, 2)
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, ignore_errors: (Path(path) / "state.json").unlink(missing_ok=True)
    )
    remove_checkpoint(old)
    assert checkpoint_steps(tmp_path) == [2]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]


def test_the_newest_is_proven_by_the_steps_after_it(tmp_path):
    """Until then it alone is never kept."""
    for step in (1, 2, 3):
        save(tmp_path, step, keep=1)
        if step == 2:
            mark_proven(tmp_path)
    assert checkpoint_steps(tmp_path) == [2, 3]
    for _ in range(2):  # the second time nothing is lost
        discard_unproven(tmp_path)
        assert checkpoint_steps(tmp_path) == [2]


def test_one_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write .*step-00000002: No space left"):
        save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
