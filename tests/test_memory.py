"""Memory that is freed stays with the process."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from fromnoise.memory import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
usual = pages()
keep_freed_memory()
pages()
print(usual, pages())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc has the setting: with another C library the function does nothing that could be seen",
)
def test_nothing_is_fetched_from_the_system_twice():
    """Blocks of 64 MiB, which are else returned at once; in a process of its own, for it is for the process's life."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 20
