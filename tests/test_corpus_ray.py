"""Cutting on a cluster: rows in order, each clip once, whoever dies; and a clip that kills its workers is found."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from encoders import NAMES, encoder_state, stand_in
from test_units_batch import tokenizer
from tokenizer_standins import FakeTokenizer, sound
from twistlm.corpus import ray as module
from twistlm.corpus.cutting import Failure, cut
from twistlm.corpus.manifest import Entry, load
from twistlm.corpus.ray import cut_on_ray
from twistlm.corpus.shards import shard_paths
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput, TwistError
from twistlm.units.folder import save_tokenizer
from twistlm.units.tokenizer import SpeechTokenizer


class Died(Exception):
    """An actor or its node is gone."""


class Raised(Exception):
    cause = TwistError("the worker's own error")


class FakeCluster:
    """Ray as far as `cut_on_ray` uses it, in one thread: calls end in random order, workers die by chance or on a clip.

    A dead worker is back at the next question, as an actor that is restarted is.
    """

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=Raised)

    def __init__(self, *, seed: int, mortality: float = 0.0, poison: str = "", gpus: float = 0.0) -> None:
        self.gpus = gpus
        self.rng, self.mortality, self.poison = random.Random(seed), mortality, poison
        self.calls: dict[int, Any] = {}
        self.ids = itertools.count()
        self.n_deaths = self.n_killed = 0

    def remote(self, **_: Any) -> Any:
        return lambda kind: SimpleNamespace(remote=lambda sent: self._actor(kind(pickle.loads(sent))))

    def _actor(self, worker: Any) -> Any:
        versions = SimpleNamespace(remote=lambda: self._call(worker.versions))
        return SimpleNamespace(
            versions=SimpleNamespace(options=lambda **_: versions),
            cut=SimpleNamespace(remote=lambda entries: self._call(self._sent(worker, pickle.dumps(entries)))),
        )

    def _sent(self, worker: Any, entries: bytes) -> Any:
        return lambda: pickle.loads(pickle.dumps(self._cut(worker, pickle.loads(entries))))

    def _cut(self, worker: Any, entries: list[Entry]) -> Any:
        if any(entry.id == self.poison for entry in entries) or self.rng.random() < self.mortality:
            self.n_deaths += 1
            raise Died
        return worker.cut(entries)

    def _call(self, what: Any) -> int:
        ref = next(self.ids)
        self.calls[ref] = what
        return ref

    def wait(self, refs: list[int]) -> tuple[list[int], list[int]]:
        return [self.rng.choice(refs)], []

    def get(self, ref: int) -> Any:
        return self.calls.pop(ref)()

    def put(self, value: Any) -> Any:
        return pickle.dumps(value)  # as Ray does: what has no bytes cannot be sent

    def kill(self, actor: Any) -> None:
        self.n_killed += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0, "GPU": self.gpus}


def on(cluster: FakeCluster, **options: Any) -> Any:
    """`cut_on_ray` on the fake."""

    def cutter(entries: Any, tok: Any) -> Any:
        context = mock.MagicMock(__enter__=lambda _: cluster, __exit__=lambda *_: None)
        with mock.patch.object(module, "_cluster", lambda address: context):
            yield from cut_on_ray(entries, tok, address="fake", **options)

    return cutter


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = tmp_path_factory.mktemp("speech")
    for i in range(40):
        sound(folder / f"{i:02d}.wav", i)
    (folder / "17.wav").write_text("no sound")
    return load(folder)


@pytest.mark.parametrize("mortality", [0.0, 0.2])
def test_shards_and_failures_are_those_of_one_machine(
    speech: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mortality: float
) -> None:
    monkeypatch.setattr(module, "_ITEM_CLIPS", 3)
    monkeypatch.setattr(module, "_TRIES", 100)
    cluster = FakeCluster(seed=0, mortality=mortality)
    tokenize(speech, tmp_path / "one", FakeTokenizer(), shard_clips=7, max_failures=0.1)
    report = tokenize(
        speech, tmp_path / "many", FakeTokenizer(), shard_clips=7, max_failures=0.1, cutter=on(cluster, workers=4)
    )
    assert (report.n_done, [f.id for f in report.failures]) == (39, ["17.wav"])
    assert (cluster.n_deaths > 0) == (mortality > 0) and cluster.n_killed == 4
    one, many = ({p.name: p.read_bytes() for p in shard_paths(tmp_path / name)} for name in ("one", "many"))
    assert one == many and len(one) == 6
    assert (tmp_path / "one/failures.jsonl").read_text() == (tmp_path / "many/failures.jsonl").read_text()
    with pytest.raises(TwistError, match="1 of 40 clips"):
        tokenize(speech, tmp_path / "many", FakeTokenizer(), cutter=on(cluster))
    assert {p.name: p.read_bytes() for p in shard_paths(tmp_path / "many")} == many  # a rerun adds nothing


@pytest.mark.parametrize("gpus", [0.0, 2.0])
def test_a_clip_that_kills_its_workers_is_named_and_its_neighbours_are_cut(
    speech: list[Entry], gpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs, whose workers have two items, what waited behind the clip is not blamed for it."""
    monkeypatch.setattr(module, "_GPU_ITEMS", 1)
    monkeypatch.setattr(module, "_ITEM_CLIPS", 32 if not gpus else 4)
    cluster = FakeCluster(seed=1, poison="08.wav", gpus=gpus)
    rows = list(on(cluster)(speech, FakeTokenizer()))
    assert len(rows) == 40 and cluster.n_deaths == 2 * module._TRIES
    failed = {row.id: row.error for row in rows if isinstance(row, Failure)}
    assert failed.keys() == {"08.wav", "17.wav"}
    assert "08.wav: 3 workers died while they cut it alone (Died)" in failed["08.wav"]


