"""The forms centroids come in: each gives the same numbers; bombs of every kind end soon, and nothing runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from test_units_kmeans_pickle import Touch, fitted
from twistlm.errors import BadInput
from twistlm.units.kmeans import Codebook
from twistlm.units.kmeans_files import read_kmeans

TABLE = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)


def flat_index(table: np.ndarray, *, kind: bytes = b"IxF2", metric: int = 1) -> bytes:
    """What faiss.write_index makes of an IndexFlatL2 with these vectors (compared with faiss 1.15)."""
    k, d = table.shape
    head = struct.pack("<4siqqq?i", kind, d, k, 1 << 20, 1 << 20, True, metric)
    return head + struct.pack("<Q", k * d) + table.astype("<f4").tobytes()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def torched(value: object, **how: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def tensors() -> dict[str, object]:
    table = torch.from_numpy(TABLE)
    return {
        "alone": table, "in a dict": {"step": 3, "centroids": table, "sizes": torch.ones(5)},
        "parameter": torch.nn.Parameter(table), "a view": torch.stack([table.T, table.T])[1].T,
        "half": table.half(), "bfloat16": table.bfloat16(), "double": table.double(),
        "module": torch.nn.Embedding.from_pretrained(table).state_dict(),
    }  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", tensors())
def test_torch_files(name, older, tmp_path):
    value = tensors()[name]
    (tmp_path / "c.pt").write_bytes(torched(value, _use_new_zipfile_serialization=not older))
    rounding = {"half": 1e-3, "bfloat16": 1e-2}.get(name, 0)
    np.testing.assert_allclose(read_kmeans(tmp_path / "c.pt").centroids, TABLE, rtol=rounding)


def test_arrays_and_indices(tmp_path):
    file = tmp_path / "c"
    for data in (saved(TABLE), saved(np.asfortranarray(TABLE)), saved(TABLE.astype(">f8")), flat_index(TABLE),
                 flat_index(TABLE, kind=b"IxFI")):  # fmt: skip
        file.write_bytes(data)
        assert np.array_equal(read_kmeans(file).centroids, TABLE)
    Codebook(TABLE).save(tmp_path / "c.safetensors")
    assert np.array_equal(read_kmeans(tmp_path / "c.safetensors").centroids, TABLE)


@pytest.mark.parametrize("how", [3, ("zlib", 9), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_compressed_by_joblib(how, tmp_path):
    joblib.dump(fitted(), tmp_path / "km.bin", compress=how)
    assert np.array_equal(read_kmeans(tmp_path / "km.bin").centroids, fitted().cluster_centers_)


@pytest.mark.parametrize("dump", [joblib.dump, lambda model, path: Path(path).write_bytes(pickle.dumps(model))])
@pytest.mark.parametrize("state", [None, 3, np.random.RandomState(1)])
def test_fitted_by_parts(dump, state, tmp_path):
    """partial_fit keeps the generator, and numpy 2 the sequence that seeded it."""
    model = MiniBatchKMeans(5, random_state=state, n_init=1)
    for seed in range(3):
        model.partial_fit(np.random.default_rng(seed).standard_normal((50, 6)).astype(np.float32))
    dump(model, tmp_path / "km.bin")
    assert np.array_equal(read_kmeans(tmp_path / "km.bin").centroids, model.cluster_centers_)


def bombs() -> dict[str, bytes]:
    zeros = bytes(40 << 20)
    shared = b"\x80\x02" + b")" + b"2\x86" * 60
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"shape": (2**40, 2**20), "fortran_order": False, "descr": "<f8"})
    return {
        "hash of what is shared": b"\x80\x02}K\x01" + b"2\x86" * 60 + b"Ns.",
        "hash of what is deep": b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"Ns.",
        "deep in a set": b"\x80\x04\x8f(" + b")" + b"\x85" * 300_000 + b"\x90.",
        "shared in a frozen set": b"\x80\x04(" + b")" + b"2\x86" * 60 + b"\x91.",
        "deep as a dict's key": b"(" + b")" + b"\x85" * 300_000 + b"Nd.",
        "deep": b"\x80\x02" + b")" + b"\x85" * 300_000 + b".",
        "shared": shared + b".",
        "shared as a type": b"cnumpy\ndtype\n" + shared[2:] + b"\x85R.",
        "many": b"\x80\x02" + b"]" + b"N0" * 600_000 + b".",
        "a long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "long bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "a far memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "a number": b"I" + b"9" * 3_000_000 + b"\n.",
        "zlib": zlib.compress(zeros, 9), "gzip": gzip.compress(zeros, 9), "bz2": bz2.compress(zeros, 9),
        "xz": lzma.compress(zeros), "an array's shape": huge.getvalue(), "an index's": flat_index(TABLE)[:-4],
        "of an index's": struct.pack("<4siqqq?iQ", b"IxF2", 2**30, 2**30, 1, 1, True, 1, 2**60),
    }  # fmt: skip


@pytest.mark.thorough
def test_bombs_end_soon(tmp_path):
    """In a process of its own, with 2 GB: once 200 bytes did not end, and 300,000 killed Python."""
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import resource, sys, time, numpy, twistlm.units.kmeans_files as m\n"
        "from pathlib import Path\n"
        "from twistlm.errors import BadInput\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    begun = time.process_time()\n"
        "    try: m.read_kmeans(path); print('read', path)\n"
        "    except BadInput as error:\n"
        "        assert len(str(error)) < 900, str(error)[:900]\n"
        "    took = time.process_time() - begun\n"
        "    if took > 4: print(took, path)\n"
    )
    begun = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr[-2000:]
    assert time.monotonic() - begun < 100


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (saved(np.zeros((5, 6), np.int64)), "int64, not float"),
        (saved(np.full((5, 6), np.nan)), "not a finite table"),
        (saved(TABLE)[:-1], "length is not that of its shape"),
        (flat_index(TABLE, metric=0), "another distance"),
        (flat_index(TABLE, kind=b"IxPQ"), "kind 'IxPQ'"),
        (flat_index(TABLE)[:-1], "length is not that of its vectors"),
        (torched({"a": torch.ones(3, 4), "b": torch.ones(2, 2)}), "holds 2: .*a"),
        (torched([1, "x"]), "holds 0"),
        (torched(torch.ones(300, 400))[:-9000], "no whole file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n", "git lfs pull"),
        (b"", "no whole pickle"),
    ],
)  # fmt: skip
def test_what_is_no_codebook_is_named(data, match, tmp_path):
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(BadInput, match=match):
        read_kmeans(tmp_path / "c")
    with pytest.raises(BadInput, match="no such file"):
        read_kmeans(tmp_path / "d")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("call", ["open", "exec"])
def test_nothing_in_a_torch_file_runs(call, older, tmp_path):
    marker = tmp_path / "it-ran"
    data = torched({"c": torch.from_numpy(TABLE), "x": Touch(marker, call)}, _use_new_zipfile_serialization=not older)
    torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists()  # otherwise this test would prove nothing
    marker.unlink()
    (tmp_path / "c.pt").write_bytes(data)
    assert np.array_equal(read_kmeans(tmp_path / "c.pt").centroids, TABLE)
    assert not marker.exists()
