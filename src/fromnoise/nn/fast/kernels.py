"""C++ kernels: the machine's own compiler builds them when they are first needed; the user's cache keeps them."""

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
from fromnoise.files import atomic_write, cache_folder

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
C_TYPES: dict[type, Any] = {bool: ctypes.c_int, int: ctypes.c_int64, float: ctypes.c_float}


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library that a C++ file of this package makes, or None where it cannot be built.

    ``$CXX`` or ``c++`` builds it for this processor, in a second; it shares torch's OpenMP threads. It cannot be built
    on systems other than Linux, without a compiler, or where the cache cannot be written.
    """
    if sys.platform != "linux" or os.environ.get("FROMNOISE_KERNELS") == "0":
        return None
    command = [os.environ.get("CXX", "c++"), *FLAGS]
    built_for = repr((command, sorted(torch.cpu.get_capabilities().items()))).encode()
    key = hashlib.sha256(source.read_bytes() + built_for).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{key}.so"
    try:
        if not target.exists():
            with atomic_write(target) as partial:
                subprocess.run([*command, str(source), "-o", str(partial)], check=True, capture_output=True)
        return ctypes.CDLL(str(target))
    except (OSError, UserError, subprocess.CalledProcessError):
        return None


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
