"""Where a kernel comes from: built once, kept, and done without where it cannot be built."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fromnoise import files, terminal
from fromnoise.nn.fast import group_norm, kernels

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None,
    reason="kernels are built on Linux alone, and by a compiler",
)
SOURCE = 'extern "C" int answer() { return 42; }'
PLANTED = """#include <cstdio>
extern "C" int answer() { return 1; }
__attribute__((constructor)) static void spring() { fclose(fopen("PLACE", "w")); }"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder for kernels, empty: none has been built yet, and nothing has been said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    caches = (kernels.library, files._temporary_cache, terminal.warn)
    for kept in caches:
        kept.cache_clear()
    yield tmp_path / "fromnoise"
    for kept in caches:
        kept.cache_clear()


@pytest.fixture
def source(tmp_path):
    """A library that is built in no time."""
    path = tmp_path / "small.cpp"
    path.write_text(SOURCE)
    return path


def opened(source):
    """The library, as another process would get it."""
    kernels.library.cache_clear()
    return kernels.library(source)


@needs_compiler
def test_a_kernel_is_built_once_and_kept(cache, source, monkeypatch):
    before = os.umask(0)
    try:
        assert opened(source).answer() == 42
    finally:
        os.umask(before)
    (built,) = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == built.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(kernels, "_run", None)  # another build would fail
    assert opened(source).answer() == 42
    assert list(cache.iterdir()) == [built]


@pytest.fixture
def built(cache, source, monkeypatch):
    """A library that an earlier process has kept: this one has not opened it, and so would not take it from memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "elsewhere"))
    opened(source)
    shutil.copytree(cache.parent / "elsewhere" / "fromnoise", cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    (path,) = cache.iterdir()
    return path


def plant(built, how, place):
    """Spoils the library that is kept."""
    whole = built.read_bytes()
    if how == "empty":
        built.write_bytes(b"")
    elif how == "truncated":
        built.write_bytes(whole[: len(whole) // 2])
    elif how == "another's bytes":
        built.write_bytes(whole[:-40] + bytes(40))
    elif how == "for another machine":
        kernel = b"\x7fELF" + bytes(60)
        built.write_bytes(kernel + kernels.hashlib.sha256(kernel).digest())
    else:  # one that works, with its checksum
        code = built.with_name("planted.cpp")
        code.write_text(PLANTED.replace("PLACE", str(place)))
        built.unlink()
        subprocess.run(["c++", "-shared", "-fPIC", code, "-o", built], check=True)
        code.unlink()
        content = built.read_bytes()
        built.write_bytes(content + kernels.hashlib.sha256(content).digest())
        built.chmod(0o777 if how == "others may write to it" else 0o700)
        if how == "another user's":
            os.chown(built, 65534, -1)
        if how == "a link":
            built.rename(built.parent.parent / "planted.so")
            built.symlink_to("../planted.so")


SPOILT = ["empty", "truncated", "another's bytes", "for another machine"]
OTHERS = ["others may write to it", "a link", "another user's"]


@needs_compiler
@pytest.mark.parametrize("how", SPOILT + OTHERS)
def test_what_is_damaged_or_could_be_of_others_is_built_anew(source, built, tmp_path, how):
    if how == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    plant(built, how, tmp_path / "SPRUNG")
    assert opened(source).answer() == 42
    assert not (tmp_path / "SPRUNG").exists()
    assert built.is_file() and not built.is_symlink()
    assert files._only_ours(built.stat())


@needs_compiler
@pytest.mark.parametrize("how", ["others may write", "a folder above", "another user's", "relative", "no home"])
def test_a_folder_that_others_can_write_to_is_not_used(cache, source, built, tmp_path, monkeypatch, capsys, how):
    if how == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    plant(built, "one that works", tmp_path / "SPRUNG")
    if how == "others may write":
        cache.chmod(0o777)
    elif how == "a folder above":
        tmp_path.chmod(0o775)
    elif how == "another user's":
        os.chown(cache, 65534, -1)
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", ".")
        monkeypatch.setattr(Path, "home", home if how == "no home" else lambda: tmp_path / "home")
    capsys.readouterr()
    assert opened(source).answer() == opened(source).answer() == 42
    assert not (tmp_path / "SPRUNG").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if how == "relative" else 1)
    assert how == "relative" or "set XDG_CACHE_HOME to a folder of yours" in said


def home():
    raise RuntimeError("Could not determine home directory.")


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(cache, tmp_path, capsys):
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no program")
    assert opened(broken) is opened(broken) is None
    assert not list(cache.iterdir())
    assert capsys.readouterr().err.count("c++ failed with status 1") == 1, "said once"


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_a_compiler_that_hangs_is_given_up_on(cache, source, tmp_path, monkeypatch, capsys):
    """It and all that it has started."""
    monkeypatch.setenv("CXX", script(tmp_path / "hangs", f"sleep 60 & echo $! > {tmp_path}/pid; wait"))
    monkeypatch.setattr(kernels, "PATIENCE", 1.0)
    assert opened(source) is None
    assert "was given up on after 1 seconds" in capsys.readouterr().err
    number = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{number}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(number, signal.SIGKILL)
        pytest.fail("what the compiler had started goes on")
    assert not list(cache.iterdir())


@needs_compiler
@pytest.mark.parametrize(("before", "built"), [("env X=1 c++", True), ("'", False), (" ", True), ("true", False)])
def test_words_in_front_of_the_compiler(cache, source, monkeypatch, before, built):
    monkeypatch.setenv("CXX", before)
    assert (opened(source) is not None) == built


@pytest.mark.parametrize("trouble", ["no compiler", "no folder", "switched off"])
def test_without_a_kernel_the_result_is_the_same(cache, monkeypatch, trouble, capsys):
    if trouble == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    elif trouble == "no folder":
        monkeypatch.setattr(files, "_own_folder", lambda folder: (_ for _ in ()).throw(OSError(28, "full")))
    else:
        monkeypatch.setenv("FROMNOISE_KERNELS", "0")
    assert kernels.library(group_norm.SOURCE) is None
    x = torch.randn(2, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    arguments = (x, torch.randn(2, 16), torch.randn(16), torch.randn(16), 4, 1e-5, True)
    torch.testing.assert_close(group_norm.group_norm(*arguments), group_norm.formula(*arguments))
    said = capsys.readouterr().err
    assert said.count("without the fast kernels") == (trouble != "switched off" and sys.platform == "linux")
