"""Cutting on a Ray cluster: actors cut the clips, and this process alone plans and writes, as on one machine.

`tokenize` is the same but for who cuts. So the shards have the same names and the same bytes, wherever the clips were
cut (by processors that round alike); a worker that is killed costs its work item, which another cuts again; and a
driver or a cluster that is killed costs what was in no shard yet, which a rerun does.

Why actors and not Ray Data: what is wanted is one ordered stream of rows for one writer, while a dataset's sink numbers
and groups its files in its own way; and a clip that kills its worker must be found and named, while Ray Data cuts its
block again for ever. Scaling is left to Ray: an actor that finds no room waits, and an autoscaling cluster adds a node.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from typing import Any

from twistlm.compute.devices import device
from twistlm.compute.threads import cores
from twistlm.corpus.cutting import Failure, Movable, Portable, Tokenizer, cut
from twistlm.corpus.manifest import Entry
from twistlm.corpus.shards import Row
from twistlm.errors import TwistError

_ITEM_CLIPS = 32  # of a work item: what is cut again at most when a worker is killed …
_ITEM_SECONDS = 1200.0  # … where the manifest says how long they are
_GPU_ITEMS = 64  # times as large for a GPU, which cuts half an hour of sound in a second
_GPU_IN_FLIGHT = 2  # items that a GPU's worker has, so that it never waits for the next
# … of one inside one archive, whose table is read for each item, and which is fetched for each from behind a URL.
_ARCHIVE_CLIPS = 512
_AHEAD = 4  # items a worker that may be under way or done before the row that is written next
_TRIES = 3  # deaths of workers before an item is cut clip by clip, and before a clip is given up


def cut_on_ray(
    entries: Sequence[Entry], tok: Tokenizer, *, address: str, workers: int | None = None
) -> Generator[Row | Failure]:
    """Cut clips as `corpus.cutting.cut` does, on a Ray cluster: give it to `tokenize` as its `cutter`.

    Each worker is an actor with its own copy of `tok` and one core; where the cluster has GPUs, one of them and its
    share of all cores, which decode for it. A
    `SpeechTokenizer` is sent as its name or folder and loaded there; its spec must be the one here. All workers must
    see that folder and the sound files under the same paths (or URLs, with what it takes to log in there), and have the
    same versions of twistlm and torch, of which units are made. A clip whose worker dies when it is cut alone, again
    and again, becomes a failure.

    Args:
        entries: what to cut; clips of one archive should come together.
        tok: the tokenizer; what makes it is sent to the cluster once.
        address: of the cluster, as `ray.init` takes it ("auto", "10.0.0.1:6379", "ray://…"), or "local" for one of its
            own on this machine.
        workers: actors asked for; None for one for each GPU that the cluster has now, or else each core.

    Raises:
        TwistError: Ray is not installed, there is no such cluster, or a worker has other versions.
    """
    if not entries:
        return
    here = [dataclasses.replace(entry, path=entry.path.absolute()) for entry in entries]  # workers stand elsewhere
    with _cluster(address) as cluster:
        has = cluster.cluster_resources()
        n_gpus = int(has.get("GPU", 0))
        n_workers = workers or max(1, n_gpus or int(has.get("CPU", 1)))
        n_cores = max(1, int(has.get("CPU", 1)) // n_gpus) if n_gpus else 1
        make = tok.portable() if isinstance(tok, Portable) else _Itself(tok)
        try:
            shared = cluster.put(make)
        except (pickle.PicklingError, RuntimeError, TypeError, AttributeError) as error:
            raise TwistError(f"{address}: the tokenizer cannot be sent to other processes: {error}") from error
        actor = cluster.remote(num_cpus=n_cores, num_gpus=1 if n_gpus else 0, max_restarts=-1)(_Cutter)
        actors = [actor.remote(shared) for _ in range(n_workers)]
        try:
            large, in_flight = (_GPU_ITEMS, _GPU_IN_FLIGHT) if n_gpus else (1, 1)
            yield from _rows(cluster, actors, here, address, large=large, in_flight=in_flight)
        finally:
            for each in actors:
                cluster.kill(each)


@dataclasses.dataclass(frozen=True)
class _Itself:
    tok: Tokenizer

    def __call__(self) -> Tokenizer:
        return self.tok


class _Cutter:
    def __init__(self, make: Callable[[], Tokenizer]) -> None:
        self.make = make

    @cached_property
    def tok(self) -> Tokenizer:
        """Made with the first clips, whose answer carries the error if it cannot be."""
        tok = self.make()
        return tok.on(device()) if isinstance(tok, Movable) else tok

    def versions(self) -> dict[str, str]:
        return _versions()

    def cut(self, entries: Sequence[Entry]) -> list[Row | Failure]:
        return list(cut(entries, self.tok))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("twistlm", "torch")}


def _rows(
    cluster: Any, actors: Sequence[Any], entries: Sequence[Entry], address: str, *, large: int = 1, in_flight: int = 1
) -> Iterator[Row | Failure]:
    """Yield a row or a failure for each entry, in their order. An item is a range of entries, the first goes first.

    A worker has up to `in_flight` items; one that a worker died with is given alone, so that no other is blamed for it.
    """
    items = _items(entries, large)
    heapq.heapify(items)
    deaths: Counter[tuple[int, int]] = Counter()
    done: dict[int, Row | Failure] = {}
    # An actor is given work when it answers: one that waits for a machine, or is being restarted, holds none up.
    asked = {_ask(actor): actor for actor in actors}
    # A call -> its worker, its item and the worker's items in the order they were given, the first under way.
    busy: dict[Any, tuple[Any, tuple[int, int], list[tuple[int, int]]]] = {}
    has: dict[int, list[tuple[int, int]]] = {}  # worker -> its items, of those that have answered
    waited: set[tuple[int, int]] = set()  # items that a dead worker had not begun
    by_id = {id(actor): actor for actor in actors}

    def worker_for(item: tuple[int, int]) -> Any:
        """The least busy worker that may take the item; None where there is none now."""
        most = 0 if deaths[item] else in_flight - 1
        free = [i for i, own in has.items() if len(own) <= most and not any(deaths[each] for each in own)]
        return by_id[min(free, key=lambda i: len(has[i]))] if free else None

    n_yielded = 0
    while n_yielded < len(entries):
        while items and items[0][0] <= n_yielded + _AHEAD * len(actors) * large * _ITEM_CLIPS:
            if (worker := worker_for(items[0])) is None:
                break
            item = heapq.heappop(items)
            has[id(worker)].append(item)
            busy[worker.cut.remote(entries[slice(*item)])] = worker, item, has[id(worker)]
        [ref], _ = cluster.wait([*asked, *busy])
        if ref in asked:
            _check(cluster, ref, address)
            has[id(asked.pop(ref))] = []
            continue
        worker, item, mine = busy.pop(ref)
        try:
            made = cluster.get(ref)
            mine.remove(item)
        except cluster.exceptions.RayTaskError as error:
            raise error.cause from error
        except cluster.exceptions.RayError as error:  # the worker died, or its node
            if has.get(id(worker)) is mine:  # the first of its items to say so
                del has[id(worker)]
                asked[_ask(worker)] = worker
                waited.update(mine[1:])
            if item in waited:
                waited.remove(item)
            else:
                deaths[item] += 1
            if deaths[item] < _TRIES:
                heapq.heappush(items, item)
                continue
            start, stop = item
            if stop - start > 1:
                for at in range(start, stop):
                    heapq.heappush(items, (at, at + 1))
                continue
            made = [_given_up(entries[start], error)]
        done.update(zip(range(*item), made, strict=True))
        while n_yielded in done:
            yield done.pop(n_yielded)
            n_yielded += 1


def _items(entries: Sequence[Entry], large: int = 1) -> list[tuple[int, int]]:
    """Share out entries into ranges (first, one behind the last), `large` times as large as for a core."""
    items, first, seconds = [], 0, 0.0
    for at, entry in enumerate(entries):
        one_archive = at > first and bool(entry.member) and entry.path == entries[first].path
        clips = large * (_ARCHIVE_CLIPS if one_archive else _ITEM_CLIPS)
        if at - first >= clips or seconds >= large * _ITEM_SECONDS:
            items.append((first, at))
            first, seconds = at, 0.0
        seconds += entry.seconds or 0.0
    return [*items, (first, len(entries))]


def _ask(actor: Any) -> Any:
    return actor.versions.options(max_task_retries=-1).remote()


def _check(cluster: Any, ref: Any, address: str) -> None:
    try:
        there = cluster.get(ref)
    except cluster.exceptions.RayError as error:
        raise TwistError(
            f"{address}: a worker could not begin: {error}. Is twistlm installed on every machine of the cluster?"
        ) from error
    if there != _versions():
        raise TwistError(
            f"{address}: a worker has {there}, this process {_versions()}: units would not be the same everywhere. "
            "Install the same versions on every machine of the cluster."
        )


def _given_up(entry: Entry, error: Exception) -> Failure:
    return Failure(
        id=entry.id,
        path=f"{entry.path}{entry.part}",
        error=f"{entry.path}{entry.part}: {_TRIES} workers died while they cut it alone ({type(error).__name__}): it "
        "crashes its decoder, or needs more memory than a worker has. Convert it again, or leave it out.",
    )


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster, or begin one, unless this process is connected already; disconnect in the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone who was not asked about it
    try:
        import ray
    except ImportError as error:
        raise TwistError("cutting on many machines needs Ray: pip install 'twistlm[ray]'.") from error
    own = not ray.is_initialized()
    if own:
        local: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TwistError(
                f"{address}: no Ray cluster there ({error}). Begin one with `ray start --head`, or use --ray local."
            ) from error
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()
