"""Where a kernel comes from: built once, kept, and done without where it cannot be built."""

import shutil
import sys

import pytest
import torch

from fromnoise.nn.fast import group_norm, kernels

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None, reason="there is no C++ compiler"
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder for kernels, empty: none has been built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.cache_clear()
    yield tmp_path / "fromnoise"
    kernels.library.cache_clear()


@needs_compiler
def test_a_kernel_is_built_once_and_kept(cache, monkeypatch):
    assert kernels.library(group_norm.SOURCE) is not None
    (built,) = cache.iterdir()
    kernels.library.cache_clear()
    monkeypatch.setattr(kernels.subprocess, "run", None)  # another build would fail
    assert kernels.library(group_norm.SOURCE) is not None
    assert list(cache.iterdir()) == [built]


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(cache, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no program")
    assert kernels.library(broken) is None
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("trouble", ["no compiler", "no cache", "switched off"])
def test_without_a_kernel_the_result_is_the_same(cache, monkeypatch, trouble):
    if trouble == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    elif trouble == "no cache":
        cache.write_text("a file where the folder would be")
    else:
        monkeypatch.setenv("FROMNOISE_KERNELS", "0")
    assert kernels.library(group_norm.SOURCE) is None
    x = torch.randn(2, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    arguments = (x, torch.randn(2, 16), torch.randn(16), torch.randn(16), 4, 1e-5, True)
    torch.testing.assert_close(group_norm.group_norm(*arguments), group_norm.formula(*arguments))
