"""What this machine offers: which device, how many rows at a time, and precision, which is measured and kept."""

import json
import math
import os
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fromnoise import devices, files
from fromnoise.devices import DTYPES, convolution_rates, resolve_device, rows_at_a_time, training_dtype
from fromnoise.errors import UserError
from fromnoise.nn.unet import UNetConfig

RATES = {"fp32": 300.0, "bf16": 200.0}


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[torch.dtype]:
    """What is measured from here on, at made-up rates and with an empty cache."""
    asked: list[torch.dtype] = []
    rates = {DTYPES[name]: rate for name, rate in RATES.items()}
    monkeypatch.setattr(devices, "_convolution_rate", lambda dtype: (asked.append(dtype), rates[dtype])[1])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def test_rates_are_measured_once_for_a_processor_and_a_number_of_threads(measured, monkeypatch):
    assert convolution_rates() == convolution_rates() == RATES
    assert len(measured) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    convolution_rates()
    assert len(measured) == 4
    monkeypatch.setattr(devices, "processor", lambda: "another")
    convolution_rates()
    assert len(measured) == 6


DAMAGED = ["{", "[1, 2]", '{"fp32": 1}', *(json.dumps(RATES | {"bf16": value}) for value in ("x", math.nan, 0, None))]


@pytest.mark.parametrize("damaged", [*(text.encode() for text in DAMAGED), b"\xff"])
def test_a_damaged_record_is_replaced(measured, tmp_path, damaged):
    convolution_rates()
    (kept,) = (tmp_path / "cache/fromnoise").iterdir()
    kept.write_bytes(damaged)
    assert convolution_rates() == RATES
    assert len(measured) == 4
    assert json.loads(kept.read_text()) == RATES


def test_without_a_cache_it_is_measured_by_each_process(measured, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    for processes in (1, 2):
        files._temporary_cache.cache_clear()
        assert convolution_rates() == convolution_rates() == RATES
        assert len(measured) == 2 * processes


def test_compiled_code_is_kept_where_nobody_else_can_put_any(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # is put back afterwards
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert devices.compiler_works(torch.device("cpu"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "fromnoise" / "torchinductor")


@pytest.mark.parametrize(("bf16", "expected"), [(200.0, "fp32"), (400.0, "bf16")])
def test_training_takes_the_faster_precision(monkeypatch, bf16, expected):
    monkeypatch.setattr(devices, "convolution_rates", lambda: RATES | {"bf16": bf16})
    dtype, reason = training_dtype(torch.device("cpu"))
    assert dtype == expected
    assert f"300 GFLOP/s in fp32 and {bf16:.0f} GFLOP/s in bf16" in reason


@pytest.mark.parametrize(
    ("device", "supported", "expected"), [("cuda", True, "bf16"), ("cuda", False, "fp32"), ("mps", True, "fp32")]
)
def test_other_devices_are_asked(monkeypatch, device, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert training_dtype(torch.device(device))[0] == expected


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_a_slow_precision_is_given_up_soon(monkeypatch, dtype):
    """Each pass takes a second by this clock: there is a warm-up, and one that counts."""
    ticks = iter(range(1000))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(ticks))
    with FlopCounterMode(display=False) as counter:
        rate = devices._convolution_rate(dtype)
    assert next(ticks) == 4
    assert rate == pytest.approx(counter.get_total_flops() / 2 / 1e9)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "width", "rows"), [(8, 8, 16), (8, 64, 16), (28, 32, 16), (64, 96, 4), (32, 128, 16), (512, 320, 1)]
)
def test_rows_at_a_time(size, width, rows):
    config = UNetConfig(sample_size=size, channels=(width,), attention_levels=(False,), norm_groups=1)
    assert rows_at_a_time(config, CPU) == rows
    assert rows <= rows_at_a_time(config, torch.device("cuda")) <= 64


def test_a_network_that_is_told_a_text_has_two_rows():
    """Those of one guided picture; Stable Diffusion's keeps its one."""
    for size, width, rows in ((16, 64, 2), (64, 320, 1)):
        text = {"context_dim": 8, "heads": (1,), "attention_levels": (True,), "norm_groups": 1}
        assert rows_at_a_time(UNetConfig(sample_size=size, channels=(width,), **text), CPU) == rows


def test_many_prompts_are_shown_as_other_images_are():
    """16 rows of a small network on the CPU; one that is large keeps its one, and another device its number."""
    text = {"context_dim": 8, "heads": (1,), "attention_levels": (True,), "norm_groups": 1}
    small, large = (UNetConfig(sample_size=s, channels=(w,), **text) for s, w in ((16, 64), (64, 320)))
    assert rows_at_a_time(small, CPU, many=True) == 16 and rows_at_a_time(large, CPU, many=True) == 1
    cuda = torch.device("cuda")
    assert rows_at_a_time(small, cuda, many=True) == rows_at_a_time(small, cuda) == 64


@pytest.mark.parametrize("name", ["tpu", "", "cpu:7", "cuda:99", "cuda:x", "CPU"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=re.escape(f"no device {name!r} here: there are auto, ") + ".*cpu"):
        resolve_device(name)


def test_devices(monkeypatch):
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda",
        "cuda",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(resolve_device("auto")) == "mps"
