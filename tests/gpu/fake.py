"""A GPU that is not there: import this before torch, and tensors of device "cuda" have graphs and shapes, but no data.

A CPU build of torch makes no autograd graph on "cuda", since nobody registered that device. guard.cpp registers a
device guard and hooks that do nothing, and torch's FakeTensorMode does the rest. What it shows: tensors of two devices
in one operation, `.numpy()` of a tensor on the GPU, waits for the GPU (a copy to the host, `.item()`, `nonzero`),
copies from memory that is not pinned, and how many kernels are launched. It cannot show numbers, speed or workspaces.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent


def _guard() -> Path:
    """Build guard.cpp against this torch; return the library, which is kept for the next process."""
    [site] = importlib.util.find_spec("torch").submodule_search_locations  # type: ignore[union-attr,misc]
    source = (_HERE / "guard.cpp").read_bytes()
    key = hashlib.sha256(source + (Path(site) / "version.py").read_bytes() + site.encode()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"twistlm-guard-{os.getuid()}-{key}.so"
    if not made.exists() or made.lstat().st_uid != os.getuid():  # anybody may put a file there
        partly = Path(tempfile.mkdtemp()) / made.name
        include = (f"-I{site}/include", f"-I{site}/include/torch/csrc/api/include")
        link = (f"-L{site}/lib", "-ltorch_cpu", "-lc10")
        flags = ("-std=c++20", "-O0", "-fPIC", "-shared")
        subprocess.run(["g++", *flags, str(_HERE / "guard.cpp"), "-o", str(partly), *include, *link], check=True)
        try:
            partly.replace(made)
            partly.parent.rmdir()
        except PermissionError:  # another's file, which stays
            made = partly
    for pattern in ("libgomp*.so*", "libc10.so", "libtorch_cpu.so"):
        for file in (Path(site) / "lib").glob(pattern):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    return made


ctypes.CDLL(str(_guard()), mode=ctypes.RTLD_GLOBAL)  # before torch asks for the hooks the first time

import torch  # noqa: E402

CUDA = torch.device("cuda", 0)