def test_an_error_of_a_worker_is_raised_as_it_was_and_other_versions_are_refused(
    speech: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(seed=0)
    monkeypatch.setattr(cluster, "_cut", mock.Mock(side_effect=Raised))
    with pytest.raises(TwistError, match="the worker's own error"):
        list(on(cluster)(speech, FakeTokenizer()))
    cluster = FakeCluster(seed=0)
    monkeypatch.setattr(module._Cutter, "versions", lambda self: {"twistlm": "0.0", "torch": "1.0"})
    with pytest.raises(TwistError, match=r"a worker has \{'twistlm': '0.0'.*Install the same versions"):
        list(on(cluster)(speech, FakeTokenizer()))


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.floats(0, 700)), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_items_are_a_disjoint_cover_in_order(clips: list[tuple[str, float]]) -> None:
    entries = [
        Entry(id=str(i), path=Path(f"{tar}.tar"), member=tar and str(i), seconds=s) for i, (tar, s) in enumerate(clips)
    ]
    with mock.patch.object(module, "_ITEM_CLIPS", 4):
        items = module._items(entries)
    assert [i for first, stop in items for i in range(first, stop)] == list(range(len(entries)))
    for first, stop in items:
        assert sum(entry.seconds or 0 for entry in entries[first : stop - 1]) < module._ITEM_SECONDS
        assert (
            stop - first <= 4 or len({entry.path for entry in entries[first + 4 : stop]} | {entries[first].path}) == 1
        )


def test_without_ray_the_extra_is_named_and_with_nothing_to_do_it_is_not_needed(
    speech: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(cut_on_ray([], FakeTokenizer(), address="local")) == []
    with pytest.raises(TwistError, match=r"pip install 'twistlm\[ray\]'"):
        list(cut_on_ray(speech, FakeTokenizer(), address="local"))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_sent_by_its_folder(name: str, speech: list[Entry], tmp_path: Path) -> None:
    """Weight norms do not pickle, so hubert, wavlm and wav2vec 2.0 cannot be sent as they are."""
    made = tokenizer(name)
    model, fields = stand_in(name)
    spec = save_tokenizer(
        tmp_path / "tok", name=name, encoder_config=fields,
        encoder_weights=save({n: t.contiguous() for n, t in encoder_state(model).items()}), layer=made.spec.layer,
        codebook=made.codebook, normalize_input="large" in name, sample_rate=16_000, hop=made.spec.hop, card="",
    )  # fmt: skip
    tok = SpeechTokenizer.load(tmp_path / "tok")
    here, there = list(cut(speech[:2], tok)), list(on(FakeCluster(seed=0))(speech[:2], tok))
    assert [row.units.ids.tolist() for row in there] == [row.units.ids.tolist() for row in here]
    assert there[0].units.spec == spec and len(there[0].units) > 2
    if name == "hubert-base":
        with pytest.raises(RuntimeError, match="parametrized"):
            pickle.dumps(tok)
        with pytest.raises(BadInput, match="made in memory"):
            list(on(FakeCluster(seed=0))(speech[:2], made))
        for name_ in ("spec.json", "encoder.json"):
            (tmp_path / "tok" / name_).rename(tmp_path / "tok" / f"away-{name_}")
            with pytest.raises(TwistError, match=r"on the worker .*Every worker must see"):
                list(on(FakeCluster(seed=0))(speech[:2], tok))
            (tmp_path / "tok" / f"away-{name_}").rename(tmp_path / "tok" / name_)
        changed = dataclasses.replace(spec, padding=40)
        (tmp_path / "tok" / "spec.json").write_text(changed.to_json())
        with pytest.raises(TwistError, match="padding is 0 in the tokenizer here and 40"):
            list(on(FakeCluster(seed=0))(speech[:2], tok))


@pytest.mark.slow
def test_twist_tokenize_on_a_cluster_of_its_own_makes_the_same_shards(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'twistlm[ray]'")
    entries = load(Path(__file__).parents[1] / "assets" / "speech")[:50]
    from twistlm.corpus.manifest import write

    write([dataclasses.replace(entry, path=entry.path.absolute()) for entry in entries], tmp_path / "manifest.jsonl")
    twist = [sys.executable, "-c", "from twistlm.cli.main import main; main()", "tokenize", tmp_path / "manifest.jsonl"]
    facts = []
    for name, options in (("one", []), ("many", ["--ray", "local", "--ray-workers", "2"])):
        run = subprocess.run(
            [*twist, "--out", tmp_path / name, "--json", *options], capture_output=True, text=True, check=True
        )
        facts.append(json.loads(run.stdout) | {"units": ""})
    assert facts[0] == facts[1] and facts[0]["done"] == 50
    one, many = ({p.name: p.read_bytes() for p in shard_paths(tmp_path / name)} for name in ("one", "many"))
    assert one == many
