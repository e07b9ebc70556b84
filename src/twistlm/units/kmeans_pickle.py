"""Published k-means: scikit-learn pickles, plain or by joblib, read without running anything that is in them.

A pickle is a program: it names functions and calls them. Here each of the few names a k-means pickle needs stands for
a `Record` (`files.pickles`), which only keeps what it is given; every other name is refused. So neither numpy nor
scikit-learn code runs, whatever version wrote the file, and the centroids are cut out of the records afterwards.

joblib writes the pickle of a small wrapper in place of each array and the array's bytes right behind it, in the same
file; `pickle` alone cannot read that.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.files.pickles import Record, Restricted


class _KMeans(Record): ...


class _Dtype(Record): ...


class _Reconstruct(Record):
    """numpy's array by protocols 2 to 4: state is (version, shape, dtype, column-major, bytes)."""


class _FromBuffer(Record):
    """numpy's array by protocol 5: arguments are (bytes, dtype, shape, order)."""


class _Encode(Record):
    """How protocol 2 writes bytes: arguments are (text, "latin1")."""


class _JoblibArray(Record):
    """joblib's wrapper; `raw` are the bytes behind it."""

    raw = b""


_NAMES: dict[tuple[str, str], type[Record]] = {
    **{
        (f"sklearn.cluster.{module}", name): _KMeans
        for module in ("_kmeans", "k_means_")
        for name in ("KMeans", "MiniBatchKMeans")
    },
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Record for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): Record,
    ("_codecs", "encode"): _Encode,
    # The generator a k-means was seeded with.
    ("numpy.random", "__RandomState_ctor"): Record,
    ("numpy.random._pickle", "__randomstate_ctor"): Record,
    ("numpy.random._pickle", "__bit_generator_ctor"): Record,
    ("numpy.random._mt19937", "MT19937"): Record,
    ("numpy.random._pcg64", "PCG64"): Record,
    # A generator that partial_fit keeps between its calls, and what numpy 2 keeps of its seed.
    ("numpy.random._pickle", "__generator_ctor"): Record,
    ("numpy.random.bit_generator", "SeedSequence"): Record,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): Record,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
}


class _Unpickler(Restricted):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)

        class JoblibArray(_JoblibArray):
            def __setstate__(self, state: Any) -> None:
                super().__setstate__(state)
                if state.get("numpy_array_alignment_bytes") is not None:
                    stream.read(stream.read(1)[0])
                size = _itemsize(state["dtype"]) * math.prod(_shape(state["shape"]))
                self.raw = stream.read(max(0, size))

        self._joblib_array = JoblibArray

    def find_class(self, module: str, name: str, /) -> type[Record]:
        if (module, name) not in _NAMES:
            raise BadInput(f"it asks for {module[:99]}.{name[:99]}, which no k-means needs")
        stands_in = _NAMES[module, name]
        return self._joblib_array if stands_in is _JoblibArray else stands_in


def centroids_of_pickle(data: bytes) -> NDArray[np.floating]:
    """The centroids of a scikit-learn KMeans or MiniBatchKMeans, by protocols 2 to 5: float32 or float64 [K, D].

    Raises:
        BadInput: the file names anything but a k-means and numpy arrays, or holds no centroids.
        One of `files.pickles.DAMAGED`: it does not follow the format.
    """
    found = _Unpickler(io.BytesIO(data)).load()
    if not isinstance(found, _KMeans) or not isinstance(found.state, dict) or "cluster_centers_" not in found.state:
        raise BadInput("what it holds is not a fitted KMeans or MiniBatchKMeans")
    return _array(found.state["cluster_centers_"])


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
    if dtype.state[1] not in ("<", ">", "=", "|") or order not in ("C", "F"):
        raise BadInput("its centroids are not a plain array")
    return np.frombuffer(raw, np.dtype(dtype.state[1] + _kind(dtype))).reshape(_shape(shape), order=order)


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**40 for n in shape) or len(shape) > 8:
        raise BadInput("an array in it has no plain shape")
    return shape


def _kind(dtype: Any) -> str:
    """A plain number type by numpy's short name, such as "f4"."""
    # Text alone is looked at: writing out what a hostile file nests may not end.
    said = dtype.args[0] if isinstance(dtype, _Dtype) and dtype.args else None
    if not isinstance(said, str) or not re.fullmatch(r"[biuf][1248]", said):
        raise BadInput("an array in it is not of plain numbers")
    return said


def _itemsize(dtype: Any) -> int:
    return int(_kind(dtype)[1:])
