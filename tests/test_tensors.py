"""Weights are read whole and finite, or refused in one line."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromnoise.errors import UserError
from fromnoise.tensors import read_tensors, tensor_names


def laid_out(header, data=b"", length=None):
    """The bytes of a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_read(dtype, tmp_path):
    weights = {"a": torch.tensor([[1.5, -2.0]], dtype=dtype), "scalar": torch.ones((), dtype=dtype)}
    weights |= {"empty": torch.ones(0, 3, dtype=dtype), "zero": torch.zeros(2, dtype=dtype)}
    save_file(weights, tmp_path / "w.safetensors")
    found = read_tensors(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == dtype for name in weights)


def test_only_what_is_wanted_is_looked_at(tmp_path):
    save_file(
        {"a": torch.ones(2), "positions": torch.arange(3), "b": torch.tensor(torch.nan)}, tmp_path / "w.safetensors"
    )
    assert read_tensors(tmp_path / "w.safetensors", lambda name: name == "a").keys() == {"a"}
    assert sorted(tensor_names(tmp_path / "w.safetensors")) == ["a", "b", "positions"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a complete"),
        (laid_out({}, length=2**63), "not a complete"),
        (laid_out({}, length=2**64 - 1), "not a complete"),
        (laid_out({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "not a complete"),
        (laid_out({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "not a complete"),
        (laid_out({"a": entry(0, 4)}, bytes(3)), "not a complete"),
        (laid_out({"a": entry(0, 4)}, bytes(5)), "not a complete"),
        (laid_out({"a": entry(0, 4, [2**40, 2**40])}, bytes(4)), "not a complete"),
        (laid_out({"a": entry(0, 4, [-1])}, bytes(4)), "not a complete"),
        (laid_out(b'{"a":' * 10_000), "not a complete"),
        (b"PK\x03\x04" + bytes(100), "not a complete"),  # a pickle of torch
    ],
)
def test_a_damaged_file_is_refused(content, problem, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} is {problem} safetensors file: "):
        read_tensors(path)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.tensor([1, 2]), "type int64"),
        (torch.tensor([True]), "type bool"),
        (torch.tensor([1j]), "type complex64"),
        (torch.ones(4).to(torch.float8_e4m3fn), "type float8_e4m3fn"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([1.0, -float("inf")]), "not finite"),
        (torch.tensor([float("inf")], dtype=torch.float16), "not finite"),
        (torch.tensor([float("nan")], dtype=torch.bfloat16), "not finite"),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), "not finite"),  # in float32
    ],
)
def test_what_cannot_be_weights_is_refused(tensor, problem, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"fine": torch.ones(2), "wrong": tensor}, path)
    with pytest.raises(UserError, match=f"^{path}: wrong .*{problem}"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "is missing"),
        (lambda path: path.mkdir(), "directory|not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["missing", "folder", "fifo", "device", "loop"],
)
def test_what_is_no_file_is_refused_at_once(make, problem, tmp_path):
    path = tmp_path / "w.safetensors"
    make(path)
    with pytest.raises(UserError, match=problem):
        read_tensors(path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists what of which file is mapped")
def test_a_tensor_that_is_let_go_leaves_the_memory(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(300_000), "b": torch.zeros(300_000), "c": torch.ones(0, 3)}, path)
    tensors = read_tensors(path)
    of_file = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    assert len(of_file) == 2
    assert tensors["a"].eq(1).all() and tensors["b"].eq(0).all() and tensors["c"].shape == (0, 3)
    tensors["a"].add_(1)  # changes no file
    assert read_tensors(path)["a"].eq(1).all()
    del tensors["a"]
    left = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    assert len(left) == 1
