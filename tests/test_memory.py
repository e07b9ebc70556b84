"""Freed memory stays or goes back: in a process of its own, since the setting stays too."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from twistlm.compute.memory import give_back_freed_memory, keep_freed_memory
{"keep": keep_freed_memory, "give back": give_back_freed_memory}[sys.argv[1]]()
x = np.ones(2**18)
for _ in range(3):
    sum((x + 1) for _ in range(3))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    sum((x + 1) for _ in range(3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
def test_large_arrays_take_new_pages_only_where_memory_is_given_back() -> None:
    def faults(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True)
        return int(run.stdout)

    assert faults("keep") < 100 < 10_000 < faults("give back")
