"""The library of faults.c: compiled where it is used, since it belongs to one machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


class Unavailable(Exception):
    """Faults cannot be injected here; says why."""


def build(folder: Path) -> Path:
    """Compile faults.c into `folder`, try it, and return the library.

    Raises:
        Unavailable: no Linux on x86-64 or arm64, no C compiler, or a system that refuses seccomp filters.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise Unavailable(f"faults.c traps system calls of Linux on x86-64 or arm64, not {platform.machine()}'s here")
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        raise Unavailable("no gcc here to compile faults.c with")
    library, probe = folder / "libfaults.so", folder / "probe"
    made = subprocess.run(
        [compiler, "-O2", "-Wall", "-fPIC", "-shared", "-o", library, SOURCE], capture_output=True, text=True
    )
    if made.returncode:
        raise Unavailable(f"faults.c does not compile here: {made.stderr.strip()[-500:]}")
    probe.mkdir(exist_ok=True)
    tried = subprocess.run(
        [sys.executable, "-c", f"open({str(probe / 'x')!r}, 'w')"],
        env={**os.environ, "LD_PRELOAD": str(library), "FAULTS": f"dir={probe.resolve()};n=1;errno=EIO"},
        capture_output=True,
        text=True,
    )
    if "Input/output error" not in tried.stderr:
        raise Unavailable(f"this system refuses seccomp filters: {tried.stderr.strip()[-200:] or tried.returncode}")
    return library
