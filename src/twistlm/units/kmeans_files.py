"""Centroids as others keep them, told apart by their first bytes; nothing in any of the files is run.

- scikit-learn's KMeans and MiniBatchKMeans by `joblib.dump` or `pickle.dump`, compressed or not (`kmeans_pickle`);
- `.npy` of an array [K, D];
- a flat FAISS index (`IndexFlatL2`, what `faiss.write_index` makes of `Kmeans.index`);
- `.pt` of torch, with one table [K, D] in it;
- `.safetensors` as written here.

Shapes: K centroids of D dimensions.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput, offenders
from twistlm.files.pickles import DAMAGED
from twistlm.files.regular import open_kind, open_regular, read_regular
from twistlm.files.torch_files import Tensor, is_torch, plain, read_torch
from twistlm.units.kmeans import Codebook
from twistlm.units.kmeans_pickle import centroids_of_pickle

_MOST_BYTES = 4 << 30  # 65,535 centroids of 8,192 float64
# Numbers hardly compress: what unpacks to more than so many times its size, and 16 MB, holds something else.
_MOST_RATIO, _SMALL = 20, 16 << 20
_MEMORY = 256 << 20  # of xz

_UNPACK: dict[bytes, Callable[[bytes, int], bytes]] = {
    b"\x1f\x8b": lambda data, most: gzip.GzipFile(fileobj=io.BytesIO(data)).read(most),
    b"BZh": lambda data, most: bz2.BZ2File(io.BytesIO(data)).read(most),
    b"\xfd7zXZ\0": lambda data, most: lzma.LZMADecompressor(memlimit=_MEMORY).decompress(data, most),
    b"]\0\0": lambda data, most: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY).decompress(data, most),
    **{
        begin: lambda data, most: zlib.decompressobj().decompress(data, most)
        for begin in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
    },
}


def read_kmeans(path: str | Path) -> Codebook:
    """Read the centroids of a k-means that somebody fitted, in any of the forms above.

    Args:
        path: the file, usually `km.bin`.

    Returns:
        The codebook; float64 centroids are rounded to float32.

    Raises:
        BadInput: no file, none of these forms, damaged, more than a k-means needs, or no usable centroids.
    """
    path = Path(path)
    with open_kind(path, "the file of a k-means' centroids") as file:
        begin = file.read(8)
    try:
        if path.suffix == ".safetensors":
            return Codebook.load(path)
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput("it is larger than any codebook")
        centroids = np.asarray(_read(path, begin))
        if centroids.dtype.kind != "f" or centroids.dtype.itemsize > 8:
            raise BadInput(f"its centroids are {centroids.dtype}, not float32 or float64")
        if centroids.ndim != 2 or not 2 <= len(centroids) <= 65_535 or not np.isfinite(centroids).all():
            raise BadInput(f"its centroids, of shape {centroids.shape}, are not a finite table [K >= 2, D]")
    except BadInput as error:
        raise BadInput(
            f"{path} was not read as a k-means: {error}. Nothing in it was run. Get the file from its publisher "
            "and compare its sha256; or save the centroids with numpy.save where you trust it."
        ) from error
    except (*DAMAGED, lzma.LZMAError, zlib.error, OSError) as error:
        raise BadInput(
            f"{path} was not read as a k-means: it is no whole pickle, .npy, .pt or FAISS index "
            f"({type(error).__name__}: {str(error)[:200]}). Fetch it again, or save it again with joblib.dump."
        ) from error
    return Codebook(np.ascontiguousarray(centroids, dtype=np.float32))


def _read(path: Path, begin: bytes) -> NDArray[Any]:
    if begin.startswith(b"\x93NUMPY"):
        return _npy(path)
    if begin[:2] == b"Ix":
        return _faiss(path)
    if is_torch(path):
        return _torch(path)
    if begin.startswith(b"version "):
        raise BadInput("it is a pointer of Git LFS, not the file: run `git lfs pull`")
    data = read_regular(path, "a k-means")
    for magic, unpack in _UNPACK.items():
        if begin.startswith(magic):
            most = min(_MOST_BYTES, max(_SMALL, _MOST_RATIO * len(data)))
            data = unpack(data, most + 1)
            if len(data) > most:
                raise BadInput(f"it unpacks to more than {most >> 20} MB")
            break
    return centroids_of_pickle(data)


def _npy(path: Path) -> NDArray[Any]:
    with open_regular(path) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise BadInput(f"it is of version {version} of the format, which plain numbers do not need")
        shape, column_major, dtype = read[version](file)
        if dtype.hasobject or dtype.fields:
            raise BadInput("it does not hold plain numbers")
        if math.prod(shape) * dtype.itemsize != path.stat().st_size - file.tell():
            raise ValueError("its length is not that of its shape")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if column_major else "C")


def _faiss(path: Path) -> NDArray[Any]:
    data = read_regular(path, "a k-means")
    kind = data[:4].decode("latin1")
    if kind not in ("IxF2", "IxFI", "IxFl"):
        raise BadInput(f"it is a FAISS index of the kind {kind!r}; read are flat ones, whose vectors are the centroids")
    dim, total, _, _, _, metric = struct.unpack_from("<iqqq?i", data, 4)
    if metric != 1:
        raise BadInput("it compares by another distance than the Euclidean one")
    at = 4 + struct.calcsize("<iqqq?i")
    (count,) = struct.unpack_from("<Q", data, at)
    if dim < 1 or total < 0 or count != dim * total or at + 8 + 4 * count != len(data):
        raise ValueError("its length is not that of its vectors")
    return np.frombuffer(data, "<f4", count, at + 8).reshape(total, dim)


def _torch(path: Path) -> NDArray[Any]:
    found: list[tuple[str, NDArray[Any]]] = []
    todo: list[tuple[str, Any]] = [("", read_torch(path))]
    seen: set[int] = set()
    while todo and len(seen) < 100_000:
        name, value = todo.pop()
        value = plain(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            array = value.array()
            if array.ndim == 2 and array.dtype.kind == "f":
                found.append((name or "the tensor", array))
        elif isinstance(value, dict):
            todo += [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            todo += [(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    if len(found) != 1:
        names = offenders([f"{name[:99]} {array.shape}" for name, array in found])
        raise BadInput(f"it should hold one table of numbers, and holds {len(found)}{': ' if found else ''}{names}")
    return found[0][1]
