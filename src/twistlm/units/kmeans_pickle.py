"""Published k-means: scikit-learn pickles, plain or by joblib, read without running anything that is in them.

A pickle is a program: it names functions and calls them. Here each of the few names a k-means pickle needs stands for
a `_Record`, which only keeps what it is given; every other name is refused. So neither numpy nor scikit-learn code
runs, whatever version wrote the file, and the centroids are cut out of the records afterwards.

joblib writes the pickle of a small wrapper in place of each array and the array's bytes right behind it, in the same
file; `pickle` alone cannot read that. Compressed joblib files are not read: no published codebook is one.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.units.kmeans import Codebook


class _Record:
    """Stands for a class or function that a pickle names: keeps arguments and state, does nothing."""

    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Self:  # and no __init__: some opcodes call only __new__
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _KMeans(_Record): ...


class _Dtype(_Record): ...


class _Reconstruct(_Record):
    """numpy's array by protocols 2 to 4: state is (version, shape, dtype, column-major, bytes)."""


class _FromBuffer(_Record):
    """numpy's array by protocol 5: arguments are (bytes, dtype, shape, order)."""


class _Encode(_Record):
    """How protocol 2 writes bytes: arguments are (text, "latin1")."""


class _JoblibArray(_Record):
    """joblib's wrapper; `raw` are the bytes behind it."""

    raw = b""


_NAMES: dict[tuple[str, str], type[_Record]] = {
    **{
        (f"sklearn.cluster.{module}", name): _KMeans
        for module in ("_kmeans", "k_means_")
        for name in ("KMeans", "MiniBatchKMeans")
    },
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Record for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Record,
    ("_codecs", "encode"): _Encode,
    # The generator a k-means was seeded with.
    ("numpy.random", "__RandomState_ctor"): _Record,
    ("numpy.random._pickle", "__randomstate_ctor"): _Record,
    ("numpy.random._pickle", "__bit_generator_ctor"): _Record,
    ("numpy.random._mt19937", "MT19937"): _Record,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
}


# The unpickler written in Python and not the one in C: the latter may read ahead of the opcodes, past joblib's arrays,
# and a few bytes can make its table of references fill the memory. joblib builds on this one for the first reason.
class _Unpickler(pickle._Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")

        class JoblibArray(_JoblibArray):
            def __setstate__(self, state: Any) -> None:
                super().__setstate__(state)
                if state.get("numpy_array_alignment_bytes") is not None:
                    stream.read(stream.read(1)[0])
                size = _itemsize(state["dtype"]) * math.prod(state["shape"])
                self.raw = stream.read(max(0, size))

        self._joblib_array = JoblibArray

    def find_class(self, module: str, name: str, /) -> type[_Record]:
        if (module, name) not in _NAMES:
            raise BadInput(f"it asks for {module}.{name}, which no k-means needs")
        stands_in = _NAMES[module, name]
        return self._joblib_array if stands_in is _JoblibArray else stands_in


def read_kmeans(path: str | Path) -> Codebook:
    """Read the centroids of a scikit-learn KMeans or MiniBatchKMeans, written by `joblib.dump` or `pickle.dump`.

    Nothing in the file is run: see the head of this module. `Codebook.save` writes the centroids as safetensors.

    Args:
        path: the file, usually `km.bin`; protocols 2 to 5, uncompressed.

    Returns:
        The codebook; float64 centroids are rounded to float32.

    Raises:
        BadInput: the file names anything but a k-means and numpy arrays, is damaged, or holds no usable centroids.
    """
    try:
        found = _Unpickler(io.BytesIO(Path(path).read_bytes())).load()
        if not isinstance(found, _KMeans) or "cluster_centers_" not in found.state:
            raise BadInput("what it holds is not a fitted KMeans or MiniBatchKMeans")
        centroids = _array(found.state["cluster_centers_"])
        if centroids.ndim != 2 or len(centroids) < 2 or not np.isfinite(centroids).all():
            raise BadInput(f"its centroids, of shape {centroids.shape}, are not a finite table [K >= 2, D]")
    except BadInput as error:
        raise BadInput(
            f"{path} was not read as a k-means: {error}. Nothing in it was run. Get the file from its publisher "
            "and compare its sha256; or save the centroids as safetensors where you trust it (Codebook.save)."
        ) from error
    except _DAMAGED as error:
        raise BadInput(
            f"{path} was not read as a k-means: it is no whole, uncompressed pickle "
            f"({type(error).__name__}: {error}). Fetch it again, or save it again with joblib.dump."
        ) from error
    return Codebook(np.ascontiguousarray(centroids, dtype=np.float32))


# What the unpickler and `_array` raise on bytes that do not follow the format.
_DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError,
    MemoryError, struct.error,
)  # fmt: skip


def _array(value: Any) -> NDArray[np.floating]:
    """The array a record describes."""
    raw: Any
    if isinstance(value, _JoblibArray):
        dtype, shape, order, raw = value.state["dtype"], value.state["shape"], value.state["order"], value.raw
    elif isinstance(value, _FromBuffer):
        raw, dtype, shape, order = value.args
    elif isinstance(value, _Reconstruct):
        _, shape, dtype, column_major, raw = value.state
        order = "F" if column_major else "C"
    else:
        raise BadInput("its cluster_centers_ are not a numpy array")
    if isinstance(raw, _Encode):
        raw = raw.args[0]
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if _kind(dtype) not in ("f4", "f8"):
        raise BadInput(f"its centroids are {_kind(dtype)}, not float32 or float64")
    return np.frombuffer(raw, np.dtype(dtype.state[1] + _kind(dtype))).reshape(shape, order=order)


def _kind(dtype: Any) -> str:
    """A plain number type by numpy's short name, such as "f4"."""
    if not isinstance(dtype, _Dtype) or not re.fullmatch(r"[biuf][1248]", str(dtype.args[0])):
        raise BadInput("an array in it is not of plain numbers")
    return str(dtype.args[0])


def _itemsize(dtype: Any) -> int:
    return int(_kind(dtype)[1:])
