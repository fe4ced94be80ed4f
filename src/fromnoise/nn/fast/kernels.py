"""C++ kernels: the machine's own compiler builds them when they are first needed; the user's cache keeps them."""

import ctypes
import hashlib
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.files import atomic_write, cache_file, read_bytes
from fromnoise.terminal import warn

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}  # of features, as the functions of a kernel name them
DOT_PRODUCTS = bool(torch.cpu.get_capabilities().get("avx512_bf16"))  # instructions that kernels use for bf16
MATRICES = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # those with which PyTorch's own code is the faster one
C_TYPES: dict[type, Any] = {bool: ctypes.c_int, int: ctypes.c_int64, float: ctypes.c_float}
PATIENCE = 60.0  # seconds for the compiler, which takes one or two
MAX_BYTES = 2**26  # of a library
DIGEST = hashlib.sha256().digest_size  # a library is kept with a checksum of its bytes behind them


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library that a C++ file of this package makes, or None where it cannot be built.

    ``$CXX`` or ``c++`` builds it for this processor, in a second; it shares torch's OpenMP threads. It cannot be built
    on systems other than Linux or without a compiler. One that is kept is opened only if it is whole, and if no other
    user could have written it.
    """
    if sys.platform != "linux" or os.environ.get("FROMNOISE_KERNELS") == "0":
        return None
    try:
        command = [*(shlex.split(os.environ.get("CXX", "")) or ["c++"]), *FLAGS]
        made_from = (source.read_bytes(), command, sorted(torch.cpu.get_capabilities().items()))
        target = cache_file(f"{source.stem}.so", made_from)
        return _kept(target) or _built([*command, str(source)], target)
    except (OSError, ValueError, UserError) as problem:  # ValueError: quotes in $CXX that are never closed
        warn(f"without the fast kernels, which is slower: {problem} (FROMNOISE_KERNELS=0 does without them silently)")
        return None


def _kept(target: Path) -> ctypes.CDLL | None:
    """The library that is kept in the cache, unless there is none, or it is damaged, or made for another machine."""
    with suppress(OSError, UserError):
        content = read_bytes(target, MAX_BYTES)
        if hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]:  # the system kills who opens half a library
            return ctypes.CDLL(str(target))
    return None


def _built(command: list[str], target: Path) -> ctypes.CDLL:
    """A new library, which is kept."""
    with atomic_write(target) as partial:
        _run([*command, "-o", str(partial)])
        with partial.open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
        partial.chmod(0o700)  # whatever the umask
    return ctypes.CDLL(str(target))


def _run(command: list[str]) -> None:
    """Runs a compiler, and ends all that it has started if it takes too long or this process is stopped."""
    nothing = subprocess.DEVNULL
    try:
        compiler = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    except OSError as problem:
        raise UserError(f"{command[0]} cannot be run: {problem.strerror}") from None
    try:
        status = compiler.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} was given up on after {PATIENCE:g} seconds") from None
    finally:
        if compiler.returncode is None:
            os.killpg(compiler.pid, signal.SIGKILL)
            compiler.wait()
    if status:
        raise UserError(f"{command[0]} failed with status {status}")


def call(function: Any, *arguments: Tensor | float | None) -> None:
    """Calls a function of such a library. Tensors become pointers, None a null pointer.

    The last argument that the function gets is the number of threads, which is torch's.
    """
    function.restype = None
    function(*map(_for_c, arguments), ctypes.c_int(torch.get_num_threads()))


def _for_c(value: Tensor | float | None) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return None if value is None else C_TYPES[type(value)](value)
