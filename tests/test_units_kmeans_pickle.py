"""Reading published k-means: what scikit-learn and joblib write comes back exactly; a hostile file runs nothing."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans

from twistlm.errors import BadInput
from twistlm.units.kmeans import Codebook
from twistlm.units.kmeans_files import read_kmeans


def fitted(kind=MiniBatchKMeans, dtype=np.float32):
    frames = np.random.default_rng(0).standard_normal((200, 6)).astype(dtype)
    return kind(5, n_init=1, random_state=np.random.RandomState(0)).fit(frames)


def dumped(model, how, protocol):
    file = io.BytesIO()
    how(model, file, protocol=protocol)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("how", [joblib.dump, pickle.dump])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centroids_are_those_of_the_estimator(kind, how, protocol, dtype, tmp_path):
    model = fitted(kind, dtype)
    (tmp_path / "km.bin").write_bytes(dumped(model, how, protocol))
    book = read_kmeans(tmp_path / "km.bin")
    assert book.centroids.dtype == np.float32
    assert np.array_equal(book.centroids, model.cluster_centers_.astype(np.float32))
    frames = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
    assert np.array_equal(book.assign(frames), np.asarray(model.predict(frames.astype(dtype))))


@pytest.mark.parametrize("how", [joblib.dump, pickle.dump])
def test_column_major_centroids(how, tmp_path):
    model = fitted()
    model.cluster_centers_ = np.asfortranarray(model.cluster_centers_)
    (tmp_path / "km.bin").write_bytes(dumped(model, how, 4))
    assert np.array_equal(read_kmeans(tmp_path / "km.bin").centroids, model.cluster_centers_)


@pytest.mark.parametrize("how", [joblib.dump, pickle.dump])
def test_names_of_older_versions(how, tmp_path):
    # Length-preserving renames, as scikit-learn and numpy wrote them when the published codebooks were made.
    data = dumped(fitted(), how, 3)
    for now, then in ((b"sklearn.cluster._kmeans", b"sklearn.cluster.k_means_"), (b"numpy._core.", b"numpy.core.")):
        data = data.replace(now, then)  # protocol 3 ends these names with a newline, so lengths are free
    (tmp_path / "km.bin").write_bytes(data)
    assert np.array_equal(read_kmeans(tmp_path / "km.bin").centroids, fitted().cluster_centers_)


def test_a_codebook_rewritten_as_safetensors_is_the_same(tmp_path):
    joblib.dump(fitted(), tmp_path / "km.bin")
    book = read_kmeans(tmp_path / "km.bin")
    book.save(tmp_path / "codebook.safetensors")
    assert Codebook.load(tmp_path / "codebook.safetensors").sha256 == book.sha256


class Touch:
    """Unpickled by an ordinary unpickler, it creates a file."""

    def __init__(self, path, call):
        self.path, self.call = str(path), call

    def __reduce__(self):
        return {
            "open": (open, (self.path, "w")),
            "exec": (exec, (f"open({self.path!r}, 'w')",)),
            "eval": (eval, (f"open({self.path!r}, 'w')",)),
        }[self.call]


def hostile(marker):
    """(how to read it the ordinary way, bytes) of files that create `marker` when they are."""
    for call in ("open", "exec", "eval"):
        touch = Touch(marker, call)
        model = fitted()
        model.random_state = touch
        inside_an_array = fitted()
        inside_an_array.cluster_centers_ = np.array([touch, touch], dtype=object)
        for protocol in (2, 4, 5):
            yield pickle.loads, pickle.dumps(touch, protocol)
            yield pickle.loads, pickle.dumps({"cluster_centers_": touch}, protocol)
            yield pickle.loads, pickle.dumps(model, protocol)
            yield pickle.loads, pickle.dumps(inside_an_array, protocol)
            # joblib keeps an array of objects as a pickle of its own behind the wrapper
            yield lambda data: joblib.load(io.BytesIO(data)), dumped(inside_an_array, joblib.dump, protocol)
    yield pickle.loads, f"cbuiltins\nopen\n(S{str(marker)!r}\nS'w'\ntR.".encode()
    # As an old INST opcode, and behind a valid k-means that is then thrown away.
    yield pickle.loads, f"(S{str(marker)!r}\nS'w'\nibuiltins\nopen\n.".encode()
    yield pickle.loads, pickle.dumps(fitted(), 3)[:-1] + f"0cbuiltins\nopen\n(S{str(marker)!r}\nS'w'\ntR.".encode()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_hostile_file_is_refused_and_nothing_in_it_runs(tmp_path):
    marker, file = tmp_path / "it-ran", tmp_path / "km.bin"
    for ordinarily, data in hostile(marker):
        ordinarily(data)
        assert marker.exists()  # otherwise this test would prove nothing
        marker.unlink()
        file.write_bytes(data)
        with pytest.raises(BadInput, match=r"not read as a k-means.*Nothing in it was run"):
            read_kmeans(file)
        assert not marker.exists()


def test_a_refused_module_is_not_even_imported(tmp_path):
    assert "antigravity" not in sys.modules  # the standard library's joke, which opens a browser when imported
    (tmp_path / "km.bin").write_bytes(b"cantigravity\nfly\n.")
    with pytest.raises(BadInput, match=r"asks for antigravity\.fly"):
        read_kmeans(tmp_path / "km.bin")
    assert "antigravity" not in sys.modules


def test_numpy_and_scikit_learn_code_does_not_run_either(tmp_path, monkeypatch):
    joblib.dump(fitted(), tmp_path / "km.bin")
    monkeypatch.setattr(MiniBatchKMeans, "__setstate__", lambda *_: pytest.fail("scikit-learn code ran"))
    with pytest.raises(pytest.fail.Exception):
        joblib.load(tmp_path / "km.bin")
    assert read_kmeans(tmp_path / "km.bin").n_units == 5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: delattr(m, "cluster_centers_"), "not a fitted"),
        (lambda m: setattr(m, "cluster_centers_", 3), "not a numpy array"),
        (lambda m: setattr(m, "cluster_centers_", np.full((5, 6), np.nan)), "not a finite table"),
        (lambda m: setattr(m, "cluster_centers_", np.zeros(6)), "not a finite table"),
        (lambda m: setattr(m, "cluster_centers_", np.zeros((5, 6), np.int64)), "not float32 or float64"),
    ],
)
@pytest.mark.parametrize("how", [joblib.dump, pickle.dump])
def test_unusable_centroids_are_named(change, match, how, tmp_path):
    model = fitted()
    change(model)
    (tmp_path / "km.bin").write_bytes(dumped(model, how, 4))
    with pytest.raises(BadInput, match=match):
        read_kmeans(tmp_path / "km.bin")


def test_other_files_are_named(tmp_path):
    pickled = tmp_path / "km.bin"
    pickled.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(BadInput, match="not a fitted KMeans"):
        read_kmeans(pickled)


@given(st.sampled_from([joblib.dump, pickle.dump]), st.sampled_from([2, 3, 4, 5]), st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.thorough
def test_a_damaged_file_gives_a_codebook_or_a_named_error(how, protocol, data):
    whole = bytearray(DUMPS[how, protocol])
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    SCRATCH.write_bytes(whole[:cut])
    with contextlib.suppress(BadInput):
        assert read_kmeans(SCRATCH).centroids.ndim == 2


DUMPS = {
    (how, protocol): dumped(fitted(), how, protocol) for how in (joblib.dump, pickle.dump) for protocol in (2, 3, 4, 5)
}


@pytest.fixture(scope="module", autouse=True)
def _scratch(tmp_path_factory):
    global SCRATCH
    SCRATCH = tmp_path_factory.mktemp("fuzz") / "km.bin"
