"""Freed memory stays with the process: in a process of its own, since the setting does too."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from twistlm.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
x = np.ones(2**18)
for _ in range(3):
    sum((x + 1) for _ in range(3))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    sum((x + 1) for _ in range(3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="there is no glibc here"
)
def test_large_arrays_take_no_new_pages() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True).stdout
        )

    assert faults("keep") < 100 < 10_000 < faults("give back")
