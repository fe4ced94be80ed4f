"""C++ kernels: compiled by the machine's own compiler when they are first needed, and kept in the user's cache."""

import ctypes
import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.files import written_whole

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library that a C++ file of this package makes, or None where there is none to be had.

    It is built for this processor by ``$CXX`` or ``c++``, in a second, and shares torch's OpenMP threads. On other
    systems than Linux, without a compiler, or where the cache cannot be written, the caller does without.
    """
    if sys.platform != "linux" or os.environ.get("FROMNOISE_KERNELS") == "0":
        return None
    command = [os.environ.get("CXX", "c++"), *FLAGS]
    built_for = repr((command, sorted(torch.cpu.get_capabilities().items()))).encode()
    key = hashlib.sha256(source.read_bytes() + built_for).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{key}.so"
    try:
        if not target.exists():
            with written_whole(target) as partial:
                subprocess.run([*command, str(source), "-o", str(partial)], check=True, capture_output=True)
        return ctypes.CDLL(str(target))
    except (OSError, UserError, subprocess.CalledProcessError):
        return None


def call(function: Any, *arguments: object) -> None:
    """Calls a function of such a library: tensors become pointers, None a null pointer; its last argument is the
    number of threads, which is torch's.
    """
    function.restype = None
    function(*map(_for_c, arguments), ctypes.c_int(torch.get_num_threads()))


def _for_c(value: object) -> object:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    if isinstance(value, bool):
        return ctypes.c_int(value)
    return ctypes.c_int64(value) if isinstance(value, int) else value


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromnoise"
